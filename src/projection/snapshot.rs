//! The snapshot: the state that readers ask for all the time, small enough to be swapped as a whole with every change.
//!
//! Reading it waits for nothing. It shares the sets of acknowledgements with the owner, who adds to them: no set is copied.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::{
    AckReader, Broadcast, BroadcastId, BroadcastState, Channel, ChannelState, Fingerprint, Timestamp, View,
};
use crate::log;

/// The active broadcast of a channel.
#[derive(Clone, Debug)]
pub struct Active {
    /// The broadcast.
    pub broadcast: Arc<Broadcast>,
    /// The event that activated it; from `PENDING` (2^63) on while the log does not have it.
    pub sequence: u64,
    /// How many users acknowledged it.
    pub acknowledged: u64,
    acknowledgements: Arc<Acknowledgements>,
}

/// Who acknowledged a broadcast: in the log, and in what was accepted here and is not in the log yet.
#[derive(Debug)]
struct Acknowledgements {
    in_log: AckReader,
    pending: Option<AckReader>,
}

impl Active {
    /// A broadcast as the view has it. `known`: the same in an earlier snapshot, if it is there.
    pub(super) fn of(view: View<'_>, state: &BroadcastState, known: Option<&Self>) -> Self {
        let id = state.broadcast.id;
        let known = known.filter(|known| (known.broadcast.id, known.sequence) == (id, state.sequence));
        let broadcast =
            known.map_or_else(|| Arc::new(state.broadcast.clone()), |known| known.broadcast.clone());
        let in_log = view.log().broadcast(id).map(|known| known.acknowledgements.reader());
        let pending = view.pending(id).map(|known| known.acknowledgements.reader());
        let acknowledgements = Acknowledgements { in_log: in_log.unwrap_or_default(), pending };
        Self {
            broadcast,
            sequence: state.sequence,
            acknowledged: state.acknowledged,
            acknowledgements: Arc::new(acknowledgements),
        }
    }

    /// The sequence at which the user with this fingerprint first acknowledged it. While it is active, acknowledgements that came
    /// after the snapshot are found too.
    pub fn acknowledged_by(&self, user: Fingerprint) -> Option<u64> {
        let Acknowledgements { in_log, pending } = &*self.acknowledgements;
        in_log.get(user).or_else(|| pending.as_ref()?.get(user))
    }
}

/// A channel with at least one event.
#[derive(Debug)]
pub(super) struct ChannelSummary {
    pub(super) channel: Channel,
    state: ChannelState,
    active: Option<Active>,
}

/// The state of every channel at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The last event in it; `None` while no log is known.
    pub position: Option<log::Position>,
    /// Whether it has something that was accepted here and is not in the log yet.
    pub has_pending: bool,
    /// By channel, in order.
    channels: Vec<Arc<ChannelSummary>>,
}

impl Snapshot {
    /// A snapshot of the view. Channels that were not `touched` are taken from the snapshot before; `None`: all were.
    pub(super) fn of(
        view: View<'_>,
        position: Option<log::Position>,
        before: &Self,
        touched: Option<&BTreeSet<Channel>>,
    ) -> Self {
        let summary = |channel: &Channel| {
            let known = before.active(channel);
            let active = view.active(channel).map(|state| Active::of(view, state, known));
            Arc::new(ChannelSummary {
                channel: channel.clone(),
                state: view.channel(channel).clone(),
                active,
            })
        };
        let channels = if let Some(touched) = touched {
            let mut channels = before.channels.clone();
            for channel in touched {
                match channels.binary_search_by(|known| known.channel.cmp(channel)) {
                    Ok(index) => channels[index] = summary(channel),
                    Err(index) => channels.insert(index, summary(channel)),
                }
            }
            channels
        } else {
            view.channels().collect::<BTreeSet<_>>().into_iter().map(summary).collect()
        };
        Self { position, has_pending: view.has_pending(), channels }
    }

    fn channel(&self, channel: &Channel) -> Option<&ChannelSummary> {
        let index = self.channels.binary_search_by(|known| known.channel.cmp(channel)).ok()?;
        self.channels.get(index).map(|known| &**known)
    }

    /// The active broadcast of a channel.
    pub fn active(&self, channel: &Channel) -> Option<&Active> {
        self.channel(channel)?.active.as_ref()
    }

    /// The active broadcasts, by channel.
    pub fn all_active(&self) -> impl Iterator<Item = (&Channel, &Active)> {
        self.channels.iter().filter_map(|known| Some((&known.channel, known.active.as_ref()?)))
    }

    /// The active broadcast of this id.
    pub fn active_of_id(&self, id: BroadcastId) -> Option<&Active> {
        self.all_active().map(|(_, active)| active).find(|active| active.broadcast.id == id)
    }

    /// How many broadcasts of a channel were created on the UTC day of `now`.
    pub fn created_today(&self, channel: &Channel, now: Timestamp) -> u64 {
        self.channel(channel).map_or(0, |known| known.state.created_today(now))
    }
}
