//! The short way: an acknowledgement that is to the byte what this build would store needs no closer look.

use bytes::Bytes;

use crate::domain::{Event, Recorded};
use crate::log::envelope::{OUTBOX_SUFFIX, SOURCE_PREFIX, attribute, encode};
use crate::log::names::Subject;
use crate::log::{NewEvent, RawMessage, TraceParent};

/// Whether a message is an acknowledgement with the very headers and the very body that this build would store for it.
///
/// Then it is by its schemas, its headers are those of its event, and the root over its facts is the one stated, since
/// everything that this build stores is so. The schemas stay what decides: a test holds to them whatever this says yes to.
///
/// Acknowledgements alone: nearly everything in a long log is one. And this build reads more announcements than it would
/// write, such as one with white space around it, so that their schema has to be asked.
pub(super) fn is_as_written(raw: &RawMessage, recorded: &Recorded, trace: Option<TraceParent>) -> bool {
    let Some((headers, body)) = written_again(raw, recorded, trace) else { return false };
    // Each of these names comes once, so that as many headers in which all are found are these and no other.
    raw.body == body
        && raw.headers.len() == headers.len()
        && headers.iter().all(|(name, value)| raw.header(name) == Some(value))
}

fn written_again(
    raw: &RawMessage,
    recorded: &Recorded,
    trace: Option<TraceParent>,
) -> Option<(Vec<(&'static str, String)>, Bytes)> {
    let Event::Acknowledged(acknowledged) = &recorded.event else { return None };
    let source = attribute(raw, "source").filter(|source| is_of_a_replica(source))?;
    let again = NewEvent {
        subject: Subject::Acks(recorded.channel.clone(), acknowledged.broadcast_id),
        id: recorded.id,
        event: recorded.event.clone(),
        time: attribute(raw, "time")?.parse().ok()?,
        source: source.into_owned(),
        expected: None,
        trace,
        sent_to: None,
    };
    encode(&again).ok()
}

/// A source is the one thing that the types leave open and the schema does not.
fn is_of_a_replica(source: &str) -> bool {
    let fits = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let name = source.strip_prefix(SOURCE_PREFIX);
    name.map(|name| name.strip_suffix(OUTBOX_SUFFIX).unwrap_or(name)).is_some_and(fits)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use uuid::Uuid;

    use super::super::checks::check_in_full;
    use super::super::schemas::Schemas;
    use super::*;
    use crate::domain::{Acknowledged, Acknowledgement, BroadcastId, Timestamp};
    use crate::log::envelope::{Decoded, decode, trace_of};

    static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::load().unwrap());

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        prop_oneof![any::<i64>(), 0..4_102_444_800_000_i64].prop_map(Timestamp::from_unix_ms)
    }

    fn ids() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    fn traces() -> impl Strategy<Value = TraceParent> {
        (1..=u128::MAX, 1..=u64::MAX, any::<u8>()).prop_map(|(trace, parent, flags)| {
            format!("00-{trace:032x}-{parent:016x}-{flags:02x}").parse().unwrap()
        })
    }

    fn acknowledgements() -> impl Strategy<Value = Acknowledgement> {
        let users = prop_oneof!["[a-z]{1,12}", "\\PC{1,32}", any::<String>()];
        let users = users.prop_filter_map("1 to 128 bytes", |user| user.parse().ok());
        (users, timestamps()).prop_map(|(user, at)| Acknowledgement { user, at })
    }

    fn events(source: &'static str) -> impl Strategy<Value = NewEvent> {
        let channels = "[a-z0-9][a-z0-9_-]{0,31}";
        let envelopes = (channels, ids(), timestamps(), source, prop::option::of(traces()));
        let bodies = (ids(), prop::collection::vec(acknowledgements(), 1..4), prop::option::of(ids()));
        (envelopes, bodies).prop_map(
            |((channel, id, time, source, trace), (about, acknowledgements, salt))| {
                let broadcast_id = BroadcastId(about);
                NewEvent {
                    subject: Subject::Acks(channel.parse().unwrap(), broadcast_id),
                    id,
                    event: Event::Acknowledged(Acknowledged { broadcast_id, acknowledgements, salt }),
                    time,
                    source,
                    expected: None,
                    trace,
                    sent_to: None,
                }
            },
        )
    }

    fn raw_of(new: &NewEvent) -> RawMessage {
        let (headers, body) = encode(new).unwrap();
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        RawMessage { sequence: 1, time_ns: 0, subject: new.subject.to_string(), headers, body }
    }

    /// Whether the short way passes it, and what a closer look finds. `None`: it is no event.
    fn looked_at(raw: &RawMessage) -> Option<(bool, Vec<String>)> {
        let Decoded::Event(recorded) = decode(raw) else { return None };
        let mut found = Vec::new();
        check_in_full(&SCHEMAS, raw, &recorded, &mut |_, what| found.push(what));
        Some((is_as_written(raw, &recorded, trace_of(raw)), found))
    }

    /// What can be done to a message.
    #[derive(Clone, Debug)]
    enum Change {
        Header(Index, String),
        LetterOfHeader(Index, Index, char),
        Double(Index),
        Without(Index),
        More(String, String),
        LetterOfBody(Index, u8),
    }

    fn changes() -> impl Strategy<Value = Change> {
        prop_oneof![
            (any::<Index>(), "\\PC{0,40}").prop_map(|(at, value)| Change::Header(at, value)),
            (any::<Index>(), any::<Index>(), "[ -~]").prop_map(|(at, letter, new)| {
                Change::LetterOfHeader(at, letter, new.chars().next().unwrap_or(' '))
            }),
            any::<Index>().prop_map(Change::Double),
            any::<Index>().prop_map(Change::Without),
            ("[a-zA-Z-]{1,12}", "\\PC{0,12}").prop_map(|(name, value)| Change::More(name, value)),
            (any::<Index>(), b' '..=b'~').prop_map(|(at, new)| Change::LetterOfBody(at, new)),
        ]
    }

    fn changed(mut raw: RawMessage, change: Change) -> RawMessage {
        let headers = &mut raw.headers;
        match change {
            Change::Header(at, value) => at.get_mut(headers).1 = value,
            Change::LetterOfHeader(at, letter, new) => {
                let value = &mut at.get_mut(headers).1;
                let mut letters: Vec<_> = value.chars().collect();
                // The source may be empty.
                if !letters.is_empty() {
                    *letter.get_mut(&mut letters) = new;
                }
                *value = letters.into_iter().collect();
            }
            Change::Double(at) => headers.push(at.get(headers).clone()),
            Change::Without(at) => drop(headers.remove(at.index(headers.len()))),
            Change::More(name, value) => headers.push((name, value)),
            Change::LetterOfBody(at, new) => {
                let mut body = raw.body.to_vec();
                *at.get_mut(&mut body) = new;
                raw.body = body.into();
            }
        }
        raw
    }

    proptest! {
        #[test]
        fn what_this_build_writes_goes_the_short_way_and_is_by_its_schemas(
            new in events("/tidings/[A-Za-z0-9_-]{1,64}(/outbox)?"),
        ) {
            prop_assert_eq!(looked_at(&raw_of(&new)), Some((true, vec![])));
        }

        #[test]
        fn whatever_goes_the_short_way_has_nothing_that_a_closer_look_would_find(
            new in events("(/tidings/[A-Za-z0-9_-]{0,66}(/outbox){0,2}|\\PC{0,20})"),
            change in changes(),
        ) {
            for raw in [raw_of(&new), changed(raw_of(&new), change)] {
                if let Some((true, found)) = looked_at(&raw) {
                    prop_assert_eq!(found, Vec::<String>::new(), "{:?}", raw);
                }
            }
        }
    }

    #[test]
    fn whatever_is_not_to_the_byte_as_written_is_looked_at_closely() {
        let new = NewEvent {
            subject: "broadcasts.creator.acks.00000000-0000-0000-0000-00000000000a".parse().unwrap(),
            id: Uuid::from_u128(0xb),
            event: Event::Acknowledged(Acknowledged {
                broadcast_id: BroadcastId(Uuid::from_u128(0xa)),
                acknowledgements: vec![Acknowledgement {
                    user: "ann".parse().unwrap(),
                    at: Timestamp::from_unix_ms(5),
                }],
                salt: Some(Uuid::from_u128(0xc)),
            }),
            time: Timestamp::from_unix_ms(6),
            source: "/tidings/a".to_owned(),
            expected: None,
            trace: None,
            sent_to: None,
        };
        let good = raw_of(&new);
        assert_eq!(looked_at(&good), Some((true, vec![])));
        let set = |name: &str, value: &str| {
            let mut raw = good.clone();
            let known = raw.headers.iter_mut().find(|(known, _)| known == name).unwrap();
            value.clone_into(&mut known.1);
            raw
        };
        let body = |body: &str| RawMessage { body: body.to_owned().into(), ..good.clone() };
        let with = |name: &str, value: &str| {
            let mut raw = good.clone();
            raw.headers.push((name.to_owned(), value.to_owned()));
            raw
        };
        let written = str::from_utf8(&good.body).unwrap();
        for other in [
            set("ce-id", "00000000-0000-0000-0000-00000000000B"),
            set("ce-time", "1970-01-01T00:00:00.0060Z"),
            set("ce-source", "/tidings/a%20b"),
            set("ce-source", "/tidings/"),
            set("ce-subject", "creator/00000000-0000-0000-0000-00000000000b"),
            set("tidings-facts-root", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            with("ce-id", "00000000-0000-0000-0000-00000000000b"),
            with("x-other", "1"),
            with("traceparent", "none"),
            body(&format!("{written} ")),
            body(&written.replacen('{', "{ ", 1)),
            body(&written.replace("ann", "bob")),
        ] {
            assert!(matches!(looked_at(&other), Some((false, _))), "{other:?}");
        }
    }
}
