//! What was accepted here and is not in the log yet: applied over the state of the log, and announced to this replica's clients.

use std::sync::Arc;

use tracing::warn;

use super::announcement::{Announcement, Changed};
use super::owner::Owner;
use crate::blocking::blocking;
use crate::domain::{Accepted, Change, Event, Needs};
use crate::log::TraceParent;

impl Owner {
    /// Applies what was accepted here over the state of the log, and announces it to this replica's clients. It is on disk
    /// already, so it is applied in any case: over what is in memory, if the store cannot be read.
    pub(super) async fn fold_pending(&mut self, accepted: Vec<(Accepted, Option<TraceParent>)>) {
        let missing = self.materializer.state.missing(&needs_of_accepted(&accepted));
        if !missing.is_empty()
            && let Ok(store) = self.writer.store()
        {
            match blocking(move || store.load(&missing)).await.map_err(anyhow::Error::from).flatten() {
                Ok(loaded) => self.materializer.state.add_loaded(loaded),
                Err(error) => {
                    warn!("what was accepted is shown without the store, which cannot be read: {error:#}");
                    self.fail(error);
                }
            }
        }
        let mut changes = Vec::new();
        for (accepted, trace) in accepted {
            let channel = accepted.channel.clone();
            let pending = Arc::make_mut(&mut self.pending);
            let (sequence, change) = pending.fold(&self.materializer.state, accepted);
            if change != Change::Nothing {
                changes.push(Changed::of(self.view(), channel, sequence, change, trace));
            }
        }
        self.publish_snapshot(None);
        for changed in changes {
            self.send_to_subscribers(Announcement::Changed(Arc::new(changed))).await;
        }
    }

    /// The log has, or has overruled, everything that was pending: shows the state of the log alone.
    pub(super) async fn settle(&mut self) {
        self.pending = Arc::default();
        self.publish_snapshot(None);
        let (sequence, active) = (self.position().sequence, self.active());
        self.send_to_subscribers(Announcement::Settled { sequence, active }).await;
    }
}

fn needs_of_accepted(accepted: &[(Accepted, Option<TraceParent>)]) -> Needs {
    let mut needs = Needs::default();
    for (accepted, _) in accepted {
        let id = accepted.event.broadcast_id();
        needs.broadcasts.push(id);
        if let Event::Acknowledged(brought) = &accepted.event {
            let users = brought.acknowledgements.iter().map(|one| (id, one.user.fingerprint()));
            needs.acknowledged.extend(users);
        }
    }
    needs
}
