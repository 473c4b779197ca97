//! The gate: everybody who asks for something passes here.

use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use tracing::{info, warn};

use super::credential::{Credential, Place, Places, find};
use super::guard::{Asks, is_guarded};
use super::jwks::Jwks;
use super::keys::Reloaded;
use super::rules::Origins;
use super::token::Verifier;
use super::{Identity, dev};
use crate::domain::{Timestamp, UserId};
use crate::http::error::ApiError;
use crate::http::refusals::Refusals;
use crate::http::request::Query;
use crate::shutdown::Hangups;
use crate::trouble::causes;

/// How people prove who they are.
pub enum Proof {
    /// They just say so.
    Dev,
    /// With tokens.
    Token(Box<Verifier>, Places),
}

/// Who may ask, and from which pages.
pub struct Gate {
    /// How people prove who they are.
    pub proof: Proof,
    /// Which pages a browser may ask from.
    pub origins: Origins,
    /// What was said of those that were refused.
    pub refusals: Refusals,
}

impl Gate {
    /// Who sends a request.
    pub async fn of_request(&self, parts: &Parts) -> Result<Identity, ApiError> {
        match &self.proof {
            Proof::Dev => dev::from_headers(&parts.headers),
            Proof::Token(verifier, places) => by_token(verifier, places, parts).await,
        }
    }

    /// Who opens a connection. Their token has to be good for a while yet: no leeway, since they are told when it ends.
    pub async fn of_connection(&self, parts: &Parts, now: Timestamp) -> Result<Identity, ApiError> {
        match &self.proof {
            Proof::Dev => dev::from_query(&parts.uri, &parts.headers),
            Proof::Token(verifier, places) => not_over(by_token(verifier, places, parts).await?, now),
        }
    }

    /// Reads the keys of tokens again; `None` with dev auth, which has no keys. After an error, the keys that were read
    /// before still count.
    pub async fn reload(&self) -> anyhow::Result<Option<Reloaded>> {
        match &self.proof {
            Proof::Dev => Ok(None),
            Proof::Token(verifier, _) => verifier.reload().await.map(Some),
        }
    }

    /// Reads the keys of tokens again at every SIGHUP, and logs what was read, or why nothing was.
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

    /// The published keys of tokens, if they are signed with such.
    pub fn published_keys(&self) -> Option<&Jwks> {
        match &self.proof {
            Proof::Dev => None,
            Proof::Token(verifier, _) => verifier.published().map(|jwks| &**jwks),
        }
    }

    /// Who a connection of this user is with the token that it sends while it lives.
    pub async fn refresh(&self, token: &str, user: &UserId, now: Timestamp) -> Result<Identity, ApiError> {
        let Proof::Token(verifier, _) = &self.proof else {
            return Err(ApiError::malformed("not_supported", "Dev auth has no tokens."));
        };
        let who = not_over(verifier.verify(token).await?, now)?;
        if who.user == *user { Ok(who) } else { Err(ApiError::other_user()) }
    }
}

async fn by_token(verifier: &Verifier, places: &Places, parts: &Parts) -> Result<Identity, ApiError> {
    let asks = Asks::of(&parts.extensions);
    let Credential { token, place } = find(parts, places, asks)?.ok_or_else(|| ApiError::no_token(places))?;
    let who = verifier.verify(&token).await?;
    // Clients of the old service say who they are when they connect. That is no proof, and may not be a lie. Addresses that
    // are answered once do not know the parameter.
    let query = Query::of(&parts.uri)?;
    if query.get("user_id").is_some_and(|claimed| claimed != who.user.as_str()) {
        return Err(ApiError::other_user());
    }
    // A browser adds the cookie whoever made the page, and says which page that was. Foreign pages were refused already.
    // To a stream of its own origin, a browser sends no `Origin`.
    if place == Place::Cookie
        && !matches!(asks, Asks::Stream | Asks::Log)
        && is_guarded(&parts.method, &parts.headers, asks)
        && !parts.headers.contains_key(ORIGIN)
    {
        let message = "With the token in a cookie, this request requires the header `Origin`, which browsers send. \
                       Programs send `Authorization: Bearer <token>` instead.";
        return Err(ApiError::forbidden("origin_not_allowed", message));
    }
    Ok(who)
}

fn not_over(who: Identity, now: Timestamp) -> Result<Identity, ApiError> {
    if who.ends.is_some_and(|ends| ends <= now) { Err(ApiError::token_expired()) } else { Ok(who) }
}
