//! What a shard works with, whatever the connection.

use std::sync::Arc;

use super::client::{Limits, TokenVerifier};
use super::tick::ShardClock;
use crate::metrics::Metrics;
use crate::projection::Projection;
use crate::submit::Acks;

/// The services and limits of a shard.
pub(super) struct Context {
    /// The state of this replica.
    pub(super) projection: Projection,
    pub(super) metrics: Metrics,
    /// The write path of acknowledgements.
    pub(super) acks: Acks,
    /// Verifies tokens that clients refresh.
    pub(super) tokens: Arc<dyn TokenVerifier>,
    /// The limits of WebSockets.
    pub(super) limits: Limits,
    pub(super) clock: ShardClock,
}
