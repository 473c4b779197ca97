//! What is wrong with a stream, judged by what NATS reports of it: its copies, its leader, its size.

use async_nats::jetstream::stream::Info;

use super::names::{CHECKPOINT_STREAM, LOG_STREAM};
use super::provision;
use super::stream_report::{CopyState, StreamReport};

/// A stream this full, in percent, is reported: there is time left to raise its limit.
pub const NEARLY_FULL_PERCENT: u64 = 80;

/// What is wrong with a stream, each as a sentence that says what to do. `cluster` is the name of the server's cluster,
/// when it is a node of one.
pub fn problems(info: &Info, cluster: Option<&str>) -> Vec<String> {
    let mut found = copies(info, cluster);
    found.extend(fullness(info));
    found.extend(losses(info));
    found.extend(broken_settings(info).into_iter().map(|broken| {
        format!("{broken}. This breaks a guarantee, and replicas refuse to start: set it back with `nats stream edit`")
    }));
    found
}

/// What NATS reports of the log's stream.
pub(super) fn report(info: &Info, copies_wanted: usize) -> StreamReport {
    let group = info.cluster.as_ref();
    let leader = group.and_then(|group| group.leader.clone()).map(|leader| (leader, CopyState::Leader));
    let followers = group.map_or(&[][..], |group| &group.replicas).iter().map(|peer| {
        let state = match (peer.offline, peer.current) {
            (true, _) => CopyState::Offline,
            (false, false) => CopyState::Lagging,
            (false, true) => CopyState::Current,
        };
        (peer.name.clone(), state)
    });
    StreamReport {
        copies: info.config.num_replicas,
        copies_wanted,
        is_clustered: group.is_some_and(|group| group.name.is_some()),
        servers: leader.into_iter().chain(followers).collect(),
        missing: missing(info),
        broken_settings: broken_settings(info),
    }
}

/// The number of messages that the stream has lost.
fn missing(info: &Info) -> u64 {
    info.state.last_sequence.saturating_sub(info.state.messages)
}

fn broken_settings(info: &Info) -> Vec<String> {
    provision::broken_settings(&info.config).iter().map(ToString::to_string).collect()
}

/// Only the log and its checkpoints must keep everything; buckets drop old values.
fn losses(info: &Info) -> Option<String> {
    let (stream, missing) = (&info.config.name, missing(info));
    (missing > 0 && [LOG_STREAM, CHECKPOINT_STREAM].contains(&stream.as_str())).then(|| {
        format!(
            "{missing} of the {} messages of stream {stream} are gone: a limit such as max_age removed them, they were \
             deleted, or a disk was damaged. Take the limit away, keep the data directories of running replicas, and restore \
             a backup that has the messages",
            info.state.last_sequence
        )
    })
}

fn copies(info: &Info, cluster: Option<&str>) -> Vec<String> {
    let stream = &info.config.name;
    let Some(cluster) = cluster else { return Vec::new() };
    let copies = info.config.num_replicas;
    if copies == 1 {
        return vec![format!(
            "stream {stream} has one copy, in the cluster {cluster}: it is away while that server is. Raise it with \
             `nats stream edit {stream} --replicas 3`, and start replicas with --stream-replicas 3"
        )];
    }
    let group = info.cluster.as_ref();
    let peers = group.map_or(&[][..], |group| &group.replicas);
    let mut found: Vec<_> = peers
        .iter()
        .filter_map(|peer| {
            let lag = peer.lag.unwrap_or_default();
            match (peer.offline, peer.current) {
                (true, _) => Some(format!(
                    "stream {stream}: its server {} is offline. Start it again: more than half of {copies} have to run",
                    peer.name
                )),
                (false, false) => Some(format!(
                    "stream {stream}: the copy on {} is not current ({lag} operations behind). It catches up by \
                     itself; if it stays so, look at that server's log and disk",
                    peer.name
                )),
                (false, true) => None,
            }
        })
        .collect();
    let leader = group.and_then(|group| group.leader.as_deref()).unwrap_or_default();
    if leader.is_empty() {
        found.push(format!(
            "stream {stream} has no leader and accepts nothing: more than half of its {copies} servers have to run. \
             Start those that are down"
        ));
    } else if peers.len() + 1 < copies {
        found.push(format!(
            "stream {stream} is to have {copies} copies, and NATS reports {}. Start the servers that are missing",
            peers.len() + 1
        ));
    }
    found
}

/// The streams that refuse what is new when they are full. The others drop what is old.
fn fullness(info: &Info) -> Option<String> {
    use async_nats::jetstream::stream::DiscardPolicy;
    let stream = &info.config.name;
    let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0)?;
    let percent = info.state.bytes.saturating_mul(100) / limit;
    (info.config.discard == DiscardPolicy::New && percent >= NEARLY_FULL_PERCENT).then(|| {
        format!(
            "stream {stream} is {percent} % full ({} of {limit} bytes); at its limit it refuses everything new. Raise \
             it with `nats stream edit {stream} --max-bytes …`",
            info.state.bytes
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn info(replicas: u64, bytes: u64, cluster: &Value) -> Info {
        serde_json::from_value(json!({
            "config": {"name": "BROADCASTS", "subjects": ["broadcasts.>"], "retention": "limits", "max_consumers": -1,
                "max_msgs": -1, "max_msgs_per_subject": -1, "max_bytes": 1_000, "max_age": 0, "storage": "file",
                "discard": "new", "deny_delete": true, "deny_purge": true, "num_replicas": replicas},
            "created": "2026-01-01T00:00:00Z",
            "state": {"messages": 1, "bytes": bytes, "first_seq": 1, "first_ts": "2026-01-01T00:00:00Z",
                "last_seq": 1, "last_ts": "2026-01-01T00:00:00Z", "consumer_count": 0},
            "cluster": cluster,
        }))
        .unwrap()
    }

    fn peer(name: &str, current: bool, offline: bool) -> Value {
        json!({"name": name, "current": current, "offline": offline, "active": 0, "lag": 7})
    }

    #[test]
    fn lost_messages_and_a_setting_that_loses_them_are_problems_of_the_log() {
        let mut trimmed = info(1, 1, &Value::Null);
        trimmed.config.max_age = std::time::Duration::from_mins(2);
        trimmed.state.last_sequence = 9;
        trimmed.state.messages = 7;
        let text = problems(&trimmed, None).join("\n");
        assert!(text.contains("2 of the 9 messages of stream BROADCASTS are gone"), "{text}");
        assert!(text.contains("stream BROADCASTS has max_age = 120s"), "{text}");
        let report = report(&trimmed, 3);
        assert_eq!((report.missing, report.copies, report.copies_wanted), (2, 1, 3));
        assert_eq!(report.broken_settings.len(), 1, "{report:?}");
    }

    #[test]
    fn a_stream_without_a_leader_with_a_missing_copy_or_nearly_full_is_a_problem() {
        let said = |info: &Info| problems(info, Some("c")).join("\n");
        let whole = [peer("n2", true, false), peer("n3", true, false)];
        assert_eq!(said(&info(3, 1, &json!({"leader": "n1", "replicas": whole}))), "");
        let offline = [peer("n2", true, true), peer("n3", false, false)];
        let text = said(&info(3, 1, &json!({"leader": "n1", "replicas": offline})));
        assert!(text.contains("n2 is offline") && text.contains("n3 is not current (7"), "{text}");
        let text = said(&info(3, 1, &json!({"replicas": whole})));
        assert!(text.contains("no leader"), "{text}");
        let text = said(&info(3, 1, &json!({"leader": "n1", "replicas": [whole[0]]})));
        assert!(text.contains("NATS reports 2"), "{text}");
        let text = said(&info(1, 799, &json!({"leader": "n1"})));
        assert!(text.contains("one copy"), "{text}");
        assert_eq!(
            problems(&info(1, 799, &Value::Null), None),
            Vec::<String>::new(),
            "one server has one copy"
        );
        let text = problems(&info(1, 800, &Value::Null), None).join("\n");
        assert!(text.contains("80 % full"), "{text}");
    }
}
