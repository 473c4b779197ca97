//! Memory: how much of the state stays in it, and what is unloaded beyond that.

use std::sync::Arc;

use super::store::{Pace, Store};
use crate::domain::{AckMap, AckSet, BroadcastId, BroadcastState, PackedSet, State};

/// The most that may stay in memory beside the active broadcasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Other broadcasts.
    broadcasts: usize,
    /// The acknowledgements that these have together in hash tables: some 10 MB.
    acks: usize,
    /// And in packed sets, which are on disk too.
    packed: usize,
    /// Entries of the index of lifecycle events.
    lifecycle_events: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { broadcasts: 256, acks: 1 << 18, packed: 0, lifecycle_events: 1 << 10 }
    }
}

impl Bounds {
    /// The bounds of a replica. Late acknowledgements are mostly of what ended last, whose sets stay packed in memory, so that no
    /// user has to be looked up on disk. They take 24 MiB.
    pub(super) fn of_a_replica() -> Self {
        Self { packed: 1 << 20, ..Self::default() }
    }

    /// Whether no more is in memory than may stay. Active broadcasts do not count, however many acknowledgements they have.
    pub(super) fn are_kept(&self, state: &State) -> bool {
        let (broadcasts, acks) = loaded(state);
        broadcasts <= self.broadcasts
            && acks <= self.acks
            && state.lifecycle_events.len() <= self.lifecycle_events
    }
}

/// Broadcasts in memory that are not active, and acknowledgements that they have in hash tables.
fn loaded(state: &State) -> (usize, usize) {
    let inactive = state.broadcasts.values().filter(|known| !is_active(known));
    inactive.fold((0, 0), |(broadcasts, acks), known| {
        (broadcasts + 1, acks + known.acknowledgements.recent_len())
    })
}

const fn is_active(known: &BroadcastState) -> bool {
    known.end.is_none() && !known.late
}

/// What is on its way out of memory.
#[derive(Default)]
pub(super) struct Unloading {
    /// Broadcasts whose records leave.
    records: Vec<BroadcastId>,
    /// Broadcasts whose acknowledgements leave, those of the records among them.
    sets: Vec<Leaving>,
}

/// A set that leaves the memory.
struct Leaving {
    id: BroadcastId,
    /// Its users, if it has to be sealed first.
    unsealed: Option<Arc<AckMap>>,
    /// Whether it stays as a packed set.
    is_packed: bool,
    /// The packed set, once it is sealed.
    packed: Option<PackedSet>,
}

impl Unloading {
    /// Chooses what is to be unloaded so that half of the bounds are kept, longest unused first, and freezes the sets that
    /// have to be sealed for that. A broadcast whose acknowledgements are too many keeps its record, and those that were used
    /// last keep a packed set. Active broadcasts stay. `used` orders broadcasts by their last use.
    pub(super) fn choose(bounds: &Bounds, state: &mut State, used: impl Fn(BroadcastId) -> u64) -> Self {
        let (broadcasts, acks) = loaded(state);
        let mut inactive: Vec<_> = state.broadcasts.values().filter(|known| !is_active(known)).collect();
        inactive.sort_by_key(|known| (used(known.broadcast.id), known.broadcast.id));
        let (leave, stay) = inactive.split_at(broadcasts.saturating_sub(bounds.broadcasts / 2));
        let mut left = acks - leave.iter().map(|known| known.acknowledgements.recent_len()).sum::<usize>();
        let is_unloaded = |known: &&BroadcastState| {
            let users = known.acknowledgements.recent_len();
            let is_unloaded = left > bounds.acks / 2 && users > 0;
            left -= if is_unloaded { users } else { 0 };
            is_unloaded
        };
        let unloaded: Vec<_> = stay.iter().map(is_unloaded).collect();
        let records: Vec<_> = leave.iter().map(|known| known.broadcast.id).collect();
        let mut sets: Vec<_> = records.iter().map(|id| (*id, false)).collect();
        let mut room = bounds.packed;
        for (known, is_unloaded) in stay.iter().zip(unloaded).rev() {
            let set = &known.acknowledgements;
            let packed =
                if is_unloaded { set.is_open().then(|| set.recent_len()) } else { Some(set.packed_len()) };
            match packed.and_then(|packed| room.checked_sub(packed)) {
                Some(left) => {
                    room = left;
                    sets.extend(is_unloaded.then_some((known.broadcast.id, true)));
                }
                None => sets.push((known.broadcast.id, false)),
            }
        }
        let leaving = |(id, is_packed)| {
            let unsealed = state.broadcasts.get_mut(&id).and_then(|known| known.acknowledgements.freeze());
            Leaving { id, unsealed, is_packed, packed: None }
        };
        Self { records, sets: sets.into_iter().map(leaving).collect() }
    }

    /// Seals the sets that are on disk only as single acknowledgements. It takes time, and may run beside the fold.
    pub(super) fn seal(&mut self, store: &Store, pace: Pace) -> anyhow::Result<()> {
        for set in &mut self.sets {
            if let Some(users) = set.unsealed.take() {
                set.packed = store.seal(set.id, &users, pace, set.is_packed)?;
            }
        }
        Ok(())
    }

    /// Broadcasts whose records leave.
    pub(super) fn records(&self) -> &[BroadcastId] {
        &self.records
    }

    /// Unloads what was chosen and sealed. Returns what is to be dropped where nothing waits for it.
    pub(super) fn unload(self, state: &mut State) -> Unloaded {
        state.lifecycle_events.clear();
        let mut unloaded = Unloaded::default();
        for Leaving { id, packed, .. } in self.sets {
            let Some(known) = state.broadcasts.get_mut(&id) else { continue };
            unloaded.sets.push(match packed {
                Some(packed) => known.acknowledgements.pack(packed),
                None => known.acknowledgements.unload(),
            });
        }
        unloaded.broadcasts = self.records.iter().filter_map(|id| state.broadcasts.remove(id)).collect();
        unloaded
    }
}

/// What was unloaded. Dropping it may take a while.
#[derive(Default)]
pub(super) struct Unloaded {
    broadcasts: Vec<BroadcastState>,
    sets: Vec<AckSet>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        Acknowledged, Acknowledgement, Broadcast, Event, Fingerprint, Needs, Pending, Severity, Timestamp,
        UserId, View,
    };
    use crate::projection::decoded_entry::DecodedEntry;
    use crate::projection::materializer::Materializer;

    const SMALL: Bounds = Bounds { broadcasts: 6, acks: 40, packed: 60, lifecycle_events: 20 };

    /// A broadcast that supersedes the one before, or users who acknowledge the so many-th before it.
    #[derive(Clone, Debug)]
    enum Act {
        Post,
        Acknowledge(usize, Vec<u8>),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let users = prop::collection::vec(any::<u8>(), 1..30);
        let act = prop_oneof![
            1 => Just(Act::Post),
            3 => (prop_oneof![3 => Just(0_usize), 2 => 0_usize..12], users).prop_map(|(back, users)| Act::Acknowledge(back, users)),
        ];
        prop::collection::vec(act, 1..80)
    }

    fn id(number: usize) -> BroadcastId {
        BroadcastId(Uuid::from_u128(number as u128 + 1))
    }

    fn user(number: u8) -> UserId {
        format!("user-{number}").parse().unwrap()
    }

    fn entry(sequence: u64, event: Event) -> DecodedEntry {
        DecodedEntry::of_event(sequence, event.broadcast_id().0, event)
    }

    /// A replica's state with small bounds, and what is true.
    struct World {
        store: Store,
        materializer: Materializer,
        posts: usize,
        first: HashMap<(BroadcastId, Fingerprint), u64>,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open_scratch(folder.path(), Duration::from_mins(1)).unwrap();
            let mut materializer = Materializer::default();
            materializer.bounds = SMALL;
            Self { store, materializer, posts: 0, first: HashMap::new(), _folder: folder }
        }

        fn act(&mut self, sequence: u64, act: Act) {
            let at = Timestamp::from_unix_ms(0);
            let event = match act {
                Act::Acknowledge(back, users) if back < self.posts => {
                    let broadcast_id = id(self.posts - 1 - back);
                    for number in &users {
                        let key = (broadcast_id, user(*number).fingerprint());
                        self.first.entry(key).or_insert(sequence);
                    }
                    let acknowledged = |number| Acknowledgement { user: user(number), at };
                    let acknowledgements = users.into_iter().map(acknowledged).collect();
                    Event::Acknowledged(Acknowledged { broadcast_id, acknowledgements, salt: None })
                }
                Act::Post | Act::Acknowledge(..) => {
                    self.posts += 1;
                    let (message, created_by) = ("hi".to_owned().try_into().unwrap(), "ann".parse().unwrap());
                    let (id, severity) = (id(self.posts - 1), Severity::Info);
                    Event::Created(Broadcast { id, message, severity, created_by, created_at: at })
                }
            };
            let entries = vec![entry(sequence, event)];
            self.materializer.apply_and_write(&self.store, entries, |_, _| {}).unwrap();
        }

        /// Everybody who acknowledged is found, in memory or in the store, and nobody else.
        fn is_right(&self) {
            let pending = Pending::default();
            for broadcast in (0..self.posts).map(id) {
                let fingerprints = (0..=u8::MAX).map(|number| user(number).fingerprint());
                let needs =
                    self.materializer.state.missing(&Needs::acknowledged(broadcast, fingerprints.clone()));
                let loaded = self.store.load(&needs).unwrap();
                let view = View::new(&self.materializer.state, &pending).with_loaded(&loaded);
                for user in fingerprints {
                    let expected = self.first.get(&(broadcast, user)).copied();
                    assert_eq!(view.acknowledged_by(broadcast, user), expected, "{broadcast:?}");
                }
            }
        }

        fn packed(&self) -> usize {
            self.materializer.state.broadcasts.values().map(|known| known.acknowledgements.packed_len()).sum()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_unloaded_is_found_again_and_what_stays_is_bounded(acts in acts()) {
            let mut world = World::new();
            for (sequence, act) in (1..).zip(acts) {
                world.act(sequence, act);
                prop_assert!(SMALL.are_kept(&world.materializer.state));
                prop_assert!(world.packed() <= SMALL.packed);
            }
            world.is_right();
        }
    }

    #[test]
    fn what_was_used_last_keeps_a_packed_set_and_its_record() {
        let mut world = World::new();
        let acts = [Act::Post, Act::Acknowledge(0, (0..50).collect()), Act::Post];
        (1..).zip(acts).for_each(|(sequence, act)| world.act(sequence, act));
        let set = |world: &World, number| {
            world.materializer.state.broadcast(id(number)).unwrap().acknowledgements.clone()
        };
        assert_eq!((set(&world, 0).packed_len(), set(&world, 0).is_complete()), (50, true));
        // Another one of that size leaves no room for it.
        let acts = [Act::Acknowledge(0, (0..50).collect()), Act::Post, Act::Acknowledge(2, vec![7, 200])];
        (4..).zip(acts).for_each(|(sequence, act)| world.act(sequence, act));
        assert_eq!((set(&world, 1).packed_len(), set(&world, 0).packed_len()), (50, 0));
        assert_eq!((set(&world, 0).is_complete(), world.packed()), (false, 50));
        world.is_right();
    }
}
