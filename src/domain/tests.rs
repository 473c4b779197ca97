//! The rules, as tables and as properties over any order of commands, doubles and replays.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

/// A log of a handful of lines: what `decide` accepts is recorded at once and folded.
#[derive(Default)]
struct World {
    state: State,
    log: Vec<Recorded>,
}

impl World {
    fn submit(&mut self, command: &Command, id: u128) -> Result<Change, Rejection> {
        let id = Uuid::from_u128(id);
        match decide(View::new(&self.state, &Pending::default()), command, at(1_000), id)? {
            None => Ok(Change::Nothing),
            Some(event) => Ok(self.record(command.channel(), id, event)),
        }
    }

    fn record(&mut self, channel: &Channel, id: Uuid, event: Event) -> Change {
        let sequence = self.log.len() as u64 + 1;
        let recorded = Recorded {
            sequence,
            recorded_at: at(2_000),
            channel: channel.clone(),
            id,
            late: false,
            relayed: false,
            sent_to: None,
            event,
        };
        let change = evolve(&mut self.state, &recorded);
        self.log.push(recorded);
        change
    }

    fn active(&self, name: &str) -> Option<u128> {
        self.state.active(&channel(name)).map(|b| b.broadcast.id.0.as_u128())
    }
}

fn create(text: &str) -> Command {
    create_if(text, Precondition::Always)
}

fn create_if(text: &str, condition: Precondition) -> Command {
    Command::Create {
        channel: channel("creator"),
        message: Message::parse(text).unwrap(),
        severity: Severity::Info,
        by: user("ann"),
        condition,
    }
}

fn clear(named: Option<u128>) -> Command {
    clear_if(named.map_or(Precondition::Always, one_of))
}

fn clear_if(condition: Precondition) -> Command {
    Command::Clear { channel: channel("creator"), by: user("ann"), condition }
}

fn one_of(id: u128) -> Precondition {
    Precondition::OneOf(vec![broadcast(id)])
}

fn acknowledge(id: u128, name: &str) -> Command {
    Command::Acknowledge { channel: channel("creator"), broadcast: broadcast(id), user: user(name) }
}

fn broadcast(id: u128) -> BroadcastId {
    BroadcastId(Uuid::from_u128(id))
}

#[test]
fn a_newer_broadcast_takes_the_place_of_the_active_one() {
    let mut world = World::default();
    assert_eq!(world.submit(&create("one"), 1), Ok(Change::Activated { id: broadcast(1), superseded: None }));
    let superseded = Some(broadcast(1));
    assert_eq!(world.submit(&create("two"), 2), Ok(Change::Activated { id: broadcast(2), superseded }));
    assert_eq!(world.active("creator"), Some(2));
    assert_eq!(world.active("forum"), None, "channels do not see each other");
    let end = world.state.broadcast(broadcast(1)).unwrap().end.clone().unwrap();
    assert_eq!((end.sequence, end.reason), (2, EndReason::Superseded));
}

#[test]
fn clearing_takes_down_what_is_active_and_writes_nothing_when_nothing_is() {
    let mut world = World::default();
    assert_eq!(world.submit(&clear(None), 9), Ok(Change::Nothing));
    assert!(world.log.is_empty(), "nothing to clear, nothing written");
    world.submit(&create("one"), 1).unwrap();
    let ended = Change::Ended { id: broadcast(1), reason: EndReason::Cleared };
    assert_eq!(world.submit(&clear(None), 2), Ok(ended));
    assert_eq!(world.active("creator"), None);
}

#[test]
fn conditions_hold_or_refuse() {
    let mut world = World::default();
    let none_active = Err(Rejection::NotActive { active: None });
    assert_eq!(world.submit(&create_if("one", one_of(7)), 1), none_active);
    world.submit(&create("one"), 1).unwrap();
    let other_active = Err(Rejection::NotActive { active: Some(broadcast(1)) });
    assert_eq!(world.submit(&clear(Some(7)), 2), other_active);
    assert_eq!(world.submit(&create_if("two", one_of(7)), 2), other_active);
    assert!(world.submit(&create_if("two", one_of(1)), 2).is_ok());
    assert!(world.submit(&clear(Some(2)), 3).is_ok());
}

#[test]
fn any_active_and_none_active_are_conditions_too() {
    let mut world = World::default();
    assert_eq!(
        world.submit(&create_if("one", Precondition::AnyActive), 1),
        Err(Rejection::NotActive { active: None })
    );
    assert_eq!(world.submit(&clear_if(Precondition::NoneActive), 9), Ok(Change::Nothing));
    world.submit(&create_if("one", Precondition::NoneActive), 1).unwrap();
    let active = Err(Rejection::AlreadyActive { active: broadcast(1) });
    assert_eq!(world.submit(&create_if("two", Precondition::NoneActive), 2), active);
    assert_eq!(world.submit(&clear_if(Precondition::NoneActive), 2), active);
    world.submit(&create_if("two", Precondition::AnyActive), 2).unwrap();
    let list = Precondition::OneOf(vec![broadcast(7), broadcast(2)]);
    world.submit(&create_if("three", list), 3).unwrap();
    world.submit(&clear_if(Precondition::AnyActive), 4).unwrap();
    assert_eq!(world.active("creator"), None);
}

#[test]
fn under_a_used_key_a_condition_is_judged_by_what_was_active_before_its_event() {
    let mut world = World::default();
    world.submit(&create_if("one", Precondition::NoneActive), 1).unwrap();
    world.submit(&create_if("two", one_of(1)), 2).unwrap();
    world.submit(&clear_if(one_of(2)), 3).unwrap();
    world.submit(&create("four"), 4).unwrap();
    // The same requests again: what they demanded is long gone, by their own effect.
    for (request, key) in [
        (create_if("one", Precondition::NoneActive), 1),
        (create_if("two", one_of(1)), 2),
        (create_if("two", Precondition::AnyActive), 2),
        (create_if("two", Precondition::OneOf(vec![broadcast(9), broadcast(1)])), 2),
        (clear_if(one_of(2)), 3),
        (clear_if(Precondition::AnyActive), 3),
    ] {
        assert_eq!(world.submit(&request, key), Ok(Change::Nothing), "{request:?}");
    }
    // What was not so then makes it another request: of a post as of a clear, also when it is so now.
    for (request, key) in [
        (create_if("one", Precondition::AnyActive), 1),
        (create_if("two", Precondition::NoneActive), 2),
        (create_if("two", one_of(2)), 2),
        (create_if("two", one_of(4)), 2),
        (clear_if(Precondition::NoneActive), 3),
        (clear_if(one_of(4)), 3),
    ] {
        assert_eq!(world.submit(&request, key), Err(Rejection::KeyReused), "{request:?}");
    }
}

#[test]
fn a_command_whose_event_is_in_the_log_is_done_however_long_ago() {
    let mut world = World::default();
    world.submit(&create("one"), 1).unwrap();
    world.submit(&clear(None), 2).unwrap();
    world.submit(&create("two"), 3).unwrap();
    assert_eq!(world.submit(&create("one"), 1), Ok(Change::Nothing));
    assert_eq!(world.submit(&clear(None), 2), Ok(Change::Nothing), "does not clear the newer one");
    assert_eq!(world.active("creator"), Some(3));
    assert_eq!(world.submit(&create("other words"), 1), Err(Rejection::KeyReused));
    assert_eq!(world.submit(&clear(Some(3)), 2), Err(Rejection::KeyReused));
}

#[test]
fn acknowledging_needs_a_known_broadcast_and_counts_once() {
    let mut world = World::default();
    assert_eq!(world.submit(&acknowledge(1, "bo"), 9), Err(Rejection::UnknownBroadcast { id: broadcast(1) }));
    world.submit(&create("one"), 1).unwrap();
    assert!(matches!(world.submit(&acknowledge(1, "bo"), 9), Ok(Change::Acknowledged { .. })));
    assert_eq!(world.submit(&acknowledge(1, "bo"), 10), Ok(Change::Nothing));
    world.submit(&create("two"), 2).unwrap();
    assert!(world.submit(&acknowledge(1, "cy"), 11).is_ok(), "also one that is no longer active");
    assert_eq!(world.state.broadcast(broadcast(1)).unwrap().acknowledged, 2);
    let elsewhere =
        Command::Acknowledge { channel: channel("forum"), broadcast: broadcast(1), user: user("bo") };
    assert_eq!(world.submit(&elsewhere, 12), Err(Rejection::UnknownBroadcast { id: broadcast(1) }));
}

#[test]
fn a_late_event_is_on_record_and_never_activates() {
    let mut world = World::default();
    world.submit(&create("one"), 1).unwrap();
    let nothing = Pending::default();
    let view = View::new(&world.state, &nothing);
    let Some(event) = decide(view, &create("late"), at(5), Uuid::from_u128(2)).unwrap() else {
        panic!("expected an event");
    };
    let recorded = Recorded {
        sequence: 2,
        recorded_at: at(2_000),
        channel: channel("creator"),
        id: Uuid::from_u128(2),
        late: true,
        relayed: true,
        sent_to: None,
        event,
    };
    assert_eq!(evolve(&mut world.state, &recorded), Change::RecordedLate { id: broadcast(2) });
    assert_eq!(world.active("creator"), Some(1));
    assert_eq!(world.state.channel(&channel("creator")).lifecycle_head, 1, "another subject, another guard");
}

/// A broadcast and an acknowledgement of it: when they happened by the clocks of the replicas, when the log recorded them, and
/// which of them waited in an outbox. Returns how long the user took.
fn took(created: (i64, i64, bool), acknowledged: (i64, i64, bool)) -> Option<u64> {
    let mut state = State::default();
    let created_event = Event::Created(Broadcast {
        id: broadcast(1),
        message: Message::parse("hi").unwrap(),
        severity: Severity::Info,
        created_by: user("ann"),
        created_at: at(created.0),
    });
    let acknowledgements = vec![Acknowledgement { user: user("bo"), at: at(acknowledged.0) }];
    let acknowledged_event =
        Event::Acknowledged(Acknowledged { broadcast_id: broadcast(1), acknowledgements, salt: None });
    let events = [(created_event, created), (acknowledged_event, acknowledged)];
    for (sequence, (event, (_, recorded_at, relayed))) in (1..).zip(events) {
        let (id, channel) = (Uuid::from_u128(sequence.into()), channel("creator"));
        evolve(
            &mut state,
            &Recorded {
                sequence,
                recorded_at: at(recorded_at),
                channel,
                id,
                late: false,
                relayed,
                sent_to: None,
                event,
            },
        );
    }
    state.broadcast(broadcast(1)).unwrap().delays.quantile(0.5)
}

#[test]
fn how_long_a_user_took_is_by_the_clock_of_the_log_whatever_the_clocks_of_replicas_say() {
    let two_hours = 7_200_000;
    assert_eq!(took((0, 10, false), (20, 30, false)), Some(20));
    assert_eq!(took((-two_hours, 10, false), (two_hours, 30, false)), Some(20));
    assert_eq!(took((two_hours, 10, false), (-two_hours, 30, false)), Some(20));
}

#[test]
fn how_long_a_user_took_while_the_log_was_away_is_not_how_long_it_was_away() {
    assert_eq!(took((0, 90_000, true), (20, 90_001, true)), Some(20), "both waited in the outbox");
    assert_eq!(took((0, 5, false), (25, 90_000, true)), Some(20), "the acknowledgement waited");
    assert_eq!(took((0, 90_000, true), (1, 90_020, false)), Some(20), "seen when the log was back");
}

#[test]
fn what_cannot_be_read_moves_the_guard_and_nothing_else() {
    let mut world = World::default();
    world.submit(&create("one"), 1).unwrap();
    let mut skipped = world.state.clone();
    skipped.note_lifecycle_head(&channel("creator"), 7);
    assert_eq!(skipped.channel(&channel("creator")).lifecycle_head, 7);
    skipped.note_lifecycle_head(&channel("creator"), 1);
    assert_eq!(skipped, world.state);
}

fn any_condition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::Always),
        Just(Precondition::AnyActive),
        Just(Precondition::NoneActive),
        prop::collection::vec((1u128..12).prop_map(broadcast), 1..4).prop_map(Precondition::OneOf),
    ]
}

fn any_command() -> impl Strategy<Value = (Command, u128)> {
    let id = 1u128..12;
    prop_oneof![
        (id.clone(), "[a-c]", any_condition()).prop_map(|(id, text, on)| (create_if(&text, on), id)),
        (id.clone(), any_condition()).prop_map(|(id, on)| (clear_if(on), id + 100)),
        (id, "[a-f]").prop_map(|(id, name)| (acknowledge(id, &name), 0)),
    ]
}

proptest! {
    #[test]
    fn any_order_of_commands_keeps_the_rules(commands in prop::collection::vec(any_command(), 0..60)) {
        let mut world = World::default();
        for (command, id) in &commands {
            let before = world.log.len();
            let answer = world.submit(command, *id);
            if answer.is_err() || answer == Ok(Change::Nothing) {
                prop_assert_eq!(world.log.len(), before, "a no and a no-op write nothing");
            }
            let active: Vec<_> =
                world.state.broadcasts.values().filter(|b| b.end.is_none()).map(|b| b.broadcast.id).collect();
            prop_assert_eq!(&active, &world.state.channel(&channel("creator")).active.into_iter().collect::<Vec<_>>());
            for known in world.state.broadcasts.values() {
                prop_assert_eq!(known.acknowledged, known.acknowledgements.len() as u64);
            }
        }
        let mut replayed = State::default();
        for recorded in &world.log {
            evolve(&mut replayed, recorded);
        }
        prop_assert_eq!(replayed, world.state);
    }

    #[test]
    fn foreign_messages_between_the_events_change_no_fact(
        commands in prop::collection::vec(any_command(), 0..40),
        foreign in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut world = World::default();
        for (command, id) in &commands {
            let _ = world.submit(command, *id);
        }
        let creator = channel("creator");
        let mut state = State::default();
        for (recorded, foreign) in world.log.iter().zip(foreign) {
            if foreign {
                state.note_lifecycle_head(&creator, recorded.sequence);
                prop_assert_eq!(state.channel(&creator).lifecycle_head, recorded.sequence);
            }
            evolve(&mut state, recorded);
        }
        prop_assert_eq!(state.digest, world.state.digest);
        prop_assert_eq!(state.active(&creator), world.state.active(&creator));
        prop_assert_eq!(state.broadcasts, world.state.broadcasts);
    }

    #[test]
    fn a_doubled_event_has_no_effect_however_late(
        commands in prop::collection::vec(any_command(), 1..40),
        doubles in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..10),
    ) {
        let mut world = World::default();
        for (command, id) in &commands {
            let _ = world.submit(command, *id);
        }
        let mut doubled = world.log.clone();
        for (which, later) in doubles {
            if !doubled.is_empty() {
                let which = which.index(doubled.len());
                let later = which + 1 + later.index(doubled.len() - which);
                doubled.insert(later, doubled[which].clone());
            }
        }
        // Sequences stay those of the first copies, so that the two states can be compared field by field.
        let mut state = State::default();
        let mut seen = std::collections::HashSet::new();
        for recorded in &doubled {
            let first = seen.insert(recorded.sequence);
            let head = state.channel(&recorded.channel).lifecycle_head;
            let change = evolve(&mut state, recorded);
            if !first {
                prop_assert_eq!(change, Change::Nothing);
                state.channels.get_mut(&recorded.channel).unwrap().lifecycle_head = head;
            }
        }
        prop_assert_eq!(state, world.state);
    }
}
