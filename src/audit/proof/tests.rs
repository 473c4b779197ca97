//! Tests of proofs over a log in memory: what each proves, and that nothing else can be made of it.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::extra::ProvenFact;
use super::*;
use crate::audit::source::Source;
use crate::domain::{
    Acknowledged, Acknowledgement, Broadcast, BroadcastId, Event, Severity, Timestamp, UserId,
};
use crate::log::memory::MemoryLog;
use crate::log::merkle::Frontier;
use crate::log::names::Subject;
use crate::log::reader::LogEntry;
use crate::log::{EventLog as _, NewEvent};
use crate::notary::note::SecretKey;

const SALT: u128 = 0x5a17_5a17_5a17_5a17;

fn id(n: u128) -> BroadcastId {
    BroadcastId(Uuid::from_u128(n))
}

fn key(seed: u8) -> SecretKey {
    SecretKey::new("example.com/tidings".parse().unwrap(), &[seed; 32])
}

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn new(subject: &str, id: u128, event: Event) -> NewEvent {
    NewEvent {
        subject: subject.parse::<Subject>().unwrap(),
        id: Uuid::from_u128(id),
        event,
        time: Timestamp::from_unix_ms(1_000),
        source: "/tidings/a".to_owned(),
        expected: None,
        trace: None,
        sent_to: None,
    }
}

async fn append(log: &MemoryLog, subject: &str, id: u128, event: Event) -> u64 {
    log.append(new(subject, id, event)).await.unwrap().sequence
}

async fn announce(log: &MemoryLog, subject: &str, n: u128) -> u64 {
    let broadcast = Broadcast {
        id: id(n),
        message: format!("number {n}").try_into().unwrap(),
        severity: Severity::Alert,
        created_by: user("ann"),
        created_at: Timestamp::from_unix_ms(1_000),
    };
    append(log, subject, n, Event::Created(broadcast)).await
}

async fn acknowledge(log: &MemoryLog, n: u128, event: u128, users: &[&str], salt: Option<u128>) -> u64 {
    let acknowledgements = (2_000..)
        .zip(users)
        .map(|(ms, name)| Acknowledgement { user: user(name), at: Timestamp::from_unix_ms(ms) });
    let acknowledged = Acknowledged {
        broadcast_id: id(n),
        acknowledgements: acknowledgements.collect(),
        salt: salt.map(Uuid::from_u128),
    };
    let subject = format!("broadcasts.creator.acks.{}", id(n));
    append(log, &subject, event, Event::Acknowledged(acknowledged)).await
}

/// A bit of everything; the sequences are in the comments.
async fn log() -> MemoryLog {
    let log = MemoryLog::default();
    acknowledge(&log, 1, 101, &["bob"], Some(SALT)).await; // 1: before there is anything to acknowledge
    announce(&log, "broadcasts.creator.lifecycle", 1).await; // 2
    log.inject("broadcasts.creator.other", vec![], "hello".into()); // 3
    acknowledge(&log, 1, 102, &["bob", "eve", "a.b c", "eve"], Some(SALT)).await; // 4
    acknowledge(&log, 1, 103, &["dan"], None).await; // 5
    announce(&log, "broadcasts.creator.late", 2).await; // 6
    acknowledge(&log, 1, 104, &["bob", "zoe"], Some(SALT)).await; // 7
    log.inject("broadcasts.creator.other", vec![], "lost".into()); // 8
    log.damage(8);
    log.inject("broadcasts.creator.other", vec![], "the end".into()); // 9
    log
}

async fn signed(log: &MemoryLog, size: u64, keys: &[SecretKey]) -> SignedCheckpoint {
    let mut tree = Frontier::default();
    let source = Source::Log(Arc::new(log.clone()));
    let push = |entry: LogEntry| {
        tree.push(entry.leaf());
        Ok(())
    };
    source.each_entry(1, size, push).await.unwrap();
    let epoch = source.head().await.unwrap().epoch;
    let log = "example.com/tidings".parse().unwrap();
    let checkpoint = Checkpoint { log, epoch, size, root: tree.root() };
    SignedCheckpoint { note: Note::sign(checkpoint.to_string(), keys), checkpoint }
}

async fn proof(log: &MemoryLog, size: u64, n: u128, who: Option<&str>) -> Result<Proof, String> {
    let source = Source::Log(Arc::new(log.clone()));
    let signed = signed(log, size, &[key(1)]).await;
    let who = who.map(user);
    let proof = of_source::prove(&source, Some(signed), id(n), who.as_ref()).await;
    proof.map_err(|error| error.to_string())
}

fn trusted() -> [PublicKey; 1] {
    [key(1).public().clone()]
}

#[tokio::test(start_paused = true)]
async fn each_user_of_an_event_is_proven_alone_at_every_size_of_the_log() {
    let log = log().await;
    let others = ["bob", "eve", "a.b c", "zoe", "dan"];
    for size in 7..=9 {
        for (name, sequence, at) in
            [("bob", 4, 2_000), ("eve", 4, 2_001), ("a.b c", 4, 2_002), ("zoe", 7, 2_001)]
        {
            let proof = proof(&log, size, 1, Some(name)).await.unwrap();
            let text = proof.to_string();
            assert_eq!(text.parse(), Ok(proof.clone()));
            let VerifiedProof { event, checkpoint, signed_by } = proof.check(&trusted()).unwrap();
            let what = ProvenFact::Acknowledged {
                broadcast_id: id(1),
                user: user(name),
                at: Timestamp::from_unix_ms(at),
            };
            assert_eq!((event.sequence, event.channel.as_str(), event.what), (sequence, "creator", what));
            assert_eq!((checkpoint.size, &signed_by), (size, key(1).public()));
            let shown = everything_shown(&text);
            for other in others.into_iter().filter(|other| *other != name) {
                assert!(!contains(&shown, other.as_bytes()), "{other} is shown with {name}");
            }
            let salt = Uuid::from_u128(SALT);
            for secret in
                [salt.as_bytes().to_vec(), salt.to_string().into(), salt.simple().to_string().into()]
            {
                assert!(!contains(&shown, &secret), "the salt is shown with {name}");
            }
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A proof, what it has in base64, and what that has in base64.
fn everything_shown(text: &str) -> Vec<u8> {
    let extra = text.lines().nth(1).unwrap().strip_prefix("extra ").unwrap();
    let extra = STANDARD.decode(extra).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&extra).unwrap();
    let statement = STANDARD.decode(json["statement"].as_str().unwrap()).unwrap();
    [text.as_bytes(), &extra, &statement].concat()
}

#[tokio::test(start_paused = true)]
async fn what_was_announced_is_proven_with_its_words_and_late_as_late() {
    let log = log().await;
    for (n, sequence, overtaken) in [(1, 2, false), (2, 6, true)] {
        let proof = proof(&log, 9, n, None).await.unwrap();
        let event = proof.check(&trusted()).unwrap().event;
        let ProvenFact::Announced { broadcast, late } = event.what else { panic!("{event:?}") };
        assert_eq!((broadcast.id, broadcast.message.as_str()), (id(n), format!("number {n}").as_str()));
        assert_eq!((event.sequence, late), (sequence, overtaken));
        assert_eq!(proof.to_string().parse(), Ok(proof));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_proven_says_why() {
    let log = log().await;
    for (size, n, who, words) in [
        (9, 3, None, "the log has no broadcast"),
        (9, 3, Some("bob"), "the log has no broadcast"),
        (9, 1, Some("nobody"), "\"nobody\" has not acknowledged"),
        (9, 2, Some("bob"), "\"bob\" has not acknowledged"),
        (9, 1, Some("dan"), "event 5 was written without a salt"),
        (6, 1, Some("zoe"), "event 7 is not signed yet: the newest checkpoint ends at event 6"),
    ] {
        let why = proof(&log, size, n, who).await.unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    let source = Source::Log(Arc::new(log.clone()));
    let prove = async |signed| of_source::prove(&source, signed, id(1), None).await.unwrap_err().to_string();
    assert!(prove(None).await.contains("no checkpoint signed by a trusted key"));
    let mut other = signed(&log, 9, &[key(1)]).await;
    other.checkpoint.root = Hash::empty();
    assert!(prove(Some(other.clone())).await.contains("differs from what was signed up to event 9"));
    other.checkpoint.size = 100;
    assert!(prove(Some(other)).await.contains("ends at event 9, but was signed up to event 100"));
}

#[tokio::test(start_paused = true)]
async fn only_a_known_key_that_signed_counts() {
    let log = log().await;
    let source = Source::Log(Arc::new(log.clone()));
    let both = signed(&log, 9, &[key(2), key(1)]).await;
    let proof = of_source::prove(&source, Some(both), id(1), Some(&user("eve"))).await.unwrap();
    let keys = |seeds: &[u8]| seeds.iter().map(|seed| key(*seed).public().clone()).collect::<Vec<_>>();
    let by = |seeds: &[u8]| proof.check(&keys(seeds)).map(|proven| proven.signed_by);
    assert_eq!(by(&[1]).as_ref(), Ok(key(1).public()), "the other signature is nobody's that is known");
    assert_eq!(by(&[3, 2]).as_ref(), Ok(key(2).public()));
    assert!(by(&[3]).unwrap_err().to_string().contains("none of the keys given"));
    assert!(by(&[]).is_err());
    // A signature that names the known key and is not its own, beside one that is.
    let text = proof.to_string();
    let line = text.lines().last().unwrap();
    let forged = format!("{text}{}\n", flipped(line));
    let why = forged.parse::<Proof>().and_then(|proof| proof.check(&keys(&[1]))).unwrap_err();
    assert!(why.to_string().contains("is not of this text"), "{why}");
}

/// A signature line with one bit of the signature changed.
fn flipped(line: &str) -> String {
    let (name, bytes) = line.rsplit_once(' ').unwrap();
    let mut bytes = STANDARD.decode(bytes).unwrap();
    bytes[40] ^= 1;
    format!("{name} {}", STANDARD.encode(bytes))
}

/// A proof whose JSON was changed, and its index and hashes left as they are.
fn with_extra(
    proof: &Proof,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<VerifiedProof, InvalidProof> {
    let mut json = serde_json::to_value(&proof.shown).unwrap();
    change(&mut json);
    let text = proof.to_string();
    let line = text.lines().nth(1).unwrap();
    let text = text.replace(line, &format!("extra {}", STANDARD.encode(json.to_string())));
    text.parse::<Proof>()?.check(&trusted())
}

type Change = fn(&mut serde_json::Value);

#[tokio::test(start_paused = true)]
async fn nothing_is_believed_that_is_not_signed() {
    let log = log().await;
    let eve = proof(&log, 9, 1, Some("eve")).await.unwrap();
    let same = eve.check(&trusted());
    assert!(same.is_ok());
    assert_eq!(with_extra(&eve, |json| json["of a later version"] = true.into()), same);
    let changes: [(&str, Change); 8] = [
        ("not one of the event", |json| json["shown"]["acknowledgement"]["fact"]["user"] = "mallory".into()),
        ("not one of the event", |json| {
            json["shown"]["acknowledgement"]["fact"]["at"] = "2026-01-01T00:00:00.000Z".into();
        }),
        ("about another broadcast", |json| {
            json["shown"]["acknowledgement"]["fact"]["broadcast_id"] = id(2).to_string().into();
        }),
        ("not one of the event", |json| json["shown"]["acknowledgement"]["path"] = serde_json::json!([])),
        ("not one of the event", |json| json["shown"]["acknowledgement"]["number"] = 0.into()),
        ("the file is damaged: its extra data cannot be read", |json| {
            json["shown"] = serde_json::json!({"more": {}});
        }),
        ("no statement of a log", |json| json["statement"] = "AAAA".into()),
        ("not the one whose hash", |json| {
            json["shown"] = serde_json::json!({"announcement": {"body": STANDARD.encode("{}")}});
        }),
    ];
    for (words, change) in changes {
        let why = with_extra(&eve, change).unwrap_err();
        assert!(why.to_string().contains(words), "{why}, not {words}");
    }
    // How many there are is covered by nothing, and nobody is told it.
    for facts in 1..9 {
        let more = with_extra(&eve, |json| json["shown"]["acknowledgement"]["facts"] = facts.into());
        assert!(more.is_err() || more == same, "{facts}: {more:?}");
    }
    // A fact that is true, under an event that is in the log, but is not its event.
    let zoe = proof(&log, 9, 1, Some("zoe")).await.unwrap();
    let shown = serde_json::to_value(&zoe.shown).unwrap();
    assert!(with_extra(&eve, |json| json["shown"] = shown["shown"].clone()).is_err());
    assert!(with_extra(&eve, |json| json["statement"] = shown["statement"].clone()).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_root_counts_only_where_acknowledgements_belong() {
    let log = log().await;
    let eve = proof(&log, 9, 1, Some("eve")).await.unwrap();
    let Some(crate::log::RawMessage { headers, body, .. }) = log.get(4).await.unwrap() else { panic!() };
    let acks = format!("broadcasts.creator.acks.{}", id(1));
    let with = |name: &'static str, value: &'static str| {
        let mut headers = headers.clone();
        headers.iter_mut().filter(|(known, _)| known == name).for_each(|(_, v)| *v = value.to_owned());
        headers
    };
    for (subject, headers, words) in [
        (
            "broadcasts.creator.lifecycle".to_owned(),
            headers.clone(),
            "no acknowledgements belong on the subject",
        ),
        ("broadcasts.creator.other".to_owned(), headers.clone(), "not one of Tidings"),
        (format!("broadcasts.creator.acks.{}", id(2)), headers.clone(), "about another broadcast"),
        (acks.clone(), with("ce-type", "broadcast.created"), "not one of Tidings"),
        (acks.clone(), with("ce-dataschema", "urn:tidings:schema:broadcast.acknowledged:2"), "another kind"),
        (acks.clone(), with("tidings-facts-root", "x"), "no root"),
        (acks, vec![], "not a CloudEvent"),
    ] {
        let sequence = log.inject(&subject, headers, body.clone());
        let signed = signed(&log, sequence, &[key(1)]).await;
        let raw = log.get(sequence).await.unwrap().unwrap();
        let statement = crate::log::leaf::Statement::of(&raw);
        let mut shown = serde_json::to_value(&eve.shown).unwrap();
        shown["statement"] = STANDARD.encode(statement.to_bytes()).into();
        let shown: ProofExtra = serde_json::from_value(shown).unwrap();
        let forged = Proof { shown, index: sequence - 1, path: vec![], note: signed.note };
        let why = forged.check(&trusted()).unwrap_err();
        assert!(why.to_string().contains(words), "{subject}: {why}, not {words}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_changed_byte_is_refused_or_proves_the_same() {
    let log = log().await;
    for who in [Some("eve"), None] {
        let proof = proof(&log, 9, 1, who).await.unwrap();
        let proven = proof.check(&trusted()).unwrap();
        let text = proof.to_string().into_bytes();
        let mut refused = 0;
        for at in 0..text.len() {
            for change in [1 << (at % 7), 0x20, b'\n' ^ text[at]] {
                let mut changed = text.clone();
                changed[at] ^= change;
                match checked(&changed) {
                    Ok(other) => assert_eq!(other, proven, "byte {at}"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 2 * text.len(), "{refused} of {}", 3 * text.len());
    }
}

fn checked(bytes: &[u8]) -> Result<VerifiedProof, InvalidProof> {
    std::str::from_utf8(bytes).map_err(|_| InvalidProof::FirstLine)?.parse::<Proof>()?.check(&trusted())
}

#[test]
fn proofs_that_were_made_once_check_for_ever() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/examples/proofs");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let key: PublicKey = read("checkpoint.pub").parse().unwrap();
    let proven = |name: &str| {
        let text = read(name);
        let proof: Proof = text.parse().unwrap();
        assert_eq!(proof.to_string(), text);
        proof.check(std::slice::from_ref(&key)).unwrap().event
    };
    let ProvenEvent { sequence, what, .. } = proven("acknowledged.tlog-proof");
    let at = Timestamp::from_unix_ms(2_001);
    assert_eq!(
        (sequence, what),
        (4, ProvenFact::Acknowledged { broadcast_id: id(1), user: user("eve"), at })
    );
    let ProvenEvent { sequence, what, .. } = proven("late.tlog-proof");
    let ProvenFact::Announced { broadcast, late } = what else { panic!("{what:?}") };
    assert_eq!((sequence, broadcast.id, broadcast.message.as_str(), late), (6, id(2), "number 2", true));
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(checked(&bytes).is_err());
    }

    #[test]
    fn any_text_in_the_form_is_refused(
        extra in "(extra [A-Za-z0-9+/]{0,24}={0,2}\n)?",
        index in "index [0-9]{0,20}",
        rest in "(\n[A-Za-z0-9+/]{43}=){0,3}\n\n(.|\n){0,60}",
    ) {
        let text = format!("{FORMAT_LINE}\n{extra}{index}{rest}");
        prop_assert!(checked(text.as_bytes()).is_err());
    }

    #[test]
    fn any_json_is_refused(json in "\\{\"statement\":\"[A-Za-z0-9+/=]{0,40}\",\"shown\":\\{\"announcement\":\\{\"body\":\"[A-Za-z=]{0,9}\"\\}\\}\\}") {
        let text = format!("{FORMAT_LINE}\nextra {}\nindex 0\n\na\n\n— n AAAAAAA=\n", STANDARD.encode(json));
        prop_assert!(checked(text.as_bytes()).is_err());
    }
}
