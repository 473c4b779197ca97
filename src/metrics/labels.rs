//! The labels. Each has few values, known beforehand: no path, no user and no address is ever one.

use prometheus_client::encoding::EncodeLabelSet;

use crate::domain::Channel;
use crate::warnings::Warning;

/// By channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByChannel {
    channel: String,
}

impl From<&Channel> for ByChannel {
    fn from(channel: &Channel) -> Self {
        Self { channel: channel.as_str().to_owned() }
    }
}

/// By what an append came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    outcome: &'static str,
}

impl ByOutcome {
    /// The log has it.
    pub const APPENDED: Self = Self { outcome: "appended" };
    /// The log had it.
    pub const DUPLICATE: Self = Self { outcome: "duplicate" };
    /// Another event came first.
    pub const CONFLICT: Self = Self { outcome: "conflict" };
    /// The log takes nothing more, or nothing so large.
    pub const REFUSED: Self = Self { outcome: "refused" };
    /// There was no answer, or none that says what became of it.
    pub const UNKNOWN: Self = Self { outcome: "unknown" };

    pub(super) const APPENDS: [Self; 5] =
        [Self::APPENDED, Self::DUPLICATE, Self::CONFLICT, Self::REFUSED, Self::UNKNOWN];
}

/// By why something happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    reason: &'static str,
}

impl ByReason {
    /// The store did not open, did not decode, or failed.
    pub const DAMAGED: Self = Self { reason: "damaged" };
    /// The log is another one than the store is of.
    pub const OTHER_LOG: Self = Self { reason: "other_log" };
    /// The tree is not the one of a checkpoint.
    pub const DISAGREES: Self = Self { reason: "disagrees" };
    /// Messages that a newer build may know.
    pub(super) const FUTURE: Self = Self { reason: "future" };
    /// Messages that are no events of Tidings.
    pub(super) const FOREIGN: Self = Self { reason: "foreign" };

    pub(super) const REBUILDS: [Self; 3] = [Self::DAMAGED, Self::OTHER_LOG, Self::DISAGREES];

    /// By an error's code, as it stands in answers.
    pub const fn error(code: &'static str) -> Self {
        Self { reason: code }
    }
}

/// By the state of a copy of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByState {
    pub(super) state: &'static str,
}

/// By what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByWarning {
    code: &'static str,
}

impl From<Warning> for ByWarning {
    fn from(warning: Warning) -> Self {
        Self { code: warning.code() }
    }
}

/// By close code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCode {
    code: String,
}

impl ByCode {
    /// Every code that a replica sends, and none.
    pub(super) fn known() -> impl Iterator<Item = Self> {
        let codes = [1002, 1003, 1007, 1009, 1012, 1013, 4008, 4010, 4011, 4029, 4401];
        codes.map(Some).into_iter().chain([None]).map(Self::sent)
    }

    /// The code that the replica sent; without one, the client ended the connection or is gone.
    pub fn sent(code: Option<u16>) -> Self {
        Self { code: code.map_or_else(|| "client".to_owned(), |code| code.to_string()) }
    }
}

/// By route and method: where a request went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRoute {
    /// One of the methods of HTTP, or `other`.
    pub method: &'static str,
    /// The template, such as `/api/{channel}/broadcast/active`; empty where there is nothing.
    pub route: String,
}

/// By route, method and status: what became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRequest {
    /// See [`ByRoute`].
    pub method: &'static str,
    /// See [`ByRoute`].
    pub route: String,
    /// The status code.
    pub status: u32,
}
