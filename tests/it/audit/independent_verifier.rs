//! A second verifier, of other authors: Cloudflare's Rust port of the Go packages that transparency logs are built with. It
//! takes our keys, checkpoints and proofs as they are, and refuses what was altered.

use signed_note::{Note, StandardVerifier, VerifierList};
use tidings::log::merkle::{
    Frontier, Hash, consistency_ranges, inclusion_ranges, verify_consistency, verify_inclusion,
};
use tlog_tiles::{Checkpoint, Hash as TheirHash, check_record, check_tree, record_hash};

use crate::audit::proofs::Signing;
use crate::support::log::everything;

fn theirs(hash: Hash) -> TheirHash {
    TheirHash(hash.0)
}

fn root(leaves: &[Hash]) -> Hash {
    Hash::of(leaves.iter().copied())
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| Hash::leaf(&n.to_be_bytes())).collect()
}

fn hashes(leaves: &[Hash], ranges: Vec<std::ops::Range<u64>>) -> Vec<Hash> {
    let at = |place: u64| usize::try_from(place).unwrap();
    ranges.into_iter().map(|range| root(&leaves[at(range.start)..at(range.end)])).collect()
}

/// What their verifier makes of a signed checkpoint, by a public key as `admin keygen` prints it.
fn verified(note: &str, key: &str) -> Result<Checkpoint, String> {
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| e.to_string())?;
    let verifier = StandardVerifier::new(key).map_err(|e| e.to_string())?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(|e| e.to_string())?;
    Checkpoint::from_bytes(note.text()).map_err(|e| e.to_string())
}

#[tokio::test]
async fn it_takes_the_checkpoints_and_proofs_of_a_replica() {
    let signing = Signing::start(1).await;
    let key = signing.public_key();
    let id = signing.replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let mut seen: Option<(u64, TheirHash)> = None;
    for user in 1..=9 {
        signing.replica.acknowledge(&id, &user.to_string()).await;
        signing.signed_up_to(user + 1).await;
        let note = signing.checkpoint().await;
        let checkpoint = verified(&note, &key).unwrap();
        let leaves: Vec<_> =
            everything(&signing.nats.log().await).await.iter().map(tidings::log::RawMessage::leaf).collect();
        assert_eq!((checkpoint.size(), checkpoint.hash()), (user + 1, &theirs(root(&leaves))));
        if let Some((size, before)) = seen {
            let proof = hashes(&leaves, consistency_ranges(size, user + 1)).into_iter().map(theirs).collect();
            check_tree(&proof, checkpoint.size(), *checkpoint.hash(), size, before).unwrap();
        }
        seen = Some((checkpoint.size(), *checkpoint.hash()));

        let other_size = note.replacen(&format!("\n{}\n", user + 1), &format!("\n{}\n", user + 2), 1);
        assert!(verified(&other_size, &key).unwrap_err().contains("invalid signature"));
        assert!(verified(&note, &key.replace("example.com", "example.org")).is_err());
    }

    // The file of a proof, read by its lines alone.
    let proof = signing.proof(&id, Some("5")).await;
    let (head, note) = proof.split_once("\n\n").unwrap();
    let checkpoint = verified(note, &key).unwrap();
    let lines: Vec<_> = head.lines().collect();
    assert_eq!(lines[0], "c2sp.org/tlog-proof@v1");
    let index = lines[2].strip_prefix("index ").unwrap().parse().unwrap();
    let path: Vec<_> = lines[3..].iter().map(|line| TheirHash::parse_hash(line).unwrap()).collect();
    let leaf = record_hash(&crate::audit::proofs::statement(&proof));
    let check = |path, index, leaf| check_record(path, checkpoint.size(), *checkpoint.hash(), index, leaf);
    check(&path, index, leaf).unwrap();
    assert!(check(&path, index + 1, leaf).is_err());
    assert!(check(&path, index, record_hash(b"another")).is_err());
    assert!(check(&path[1..].to_vec(), index, leaf).is_err());
}

#[test]
fn it_agrees_on_every_small_tree() {
    for size in 1..=70 {
        let all = leaves(size);
        let root_now = root(&all);
        for index in 0..size {
            let leaf = all[usize::try_from(index).unwrap()];
            let proof = hashes(&all, inclusion_ranges(index, size));
            for (at, leaf) in [(index, leaf), ((index + 1) % size, leaf), (index, Hash::empty())] {
                let path = proof.iter().copied().map(theirs).collect();
                let agreed = check_record(&path, size, theirs(root_now), at, theirs(leaf)).is_ok();
                assert_eq!(verify_inclusion(root_now, size, at, leaf, &proof), agreed, "{at} of {size}");
                assert_eq!(agreed, (at, leaf) == (index, all[usize::try_from(index).unwrap()]));
            }
        }
        for smaller in 1..=size {
            let proof = hashes(&all, consistency_ranges(smaller, size));
            let before = root(&all[..usize::try_from(smaller).unwrap()]);
            for before in [before, Hash::empty()] {
                let path = proof.iter().copied().map(theirs).collect();
                let agreed = check_tree(&path, size, theirs(root_now), smaller, theirs(before)).is_ok();
                let ours = verify_consistency((smaller, before), (size, root_now), &proof);
                assert_eq!(ours, agreed, "{size} after {smaller}");
                assert_eq!(agreed, before != Hash::empty());
            }
        }
    }
}

#[test]
fn it_refuses_every_altered_hash_of_a_proof() {
    let all = leaves(100);
    let mut tree = Frontier::default();
    tree.extend(all.iter().copied());
    let (index, leaf) = (37, all[37]);
    let proof = hashes(&all, inclusion_ranges(index, 100));
    for which in 0..proof.len() {
        let mut altered = proof.clone();
        altered[which].0[31] ^= 0x80;
        let path = altered.iter().copied().map(theirs).collect();
        assert!(check_record(&path, 100, theirs(tree.root()), index, theirs(leaf)).is_err());
        assert!(!verify_inclusion(tree.root(), 100, index, leaf, &altered));
    }
}
