//! The benchmark of the fan-out judges by what its own tools say, so these are held to it: they count right, and they notice.

#[path = "../bench/fanout/capacity.rs"]
mod capacity;
#[path = "../bench/fanout/frames.rs"]
mod frames;
#[path = "../bench/fanout/heard.rs"]
mod heard;
#[path = "../bench/fanout/identity.rs"]
mod identity;
#[expect(dead_code, reason = "its rows use the rest")]
#[path = "../bench/fanout/load.rs"]
mod load;
#[path = "../bench/fanout/statistics.rs"]
mod statistics;
#[path = "../bench/fanout/table.rs"]
mod table;

mod of_capacity {
    use super::capacity::model;
    use super::table::Table;

    fn measured(delivery_us: f64, connection_bytes: f64) -> Table {
        let mut table = Table::default();
        let (alone, compared) = ("one acknowledges alone, on one node", ("tidings", "append"));
        table.column(alone, compared, "append", 1).keep("one after the other", "a second", 2_000.0);
        let acks = "9 acknowledgements at once";
        let mut keep = |row, measure, unit, value| {
            table.column(row, ("tidings", "append"), "tidings", 1).keep(measure, unit, value);
        };
        keep("one broadcast to 9 idle clients", "CPU a delivery", "µs", delivery_us);
        keep("one broadcast to 9 idle clients", "an idle connection, RssAnon", "bytes", connection_bytes);
        keep("9 handshakes at once", "handshakes", "a second", 10_000.0);
        keep(acks, "confirmed", "a second", 20_000.0);
        keep(acks, "an acknowledgement in the log", "bytes", 60.0);
        keep("a log of 9 acknowledgements, 500 an event", "read", "acknowledgements a second", 500_000.0);
        table
    }

    #[test]
    fn the_narrowest_limit_counts() {
        for (delivery_us, connection_bytes, replicas) in [
            (5.0, 1_000.0, "| replicas, 100,000 connections each (choice is the limit) | 10.0 | 1,000 |"),
            (20.0, 1_000.0, "| replicas, 50,000 connections each (its core is the limit) | 20.0 | 2,000 |"),
            (5.0, 80_000.0, "| replicas, 50,000 connections each (its memory is the limit) | 20.0 | 2,000 |"),
        ] {
            let model = model(&measured(delivery_us, connection_bytes), "tidings", "append").unwrap();
            assert!(model.contains(replicas), "{model}");
        }
    }

    #[test]
    fn the_rest_follows() {
        let model = model(&measured(5.0, 1_000.0), "tidings", "append").unwrap();
        for line in [
            "| a broadcast is at the last client after, s | 0.50 | 0.50 |",
            "| everybody of one replica is back after, s | 1.11 | 0.01 |",
            "| acknowledgements a second | 1,667 | 166,667 |",
            "| of what every replica applies, % | 0.33 | 33.3 |",
            "| acknowledgements that have to share an append | 1.00 | 83.3 |",
            "| an acknowledgement waits for its append at most, s | 5.0e-3 | 0.50 |",
            "| NATS sends of them to all replicas, MB a second | 1.00 | 10,000 |",
            "| growth of the log, GB a day | 0.60 | 60.0 |",
            "| a replica from an empty disk, h for each year of the log | 2.03 | 203 |",
        ] {
            assert!(model.contains(line), "{line} is not in {model}");
        }
        assert_eq!(super::capacity::model(&Table::default(), "tidings", "append"), None);
    }
}

mod of_frames {
    use super::frames::*;

    #[test]
    fn frames_of_every_length_are_found_once_they_are_whole() {
        for length in [0, 1, 125, 126, 300, 65_535] {
            let text = "x".repeat(length);
            let mut bytes = of_server("before");
            let at = bytes.len();
            bytes.extend(of_server(&text));
            for cut in at..bytes.len() {
                assert_eq!(frame_at(&bytes[..cut], at), None, "{length} cut at {cut}");
            }
            let frame = frame_at(&bytes, at).unwrap();
            assert_eq!((frame.kind, &bytes[frame.payload.clone()]), (TEXT, text.as_bytes()));
            assert_eq!(frame.payload.end, bytes.len());
        }
    }

    #[test]
    fn a_client_masks_what_it_says() {
        let frame = of_client(TEXT, b"hello, world");
        assert_eq!((frame[0], frame[1], frame.len()), (0x81, 0x8c, 6 + 12));
        let unmasked: Vec<_> =
            frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(unmasked, b"hello, world");
        assert!(find(&frame, b"hello").is_none());
        assert_eq!(of_client(PONG, b"")[..2], [0x8a, 0x80]);
    }

    #[test]
    fn numbers_are_read_behind_their_word() {
        assert_eq!(number_after(br##"{"message":"#000042 x"}"##, b"\"message\":\"#"), Some(42));
        assert_eq!(number_after(b"sequence:x", b"sequence:"), None);
        assert_eq!(number_after(b"nothing", b"sequence:"), None);
    }
}

mod of_heard {
    use super::frames::{CLOSE, PING, frame_at, of_server};
    use super::heard::*;

    fn told(heard: &mut Heard, next: &mut u64, text: &str) -> Reaction {
        let bytes = of_server(text);
        heard.hear(&bytes, &frame_at(&bytes, 0).unwrap(), next, 2)
    }

    fn broadcast(number: u64) -> String {
        format!(r#"{{"type":"new_broadcast","broadcast":{{"id":"x","message":"{}"}}}}"#, message(number))
    }

    #[test]
    fn a_broadcast_is_complete_once_everybody_has_it() {
        let mut heard = Heard::default();
        let (mut ann, mut bob) = (0, 0);
        told(&mut heard, &mut ann, &broadcast(0));
        assert!(heard.completed_at(0).is_none());
        told(&mut heard, &mut bob, &broadcast(0));
        assert!(heard.completed_at(0).is_some());
        assert_eq!(
            (heard.deliveries, heard.wrong(), heard.delivered_bytes),
            (2, 0, of_server(&broadcast(0)).len())
        );
    }

    #[test]
    fn what_is_missed_doubled_or_late_counts() {
        let (mut heard, mut next) = (Heard::default(), 0);
        for number in [0, 1, 1, 4, 3] {
            told(&mut heard, &mut next, &broadcast(number));
        }
        assert_eq!((heard.missed, heard.out_of_order, heard.wrong()), (2, 2, 4));
    }

    #[test]
    fn the_rest_is_told_apart() {
        let (mut heard, mut next) = (Heard::default(), 0);
        told(&mut heard, &mut next, &broadcast(7).replace("new_broadcast", "active_broadcast"));
        for sequence in [8, 8, 9] {
            let text = format!(
                r#"{{"type":"acknowledged","broadcast_id":"x","position":"9f2c41d07be3a865-{sequence}"}}"#
            );
            told(&mut heard, &mut next, &text);
        }
        assert_eq!(
            (heard.greeted, heard.deliveries, heard.confirmed, heard.confirmed_in.len()),
            (1, 0, 3, 2)
        );
        let mut frame = |kind, payload: &[u8]| {
            let bytes = [&[0x80 | kind, u8::try_from(payload.len()).unwrap()], payload].concat();
            heard.hear(&bytes, &frame_at(&bytes, 0).unwrap(), &mut next, 1)
        };
        assert_eq!(
            (frame(PING, b""), frame(CLOSE, &4008_u16.to_be_bytes())),
            (Reaction::Pong, Reaction::Close)
        );
        assert_eq!(heard.trouble.as_deref(), Some("a client was closed with Some(4008)"));
    }

    #[test]
    fn messages_have_the_recommended_length() {
        assert_eq!((message(0).len(), message(999_999).len()), (CHARACTERS, CHARACTERS));
        let long = long_message(7);
        assert_eq!((long.chars().count(), long.len()), (MOST_CHARACTERS, 8 + 4 * (MOST_CHARACTERS - 8)));
    }
}

mod of_load {
    use super::identity::{BELIEVING, Issuer, SECRET};
    use super::load::{Load, Plan};
    use crate::support::{Nats, Replica, Spec};

    const PLAN: Plan = Plan { clients: 20, deaf: 0, at_once: 4, greeted: true, long: false };

    /// A load of its own number, which has addresses of its own.
    async fn load_of(issuer: &Issuer, number: u32) -> (Nats, Replica, Load) {
        let nats = Nats::start().await;
        let spec = Spec::joining(nats.url()).with(&BELIEVING).with_variable("TIDINGS_AUTH_SECRET", SECRET);
        let replica = Replica::start_with(spec).await;
        let address = replica.url().trim_start_matches("http://").parse().unwrap();
        let load = Load::of(address, PLAN, number, issuer).unwrap();
        (nats, replica, load)
    }

    // The load blocks the thread that it is on.
    #[tokio::test(flavor = "multi_thread")]
    async fn clients_with_tokens_hear_each_broadcast_once_and_acknowledge_it() {
        let (_nats, _replica, mut load) = load_of(&Issuer::new().unwrap(), 90).await;
        load.connect().unwrap();
        assert_eq!((load.upgraded, load.refused, load.heard.greeted), (20, 0, 20));
        for expected in 0..3 {
            let number = load.post().unwrap();
            let accepted = load.accepted().unwrap();
            assert_eq!(number, expected);
            assert!(load.delivered(number).unwrap() >= accepted.posted);
            for client in 0..20 {
                load.acknowledge(client, &accepted.id).unwrap();
            }
            let confirmed = 20 * (usize::try_from(number).unwrap() + 1);
            load.until("all are confirmed", |load| load.heard.confirmed >= confirmed).unwrap();
        }
        load.overhear().unwrap();
        let heard = &load.heard;
        assert_eq!((heard.deliveries, heard.wrong(), load.lost), (60, 0, 0));
        assert_eq!((heard.confirmed, &heard.trouble), (60, &None));
    }

    // The load blocks the thread that it is on.
    #[tokio::test(flavor = "multi_thread")]
    async fn clients_whose_tokens_are_of_somebody_else_are_refused() {
        let stranger = Issuer::of("another secret: 32 bytes or more of it").unwrap();
        let (_nats, _replica, mut load) = load_of(&stranger, 91).await;
        load.connect().unwrap();
        assert_eq!((load.upgraded, load.refused), (0, 20));
        let trouble = load.heard.trouble.as_deref().unwrap();
        assert!(trouble.contains("401") && trouble.contains("invalid_token"), "{trouble}");
        load.post().unwrap();
        let refused = load.accepted().unwrap_err();
        assert!(format!("{refused:#}").contains("a broadcast was not accepted"), "{refused:#}");
    }
}

mod of_statistics {
    use super::statistics::*;

    #[test]
    fn nine_rounds_promise_more_than_95_percent_from_the_second_to_the_eighth() {
        let summary = Summary::of(&[9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]).unwrap();
        assert!((summary.median - 5.0).abs() < 1e-9);
        assert!((summary.low - 2.0).abs() < 1e-9 && (summary.high - 8.0).abs() < 1e-9);
        assert!((summary.confidence - 0.9609).abs() < 1e-3, "{summary:?}");
    }

    #[test]
    fn twenty_rounds_promise_it_from_the_sixth_to_the_fifteenth() {
        let values: Vec<_> = (1..=20).map(f64::from).collect();
        let summary = Summary::of(&values).unwrap();
        assert!((summary.median - 10.5).abs() < 1e-9);
        assert!((summary.low - 6.0).abs() < 1e-9 && (summary.high - 15.0).abs() < 1e-9);
        assert!((summary.confidence - 0.9586).abs() < 1e-3, "{summary:?}");
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(
            [1, 50, 98, 99, 100].map(|p| percentile(&values, p).to_bits()),
            [1.0, 25.0, 49.0, 50.0, 50.0].map(f64::to_bits)
        );
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn too_few_rounds_say_how_little_they_promise() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert!((summary.low - 1.0).abs() < 1e-9 && (summary.high - 3.0).abs() < 1e-9);
        assert!((summary.confidence - 0.75).abs() < 1e-9);
        let alone = Summary::of(&[7.0]).unwrap();
        assert!(alone.low <= alone.high && alone.confidence.abs() < 1e-9);
        assert_eq!(Summary::of(&[]), None);
    }
}

mod of_table {
    use super::table::*;

    const WHO: (&str, &str) = ("tidings", "send loop");

    fn table() -> Table {
        let mut table = Table::default();
        for round in 0..9 {
            // The machine is slower in every round, for both.
            let slower = f64::from(round + 1);
            let mut base = table.column("one broadcast", WHO, "send loop", round);
            base.compare("CPU a delivery", "µs", 2.0 * slower);
            base.keep("lost", "deliveries", 0.0);
            table.column("one broadcast", WHO, "tidings", round).compare(
                "CPU a delivery",
                "µs",
                3.0 * slower,
            );
        }
        table
    }

    #[test]
    fn everybody_is_put_in_relation_round_by_round() {
        let lines = table().markdown();
        assert!(
            lines.contains("**one broadcast** (9 rounds, intervals of 96 %; × is in relation to send loop)"),
            "{lines}"
        );
        assert!(lines.contains("| | tidings | send loop |\n| --- | --- | --- |\n"), "{lines}");
        assert!(
            lines.contains("| CPU a delivery, µs | 15.0 (6.00–24.0), × 1.50 | 10.0 (4.00–16.0) |"),
            "{lines}"
        );
        assert!(lines.contains("| lost, deliveries |  | 0 |"), "{lines}");
        assert_eq!(table().median("broadcast", "CPU a delivery", "µs", "tidings"), Some(15.0));
        assert_eq!(table().median("broadcast", "CPU a delivery", "ms", "tidings"), None);
    }

    #[test]
    fn what_must_be_0_and_is_not_is_a_fault() {
        let mut table = table();
        let mut column = table.column("one broadcast", WHO, "send loop", 9);
        column.none("doubled", "deliveries", 0.0);
        column.keep("heard", "pings", 1.0);
        assert_eq!(table.faults().count(), 0);
        table.column("one broadcast", WHO, "tidings", 9).none("doubled", "deliveries", 2.0);
        table.column("a storm", WHO, "tidings", 1).none("refused", "clients", f64::NAN);
        let faults: Vec<_> = table.faults().collect();
        assert_eq!(
            faults,
            [
                "one broadcast, round 9: of tidings, 2.00 deliveries doubled",
                "a storm, round 1: of tidings, NaN clients refused",
            ]
        );
        let lines = table.markdown();
        assert!(lines.contains("| doubled, deliveries | 2.00 | 0 |"), "{lines}");
    }

    #[test]
    fn programs_get_every_round() {
        let json = table().json();
        assert_eq!((&json[0]["of"], &json[1]["of"]), (&"send loop".into(), &"tidings".into()));
        assert_eq!(json[1]["rounds"].as_object().unwrap().len(), 9);
        assert!((json[1]["ratio"]["median"].as_f64().unwrap() - 1.5).abs() < 1e-9, "{json}");
        assert!(json[0]["ratio"].is_null());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.001_23, 1.234, 12.34, 1234.5, 1_234_567.0, -999_999.6].map(short);
        assert_eq!(shown, ["0", "1.2e-3", "1.23", "12.3", "1,234", "1,234,567", "-1,000,000"]);
    }
}
