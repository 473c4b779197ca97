//! Why a request is not authenticated, or not allowed.

use super::roles::{Grant, Role};
use crate::domain::{Channel, InvalidUserId};
use crate::http::query::QueryError;

/// Why a request is refused for what it says of its sender, its page or its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// There is no token.
    MissingToken {
        /// The cookie that may carry one; none when cookies are not read.
        cookie: Option<String>,
    },
    /// There is a token, and it is not valid.
    InvalidToken(InvalidToken),
    /// The token has expired.
    ExpiredToken,
    /// The token belongs to a different user than the request or the connection names.
    OtherUser,
    /// The signing keys of the token issuer (JWKS) are unavailable.
    KeysUnavailable,
    /// Dev auth: the request names no valid user.
    InvalidUser(InvalidUserId),
    /// Dev auth: the request names no known role.
    UnknownRole,
    /// Dev auth: this header is not UTF-8.
    HeaderNotUtf8(&'static str),
    /// Dev auth has no tokens that could be refreshed.
    NoTokens,
    /// The query cannot be read.
    Query(QueryError),
    /// The user has none of the required roles.
    MissingRole {
        /// Any of these would do.
        required: Vec<Role>,
        /// The channel in which it would count; none when the user has no role of one channel alone.
        channel: Option<Channel>,
        /// The roles of the user.
        own: Vec<Grant>,
    },
    /// The token is in a cookie, and the request has no `Origin`.
    MissingOrigin,
    /// Pages of this origin may not send this request; the explanation.
    OriginNotAllowed(String),
    /// Dev auth: the request names a host that is not known as this service.
    HostNotAllowed {
        /// An excerpt of it.
        host: String,
    },
}

/// Why a token is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidToken {
    /// A header that may carry the token has bytes that are not visible ASCII.
    UnreadableHeader(&'static str),
    /// More than one `Authorization: Bearer`.
    SeveralHeaders,
    /// Cookies of the same name with different values.
    SeveralCookies,
    /// The subprotocol that announces a token, without a token after it.
    SubprotocolAlone,
    /// It has more bytes than this.
    TooLong(usize),
    /// It is not a JWT that is signed with a known algorithm.
    NotASignedJwt,
    /// Its header requires extensions (`crit`).
    CriticalExtensions,
    /// Its header names a key that the issuer does not publish.
    UnknownKey,
    /// Its signature is not by an accepted key.
    Signature,
    /// It is signed with an algorithm that is not accepted.
    Algorithm,
    /// It is not valid yet (`nbf`).
    NotYetValid,
    /// It is for a different audience (`aud`).
    Audience,
    /// It has an audience (`aud`), and none is configured.
    AudienceNotConfigured,
    /// It is by a different issuer (`iss`).
    Issuer,
    /// A claim is missing.
    MissingClaim(String),
    /// A claim has the wrong type; the right one.
    ClaimType(String, &'static str),
    /// Its `sub` is not a user id.
    Subject(InvalidUserId),
    /// Its claims cannot be parsed.
    Unreadable,
}

impl AuthError {
    /// Whether the request does not prove who sends it: what is answered with `401`.
    pub const fn is_unauthenticated(&self) -> bool {
        matches!(
            self,
            Self::MissingToken { .. }
                | Self::InvalidToken(_)
                | Self::ExpiredToken
                | Self::InvalidUser(_)
                | Self::UnknownRole
                | Self::HeaderNotUtf8(_)
        )
    }
}

impl From<InvalidToken> for AuthError {
    fn from(why: InvalidToken) -> Self {
        Self::InvalidToken(why)
    }
}

impl From<QueryError> for AuthError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}
