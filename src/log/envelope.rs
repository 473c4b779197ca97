//! The envelope: CloudEvents 1.0 in the binary mode of its NATS binding. Attributes are headers, the body is the data.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use uuid::Uuid;

use super::facts::root_of;
use super::names::header::{FACTS_ROOT, SENT_TO};
use super::names::{InvalidSubject, Subject};
use super::trace::TRACEPARENT;
use super::{NewEvent, RawMessage, TraceParent};
use crate::domain::event::DecodeError;
use crate::domain::{Event, Recorded, Timestamp};

/// What the binding encodes in header values: controls, space, `"`, `%`, and everything outside ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// An `acknowledged` event carries at most this many acknowledgements.
pub const MAX_ACKS_PER_EVENT: usize = 1_000;

/// The beginning of the source of an event: `/tidings/{replica}`.
pub const SOURCE_PREFIX: &str = "/tidings/";

/// The end of the source of an event that waited in the outbox of its replica: `/tidings/{replica}/outbox`.
pub const OUTBOX_SUFFIX: &str = "/outbox";

/// The headers and the body under which an event is stored.
pub fn encode(new: &NewEvent) -> serde_json::Result<(Vec<(&'static str, String)>, Bytes)> {
    Ok((headers(new), new.event.to_json()?.into()))
}

/// The headers under which an event is stored.
pub fn headers(new: &NewEvent) -> Vec<(&'static str, String)> {
    let id = new.id.to_string();
    let subject = format!("{}/{}", new.subject.channel(), new.event.broadcast_id());
    let mut headers = vec![
        ("Nats-Msg-Id", id.clone()),
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", id),
        ("ce-type", new.event.event_type().name.to_owned()),
        ("ce-source", utf8_percent_encode(&new.source, ENCODED).to_string()),
        ("ce-time", new.time.to_string()),
        ("ce-subject", subject),
        ("ce-datacontenttype", "application/json".to_owned()),
        ("ce-dataschema", schema_of(&new.event)),
    ];
    // Without the prefix `ce-`: under this name everything that knows W3C Trace Context finds it.
    headers.extend(new.trace.map(|trace| (TRACEPARENT, trace.to_string())));
    headers.extend(new.sent_to.map(|sent_to| (SENT_TO, sent_to.to_string())));
    if let Event::Acknowledged(acknowledged) = &new.event {
        headers.extend(root_of(acknowledged).map(|root| (FACTS_ROOT, root.to_string())));
    }
    headers
}

/// The name of the JSON Schema of an event's body, as `schemas/` has it in `$id`.
pub fn schema_of(event: &Event) -> String {
    let kind = event.event_type();
    format!("urn:tidings:schema:{}:{}", kind.name, kind.version)
}

/// A decoded message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An event.
    Event(Recorded),
    /// A message that this build cannot decode. Every replica skips it in the same way.
    Skipped(Skipped),
}

/// Why a message is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// A CloudEvent of Tidings with a type, a version or a field that a newer build may know.
    Future {
        /// What this build does not know: the type and version, or the field of them.
        what: String,
    },
    /// Anything else: not a CloudEvent, not on a subject of Tidings, or a body that does not match its schema.
    Foreign {
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Future { what: why } | Self::Foreign { why }) = self;
        f.write_str(why)
    }
}

/// Decodes a message. Never fails: what cannot be decoded is [`Decoded::Skipped`].
pub fn decode(raw: &RawMessage) -> Decoded {
    match read(raw) {
        Ok(recorded) => Decoded::Event(recorded),
        Err(skipped) => Decoded::Skipped(skipped),
    }
}

fn read(raw: &RawMessage) -> Result<Recorded, Skipped> {
    let attributes = Attributes::of(raw);
    let (name, version) = attributes.kind()?;
    let event = Event::from_json(&name, version, &raw.body).map_err(|unreadable| match unreadable {
        DecodeError::UnknownType => Skipped::Future { what: format!("{name}:{version}") },
        DecodeError::UnknownField(field) => {
            Skipped::Future { what: format!("the field `{}` of {name}:{version}", field.escape_debug()) }
        }
        DecodeError::Malformed(e) => Skipped::Foreign { why: format!("its body is not a {name}: {e}") },
    })?;
    let (subject, id) = (subject_of(raw)?, attributes.id()?);
    check_subject(&subject, id, &event).map_err(foreign)?;
    Ok(Recorded {
        sequence: raw.sequence,
        recorded_at: Timestamp::from_unix_ns(raw.time_ns),
        channel: subject.channel().clone(),
        id,
        late: matches!(subject, Subject::Late(_)),
        relayed: attributes.is_relayed(),
        sent_to: attributes.sent_to.and_then(|text| text.parse().ok()),
        event,
    })
}

fn foreign(why: &str) -> Skipped {
    Skipped::Foreign { why: why.to_owned() }
}

/// The CloudEvents attributes of a message, still encoded; the first header of each name. Found in one pass, since every replica
/// decodes every event.
#[derive(Default)]
struct Attributes<'a> {
    specversion: Option<&'a str>,
    kind: Option<&'a str>,
    dataschema: Option<&'a str>,
    source: Option<&'a str>,
    id: Option<&'a str>,
    sent_to: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn of(raw: &'a RawMessage) -> Self {
        let mut found = Self::default();
        for (name, value) in &raw.headers {
            let attribute = match name.as_str() {
                "ce-specversion" => &mut found.specversion,
                "ce-type" => &mut found.kind,
                "ce-dataschema" => &mut found.dataschema,
                "ce-source" => &mut found.source,
                "ce-id" => &mut found.id,
                SENT_TO => &mut found.sent_to,
                _ => continue,
            };
            attribute.get_or_insert(value);
        }
        found
    }

    fn kind(&self) -> Result<(Cow<'a, str>, u16), Skipped> {
        if self.specversion.and_then(decoded).as_deref() != Some("1.0") {
            return Err(foreign("it is not a CloudEvent 1.0"));
        }
        let name = self.kind.and_then(decoded).ok_or_else(|| foreign("it has no ce-type"))?;
        let version = self.dataschema.and_then(decoded).and_then(|schema| version_of(&schema, &name));
        let version = version.ok_or_else(|| foreign("its ce-dataschema is not one of Tidings"))?;
        if self.source.and_then(decoded).is_none() {
            return Err(foreign("it has no ce-source"));
        }
        Ok((name, version))
    }

    fn is_relayed(&self) -> bool {
        self.source.and_then(decoded).is_some_and(|source| {
            // A replica may itself be called `outbox`.
            source.strip_prefix(SOURCE_PREFIX).is_some_and(|name| name.ends_with(OUTBOX_SUFFIX))
        })
    }

    fn id(&self) -> Result<Uuid, Skipped> {
        let id = self.id.and_then(decoded).and_then(|id| id.parse().ok());
        id.ok_or_else(|| foreign("its ce-id is not a UUID"))
    }
}

/// The type and the version in the headers of a message, whatever its body is.
pub fn type_of(raw: &RawMessage) -> Result<(Cow<'_, str>, u16), Skipped> {
    Attributes::of(raw).kind()
}

/// The subject and the id that a message has, whatever its body is.
pub fn subject_and_id(raw: &RawMessage) -> Result<(Subject, Uuid), Skipped> {
    Ok((subject_of(raw)?, Attributes::of(raw).id()?))
}

fn subject_of(raw: &RawMessage) -> Result<Subject, Skipped> {
    raw.subject.parse().map_err(|error: InvalidSubject| foreign(&error.to_string()))
}

/// An event on a subject that is not its own would be guarded by the wrong sequence, so it is foreign there.
fn check_subject(subject: &Subject, id: Uuid, event: &Event) -> Result<(), &'static str> {
    match (event, subject) {
        (Event::Created(broadcast), Subject::Lifecycle(_) | Subject::Late(_)) if broadcast.id.0 == id => {
            Ok(())
        }
        (Event::Created(_), Subject::Lifecycle(_) | Subject::Late(_)) => {
            Err("its ce-id is not the broadcast's id")
        }
        (Event::Cleared(_), Subject::Lifecycle(_) | Subject::Late(_)) => Ok(()),
        (Event::Acknowledged(acks), Subject::Acks(_, broadcast)) if acks.broadcast_id == *broadcast => {
            match acks.acknowledgements.len() {
                1..=MAX_ACKS_PER_EVENT => Ok(()),
                _ => Err("it does not carry 1 to 1,000 acknowledgements"),
            }
        }
        (Event::Acknowledged(_), Subject::Acks(..)) => Err("it names another broadcast than its subject"),
        _ => Err("its type does not belong on its subject"),
    }
}

/// The version in `urn:tidings:schema:{type}:{version}`.
fn version_of(schema: &str, name: &str) -> Option<u16> {
    let number = schema.strip_prefix("urn:tidings:schema:")?.strip_prefix(name)?.strip_prefix(':')?;
    // One spelling: neither `+1` nor `01`.
    let is_spelled_so = number == "0" || matches!(number.as_bytes().first(), Some(b'1'..=b'9'));
    number.parse().ok().filter(|_| is_spelled_so)
}

/// The trace that a message belongs to. One that is not valid is ignored, as in a request: it is for diagnostics only.
pub fn trace_of(raw: &RawMessage) -> Option<TraceParent> {
    let values = raw.headers.iter().filter(|(name, _)| name == TRACEPARENT);
    TraceParent::only(values.map(|(_, value)| value.as_bytes()))
}

/// A CloudEvents attribute of a message, decoded; `None` when it is absent or not UTF-8.
pub fn attribute<'a>(raw: &'a RawMessage, name: &str) -> Option<Cow<'a, str>> {
    let mut headers = raw.headers.iter();
    let (_, value) = headers.find(|(known, _)| known.strip_prefix("ce-") == Some(name))?;
    decoded(value)
}

/// The decoded value of a header; `None` when that is not UTF-8.
fn decoded(value: &str) -> Option<Cow<'_, str>> {
    // Nearly always there is nothing to decode.
    if value.as_bytes().contains(&b'%') {
        return percent_decode_str(value).decode_utf8().ok();
    }
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn created(source: &str) -> (NewEvent, RawMessage) {
        let id = Uuid::from_u128(7);
        let body = format!(
            r#"{{"id":"{id}","message":"hi","type":"alert","created_by":"ann","created_at":"2026-01-02T03:04:05.678Z"}}"#
        );
        let event = Event::from_json("broadcast.created", 1, body.as_bytes()).unwrap();
        let new = NewEvent {
            subject: "broadcasts.creator.lifecycle".parse().unwrap(),
            id,
            event,
            time: Timestamp::from_unix_ms(1),
            source: source.to_owned(),
            expected: Some(0),
            trace: None,
            sent_to: None,
        };
        let raw = raw_of(&new, 3);
        (new, raw)
    }

    fn raw_of(new: &NewEvent, sequence: u64) -> RawMessage {
        let (headers, body) = encode(new).unwrap();
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        RawMessage { sequence, time_ns: 5_000_000, subject: new.subject.to_string(), headers, body }
    }

    #[test]
    fn what_is_written_is_read() {
        let (new, raw) = created("/tidings/a");
        let Decoded::Event(recorded) = decode(&raw) else { panic!("not read: {:?}", decode(&raw)) };
        assert_eq!(recorded.event, new.event);
        assert_eq!((recorded.sequence, recorded.id, recorded.late), (3, new.id, false));
        assert_eq!(recorded.recorded_at, Timestamp::from_unix_ms(5));
        assert!(!recorded.relayed);
        let (_, raw) = created(&format!("/tidings/a{OUTBOX_SUFFIX}"));
        let Decoded::Event(relayed) = decode(&raw) else { panic!("not read: {:?}", decode(&raw)) };
        assert_eq!(relayed, Recorded { relayed: true, ..recorded });
    }

    #[test]
    fn a_replica_that_is_called_outbox_has_not_kept_every_event_in_its_outbox() {
        for (source, expected) in [("/tidings/outbox", false), ("/tidings/outbox/outbox", true)] {
            let Decoded::Event(read) = decode(&created(source).1) else { panic!("not read: {source}") };
            assert_eq!(read.relayed, expected, "{source}");
        }
    }

    #[test]
    fn a_trace_is_passed_on_and_says_nothing_of_the_event() {
        let (new, plain) = created("/tidings/a");
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut traced = raw_of(&NewEvent { trace: text.parse().ok(), ..new }, 3);
        assert_eq!(traced.header("traceparent"), Some(text));
        assert_eq!(trace_of(&traced).map(|trace| trace.to_string()).as_deref(), Some(text));
        assert_eq!((trace_of(&plain), decode(&traced)), (None, decode(&plain)));
        traced.headers.push(("traceparent".into(), text.into()));
        assert_eq!((trace_of(&traced), decode(&traced)), (None, decode(&plain)), "two of them are none");
    }

    #[test]
    fn what_is_not_ours_is_skipped_with_a_reason() {
        let (_, good) = created("/tidings/a");
        let change = |edit: &dyn Fn(&mut RawMessage)| {
            let mut raw = good.clone();
            edit(&mut raw);
            match decode(&raw) {
                Decoded::Skipped(skipped) => skipped,
                Decoded::Event(event) => panic!("read: {event:?}"),
            }
        };
        let set = |name: &'static str, value: &'static str| {
            move |raw: &mut RawMessage| {
                raw.headers
                    .iter_mut()
                    .filter(|(known, _)| known == name)
                    .for_each(|(_, v)| value.clone_into(v));
            }
        };
        let future = change(&|raw| set("ce-dataschema", "urn:tidings:schema:broadcast.created:2")(raw));
        assert_eq!(future, Skipped::Future { what: "broadcast.created:2".into() });
        let body = [&good.body[..good.body.len() - 1], br#","audience":{"users":["7"]}}"#].concat();
        let newer = change(&|raw| raw.body = body.clone().into());
        assert_eq!(newer, Skipped::Future { what: "the field `audience` of broadcast.created:1".into() });
        let foreign: [&dyn Fn(&mut RawMessage); 7] = [
            &|raw| raw.headers.clear(),
            &|raw| raw.body = Bytes::from_static(b"{}"),
            &|raw| raw.subject = "broadcasts.creator.other".into(),
            &|raw| raw.subject = format!("broadcasts.creator.acks.{}", Uuid::from_u128(7)),
            &|raw| set("ce-id", "00000000-0000-0000-0000-000000000008")(raw),
            &|raw| set("ce-specversion", "0.3")(raw),
            &|raw| set("ce-dataschema", "https://example.org/x")(raw),
        ];
        for edit in foreign {
            assert!(matches!(change(edit), Skipped::Foreign { .. }));
        }
    }

    proptest! {
        #[test]
        fn attributes_survive_the_header(source in "\\PC{1,40}") {
            let (_, raw) = created(&source);
            prop_assert_eq!(attribute(&raw, "source").map(Cow::into_owned), Some(source));
            prop_assert!(raw.header("ce-source").unwrap().is_ascii());
        }

        #[test]
        fn what_needs_no_decoding_reads_as_if_it_were_decoded(value in "(\\PC|%[0-9a-f]{2}){0,12}") {
            prop_assert_eq!(decoded(&value), percent_decode_str(&value).decode_utf8().ok());
        }

        #[test]
        fn the_first_header_of_a_name_counts(at in 0..12_usize, second in "\\PC{0,12}") {
            let (_, good) = created("/tidings/a");
            let mut doubled = good.clone();
            let (name, _) = good.headers[at % good.headers.len()].clone();
            doubled.headers.push((name, second));
            prop_assert_eq!(decode(&doubled), decode(&good));
        }

        #[test]
        fn a_version_has_one_spelling(number in "[+-]?[0-9]{0,6}|\\PC{0,3}") {
            let version = version_of(&format!("urn:tidings:schema:a:{number}"), "a");
            prop_assert_eq!(version, number.parse::<u16>().ok().filter(|version| version.to_string() == number));
        }

        #[test]
        fn any_bytes_decode_to_something(
            subject in "(broadcasts\\.)?[a-z.]{0,20}",
            kind in "broadcast\\.(created|cleared|acknowledged|expired)",
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let headers = vec![
                ("ce-specversion".to_owned(), "1.0".to_owned()),
                ("ce-type".to_owned(), kind.clone()),
                ("ce-dataschema".to_owned(), format!("urn:tidings:schema:{kind}:1")),
            ];
            decode(&RawMessage { sequence: 1, time_ns: 0, subject, headers, body: body.into() });
        }
    }
}
