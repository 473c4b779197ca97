//! Authenticates requests: by tokens, or, in development, by what they say.

use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use tracing::{info, warn};

use super::dev;
use super::error::AuthError;
use super::jwks::Jwks;
use super::keys::Reloaded;
use super::origin_policy::OriginPolicy;
use super::principal::Principal;
use super::token::Verifier;
use super::token_source::{Credential, TokenSource, TokenSources, find};
use crate::domain::{Timestamp, UserId};
use crate::error_log::causes;
use crate::http::query::Query;
use crate::http::request_kind::RequestKind;
use crate::shutdown::Hangups;

/// How requests are authenticated.
pub enum AuthMode {
    /// Dev auth: the user and the role that a request names are believed.
    Dev,
    /// By tokens, from these sources.
    Token(Box<Verifier>, TokenSources),
}

/// Authenticates requests, and knows which pages may send them.
pub struct Authenticator {
    /// How requests are authenticated.
    pub mode: AuthMode,
    /// Which pages may send what kind of request.
    pub origins: OriginPolicy,
}

impl Authenticator {
    /// The sender of a request with one response.
    pub async fn of_request(&self, parts: &Parts) -> Result<Principal, AuthError> {
        match &self.mode {
            AuthMode::Dev => dev::from_headers(&parts.headers),
            AuthMode::Token(verifier, sources) => by_token(verifier, sources, parts).await,
        }
    }

    /// The sender of a request that opens a connection.
    pub async fn of_connection(&self, parts: &Parts, now: Timestamp) -> Result<Principal, AuthError> {
        match &self.mode {
            AuthMode::Dev => dev::from_query(&parts.uri, &parts.headers),
            AuthMode::Token(verifier, sources) => by_token(verifier, sources, parts).await?.unexpired(now),
        }
    }

    /// Reads the keys of tokens again; `None` with dev auth, which has no keys. After an error, the keys that were read
    /// before remain valid.
    pub async fn reload(&self) -> anyhow::Result<Option<Reloaded>> {
        match &self.mode {
            AuthMode::Dev => Ok(None),
            AuthMode::Token(verifier, _) => verifier.reload().await.map(Some),
        }
    }

    /// Reads the keys of tokens again at every SIGHUP, and logs the result.
    pub async fn reload_at(&self, mut hangups: Hangups) {
        while hangups.next().await.is_some() {
            match self.reload().await {
                Ok(Some(Reloaded { keys, from })) => {
                    info!(
                        "SIGHUP: the keys of tokens were read again from {from}; keys that verify tokens now: {keys}"
                    );
                }
                Ok(None) => {
                    info!("SIGHUP: dev auth has no keys to read again; a changed option needs a restart");
                }
                Err(error) => warn!(
                    "SIGHUP: the keys of tokens were not read again, so those that were read before still count: {}",
                    causes(&error)
                ),
            }
        }
    }

    /// The published keys of tokens, if tokens are verified with such.
    pub fn published_keys(&self) -> Option<&Jwks> {
        match &self.mode {
            AuthMode::Dev => None,
            AuthMode::Token(verifier, _) => verifier.published().map(|jwks| &**jwks),
        }
    }

    /// The principal of a new token that an open connection of this user sends.
    pub async fn refresh(&self, token: &str, user: &UserId, now: Timestamp) -> Result<Principal, AuthError> {
        let AuthMode::Token(verifier, _) = &self.mode else { return Err(AuthError::NoTokens) };
        let principal = verifier.verify(token).await?.unexpired(now)?;
        if principal.user == *user { Ok(principal) } else { Err(AuthError::OtherUser) }
    }
}

async fn by_token(
    verifier: &Verifier,
    sources: &TokenSources,
    parts: &Parts,
) -> Result<Principal, AuthError> {
    let kind = RequestKind::of(&parts.extensions);
    let Some(Credential { token, source }) = find(parts, sources, kind)? else {
        let cookie = Some(&sources.cookie).filter(|name| !name.is_empty()).cloned();
        return Err(AuthError::MissingToken { cookie });
    };
    let principal = verifier.verify(&token).await?;
    // Clients of the old service name their user when they connect. That proves nothing, and must not contradict the
    // token. Requests with one response do not know the parameter.
    let query = Query::of(&parts.uri)?;
    if query.get("user_id").is_some_and(|claimed| claimed != principal.user.as_str()) {
        return Err(AuthError::OtherUser);
    }
    // A browser adds the cookie for pages of any origin, and names that origin: other origins were refused before. To an
    // event stream of the page's own origin, a browser sends no `Origin`.
    if source == TokenSource::Cookie
        && !matches!(kind, RequestKind::EventStream | RequestKind::AuditLog)
        && kind.is_protected(&parts.method, &parts.headers)
        && !parts.headers.contains_key(ORIGIN)
    {
        return Err(AuthError::MissingOrigin);
    }
    Ok(principal)
}
