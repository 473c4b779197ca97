//! The errors of the layers below.

use axum::http::StatusCode;
use serde_json::json;

use super::ApiError;
use super::response::capitalised;
use crate::audit::proof::ProofError;
use crate::audit::proof::of_replica::ReplicaProofError;
use crate::domain::types::MAX_MESSAGE_CHARS;
use crate::domain::{Rejection, Severity};
use crate::http::server::socket_limit::Refused;
use crate::projection::Unavailable;
use crate::push::admission;
use crate::push::wire::Close;
use crate::submit::SubmitError;

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let (code, message) = (rejection.code(), rejection.to_string());
        let error = |status| Self::new(status, code, message);
        match rejection {
            Rejection::MessageEmpty | Rejection::KeyReused => error(StatusCode::UNPROCESSABLE_ENTITY),
            Rejection::MessageTooLong { length } => error(StatusCode::UNPROCESSABLE_ENTITY)
                .with("character_count", length)
                .with("max_characters", MAX_MESSAGE_CHARS),
            Rejection::MessageForbiddenCharacter { character, position: place } => {
                error(StatusCode::UNPROCESSABLE_ENTITY)
                    .with("character", format!("U+{:04X}", u32::from(character)))
                    .with("position", place)
            }
            Rejection::UnknownType { .. } => {
                error(StatusCode::UNPROCESSABLE_ENTITY).with("allowed", json!(Severity::ALL))
            }
            Rejection::UnknownBroadcast { .. } => error(StatusCode::NOT_FOUND),
            Rejection::NotActive { active } => {
                error(StatusCode::PRECONDITION_FAILED).with("active", json!(active))
            }
            Rejection::AlreadyActive { active } => {
                error(StatusCode::PRECONDITION_FAILED).with("active", json!(active))
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            SubmitError::Rejected(rejection) => rejection.into(),
            SubmitError::RateLimited(limited) => limited.into(),
            SubmitError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, message),
            SubmitError::Busy | SubmitError::Contended | SubmitError::CatchingUp => {
                Self::unavailable(code, message)
            }
            SubmitError::Away | SubmitError::OutboxFailed => Self::unavailable(code, message).retry_after(5),
            SubmitError::LogFull | SubmitError::OutboxFull => {
                Self::unavailable(code, message).retry_after(60)
            }
            SubmitError::Unknown { id } => Self::unavailable(code, message)
                .retry_after(5)
                .with("outcome", "unknown")
                .with("id", id.to_string()),
        }
    }
}

/// `503`: the TCP connection is rejected.
impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::unavailable(
                "too_many_sockets",
                "This replica has reached its limit of TCP connections.",
            ),
            Refused::AddressFull => Self::unavailable(
                "too_many_sockets_of_address",
                "Your address has reached its limit of TCP connections to this replica.",
            ),
        }
        .retry_after(5)
    }
}

/// `429`: this user has reached the limit of connections.
impl From<admission::Full> for ApiError {
    fn from(_: admission::Full) -> Self {
        let message = "You have reached the limit of connections to this replica for one user.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections_of_user", message).retry_after(30)
    }
}

impl From<Unavailable> for ApiError {
    fn from(_: Unavailable) -> Self {
        SubmitError::CatchingUp.into()
    }
}

impl From<ReplicaProofError> for ApiError {
    fn from(no_proof: ReplicaProofError) -> Self {
        match no_proof {
            ReplicaProofError::ProofError(unprovable) => unprovable.into(),
            ReplicaProofError::Behind(wanted, have) => Self::behind_event(wanted, have),
            ReplicaProofError::Unavailable => Unavailable.into(),
            ReplicaProofError::Away(_) => Self::log_away(),
        }
    }
}

impl From<ProofError> for ApiError {
    fn from(unprovable: ProofError) -> Self {
        let message = sentence(&unprovable.to_string());
        match unprovable {
            ProofError::UnknownBroadcast(id) => Self::unknown_broadcast(id),
            ProofError::NotAcknowledged(..) => Self::new(StatusCode::NOT_FOUND, "not_acknowledged", message),
            ProofError::NoCheckpoint => Self::no_checkpoint(),
            ProofError::NoSalt(sequence) | ProofError::Lost(sequence) => {
                Self::invalid("not_provable", message).with("sequence", sequence)
            }
            ProofError::NotInLog => Self::unavailable("not_signed", message).retry_after(5),
            ProofError::NotSigned(sequence, _) => {
                Self::unavailable("not_signed", message).retry_after(10).with("sequence", sequence)
            }
            ProofError::Shorter(..) | ProofError::Differs(_) => {
                Self::unavailable("log_differs", message).retry_after(60)
            }
        }
    }
}

/// A reason as a sentence.
fn sentence(reason: &str) -> String {
    capitalised(reason) + "."
}

/// The reason for which a connection would be closed, before it is open.
impl From<Close> for ApiError {
    fn from(close: Close) -> Self {
        match close {
            Close::Full => Self::full(),
            _ => Self::stopping(),
        }
    }
}
