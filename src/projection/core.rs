//! What was folded, in memory.

use super::ledger::Ledger;
use super::tree::Tree;
use crate::domain::State;

/// The log's state, its tree, and where in the log that is.
#[derive(Default)]
pub(super) struct Core {
    pub(super) log: State,
    pub(super) tree: Tree,
    pub(super) ledger: Ledger,
}
