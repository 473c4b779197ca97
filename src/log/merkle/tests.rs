//! Tests of the tree: the vectors that are published for Certificate Transparency, and every small tree.

use super::*;
use proptest::prelude::*;

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| Hash::leaf(&n.to_be_bytes())).collect()
}

fn part(leaves: &[Hash], range: &Range<u64>) -> Hash {
    let at = |place: u64| usize::try_from(place).unwrap();
    Hash::of(leaves[at(range.start)..at(range.end)].iter().copied())
}

fn proof(leaves: &[Hash], ranges: &[Range<u64>]) -> Vec<Hash> {
    ranges.iter().map(|range| part(leaves, range)).collect()
}

/// The leaves of the tree that Certificate Transparency's implementations are tested with.
const KNOWN: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];

/// Its roots, from that of no leaves on.
const KNOWN_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Hashes inside of it that the proofs below are made of.
const SECOND: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
const THIRD_AND_FOURTH: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
const FIFTH: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
const FIFTH_AND_SIXTH: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";
const LAST_TWO: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
const LAST_FOUR: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";

fn hex(hash: &Hash) -> String {
    hash.0.iter().fold(String::new(), |hex, byte| hex + format!("{byte:02x}").as_str())
}

#[test]
fn the_roots_of_a_well_known_tree() {
    for (size, known) in KNOWN_ROOTS.into_iter().enumerate() {
        let root = Hash::of(KNOWN[..size].iter().map(|data| Hash::leaf(data)));
        assert_eq!(hex(&root), known, "{size} leaves");
    }
}

#[test]
fn the_proofs_of_a_well_known_tree() {
    let all: Vec<_> = KNOWN.iter().map(|data| Hash::leaf(data)).collect();
    let of = |ranges: &[Range<u64>]| proof(&all, ranges).iter().map(hex).collect::<Vec<_>>();
    let inclusions: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (0, 8, &[SECOND, THIRD_AND_FOURTH, LAST_FOUR]),
        (5, 8, &[FIFTH, LAST_TWO, KNOWN_ROOTS[4]]),
        (2, 3, &[KNOWN_ROOTS[2]]),
        (1, 5, &[KNOWN_ROOTS[1], THIRD_AND_FOURTH, FIFTH]),
    ];
    for (index, size, known) in inclusions {
        assert_eq!(of(&inclusion_ranges(index, size)), known, "{index} of {size}");
    }
    let consistencies: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (1, 8, &[SECOND, THIRD_AND_FOURTH, LAST_FOUR]),
        (6, 8, &[FIFTH_AND_SIXTH, LAST_TWO, KNOWN_ROOTS[4]]),
        (2, 5, &[THIRD_AND_FOURTH, FIFTH]),
    ];
    for (smaller, larger, known) in consistencies {
        assert_eq!(of(&consistency_ranges(smaller, larger)), known, "{larger} after {smaller}");
    }
}

#[test]
fn every_leaf_of_every_small_tree_is_proved_and_nowhere_else() {
    let all = leaves(40);
    for size in 1..=40 {
        let root = part(&all, &(0..size));
        for index in 0..size {
            let leaf = all[usize::try_from(index).unwrap()];
            let proof = proof(&all, &inclusion_ranges(index, size));
            assert!(verify_inclusion(root, size, index, leaf, &proof), "{index} of {size}");
            assert!(!verify_inclusion(root, size, (index + 1) % size, leaf, &proof) || size == 1);
            assert!(!verify_inclusion(root, size, index, Hash::empty(), &proof));
            assert!(!verify_inclusion(root, size, index, leaf, &[&proof[..], &[leaf]].concat()));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!verify_inclusion(root, size, index, leaf, shorter));
            }
        }
    }
}

#[test]
fn every_small_tree_goes_on_from_every_smaller_one() {
    let all = leaves(40);
    let mut changed = all.clone();
    changed[0] = Hash::empty();
    for larger in 0..=40 {
        for smaller in 0..=larger {
            let proof = proof(&all, &consistency_ranges(smaller, larger));
            let of = |leaves: &[Hash], size| (size, part(leaves, &(0..size)));
            assert!(
                verify_consistency(of(&all, smaller), of(&all, larger), &proof),
                "{larger} goes on from {smaller}"
            );
            if smaller > 0 {
                assert!(!verify_consistency(of(&changed, smaller), of(&all, larger), &proof));
                assert!(!verify_consistency(of(&all, smaller), of(&changed, larger), &proof));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_frontier_goes_on_where_it_was(size in 0_u64..300, more in 0_u64..300) {
        let all = leaves(size + more);
        let (before, after) = all.split_at(usize::try_from(size).unwrap());
        let mut frontier = Frontier::default();
        frontier.extend(before.iter().copied());
        let mut again = Frontier::from_parts(frontier.size(), frontier.roots().to_vec()).unwrap();
        again.extend(after.iter().copied());
        prop_assert_eq!((again.size(), again.root()), (size + more, Hash::of(all)));
    }

    #[test]
    fn a_changed_proof_proves_nothing(size in 2_u64..200, index in any::<u64>(), which in any::<usize>()) {
        let index = index % size;
        let all = leaves(size);
        let mut proof = proof(&all, &inclusion_ranges(index, size));
        let which = which % proof.len();
        proof[which].0[0] ^= 1;
        let leaf = all[usize::try_from(index).unwrap()];
        prop_assert!(!verify_inclusion(Hash::of(all), size, index, leaf, &proof));
    }

    #[test]
    fn hashes_round_trip_as_text(bytes in any::<[u8; 32]>()) {
        prop_assert_eq!(Hash(bytes).to_string().parse(), Ok(Hash(bytes)));
    }
}
