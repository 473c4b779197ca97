//! A published set of keys (JWKS): cached, read again periodically, and at once when a token names an unknown key.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Uri;
use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::fetch::{Fetch, MAX_BYTES};
use super::keys::{Expectations, Key, Reloaded, published};
use crate::blocking::blocking;
use crate::disk::private::warn_of_writers;
use crate::disk::read_regular;
use crate::log::connection::without_password;
use crate::warnings::{Warning, Warnings};

/// After a failure the set is read again this soon.
const RETRY: Duration = Duration::from_secs(5);

/// Unknown keys have the set fetched at most this often, so that made-up key ids do not flood the issuer.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);

/// Keys that could not be fetched again for this long are no longer accepted: the issuer may have revoked one.
pub const MAX_AGE: Duration = Duration::from_hours(1);

/// The source of a set.
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(Box<Fetch>, String),
}

impl Source {
    /// A URL. It is not fetched yet.
    pub fn url(uri: &Uri) -> anyhow::Result<Self> {
        let shown = without_password(&uri.to_string());
        let here = |host: &str| host == "localhost" || host.starts_with("127.") || host == "[::1]";
        if uri.scheme_str() == Some("http") && !uri.host().is_some_and(here) {
            warn!(
                "the keys of tokens come from {shown} without TLS: whoever can change the answer can issue tokens for anybody"
            );
        }
        Ok(Self::Url(Box::new(Fetch::from(uri)?), shown))
    }

    async fn read(&self) -> anyhow::Result<Bytes> {
        match self {
            Self::Url(fetch, _) => fetch.get().await,
            Self::File(path) => {
                let path = path.clone();
                Ok(blocking(move || read_regular(&path, MAX_BYTES)).await??.into())
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(_, shown) => shown.clone(),
        }
    }
}

/// A cached set.
pub struct Jwks {
    source: Source,
    expect: Expectations,
    known: watch::Sender<Known>,
    /// When an unknown key last had the set fetched.
    last_fetch: Mutex<Option<Instant>>,
    warnings: Warnings,
}

#[derive(Default)]
struct Known {
    keys: Arc<[Arc<Key>]>,
    seen: Option<Instant>,
}

/// The state of a set.
#[derive(Clone, Copy, Debug)]
pub struct JwksState {
    /// How many keys it had when it was last read.
    pub keys: usize,
    /// How long ago that was; none: never.
    pub age: Option<Duration>,
    /// Whether its keys are still accepted.
    pub usable: bool,
}

/// The keys for a token.
pub enum Found {
    /// Keys that may have signed it: the one that it names, or all when it names none.
    Keys(Vec<Arc<Key>>),
    /// The token names a key that is not in the set.
    Unknown,
    /// The set was never read, or not for too long.
    Unavailable,
}

impl Jwks {
    /// Reads the set, and reads it again periodically for as long as this value exists. A file must be valid at the start; a
    /// URL may be unavailable.
    pub async fn open(
        source: Source,
        expect: Expectations,
        every: Duration,
        warnings: Warnings,
    ) -> anyhow::Result<Arc<Self>> {
        let (known, last_fetch) = (watch::Sender::default(), Mutex::default());
        let jwks = Arc::new(Self { source, expect, known, last_fetch, warnings });
        let first = jwks.read().await;
        match &jwks.source {
            Source::File(path) => {
                first.with_context(|| format!("reading the keys in {}", path.display()))?;
                warn_of_writers(path, "the keys of tokens", "can issue tokens for anybody");
            }
            Source::Url(..) => jwks.log(first.err().as_ref(), false),
        }
        tokio::spawn(refresh_periodically(Arc::downgrade(&jwks), every));
        Ok(jwks)
    }

    /// Reads the set again, now. After an error, the cached keys remain valid.
    pub async fn reload(&self) -> anyhow::Result<Reloaded> {
        let from = self.source.name();
        self.read().await.with_context(|| format!("reading the keys of tokens from {from}"))?;
        Ok(Reloaded { keys: self.state().keys, from })
    }

    /// The present state.
    pub fn state(&self) -> JwksState {
        let known = self.known.borrow();
        let age = known.seen.map(|seen| seen.elapsed());
        let usable = age.is_some_and(|age| age <= MAX_AGE);
        JwksState { keys: known.keys.len(), age, usable }
    }

    /// The keys that may have signed a token.
    pub async fn find(&self, id: Option<&str>) -> Found {
        match self.known(id) {
            Found::Keys(keys) => Found::Keys(keys),
            Found::Unknown | Found::Unavailable => {
                self.fetch_for(id).await;
                self.known(id)
            }
        }
    }

    fn known(&self, id: Option<&str>) -> Found {
        let known = self.known.borrow();
        if known.seen.is_none_or(|seen| seen.elapsed() > MAX_AGE) {
            return Found::Unavailable;
        }
        let named = |key: &&Arc<Key>| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let keys: Vec<_> = known.keys.iter().filter(named).cloned().collect();
        if keys.is_empty() { Found::Unknown } else { Found::Keys(keys) }
    }

    /// Fetches the set for an unknown key. Concurrent callers wait for the same response.
    async fn fetch_for(&self, id: Option<&str>) {
        let mut last_fetch = self.last_fetch.lock().await;
        if matches!(self.known(id), Found::Keys(_))
            || last_fetch.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_INTERVAL)
        {
            return;
        }
        *last_fetch = Some(Instant::now());
        if let Err(error) = self.read().await {
            warn!("looking for an unknown key in {}: {error:#}", self.source.name());
        }
    }

    async fn read(&self) -> anyhow::Result<()> {
        let read = self.source.read().await;
        let keys = read.and_then(|document| published(&document, &self.expect));
        self.warnings.set(Warning::TokenKeysUnread, keys.is_err());
        self.known.send_replace(Known { keys: keys?, seen: Some(Instant::now()) });
        Ok(())
    }

    /// Logs when reading begins to fail, and when it works again.
    fn log(&self, error: Option<&anyhow::Error>, failing: bool) {
        let name = self.source.name();
        match error {
            Some(error) if !failing && self.state().age.is_none() => warn!(
                "the keys of tokens cannot be read from {name}: until they were read once, this replica is not ready and \
                 verifies no token; retrying every {} s: {error:#}",
                RETRY.as_secs()
            ),
            Some(error) if !failing => warn!(
                "the keys of tokens cannot be read from {name}; those read before count for {} minutes after they were \
                 read: {error:#}",
                MAX_AGE.as_secs() / 60
            ),
            None if failing => info!("the keys of tokens were read from {name} again"),
            _ => {}
        }
    }
}

async fn refresh_periodically(jwks: Weak<Jwks>, every: Duration) {
    let seen = |jwks: &Weak<Jwks>| jwks.upgrade().is_some_and(|jwks| jwks.known.borrow().seen.is_some());
    let mut failing = !seen(&jwks);
    loop {
        sleep(if failing { RETRY.min(every) } else { every }).await;
        let Some(jwks) = jwks.upgrade() else { return };
        let read = jwks.read().await;
        jwks.log(read.as_ref().err(), failing);
        failing = read.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;
    use tokio::time::advance;

    /// Publishes an Ed25519 key under this name.
    fn publish(file: &Path, id: &str) {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": "A".repeat(43)});
        std::fs::write(file, json!({"keys": [key]}).to_string()).unwrap();
    }

    async fn opened(file: &Path, every: Duration) -> Arc<Jwks> {
        let algorithms = vec![jsonwebtoken::Algorithm::EdDSA];
        let expect = Expectations { algorithms, audience: Vec::new(), issuer: Vec::new() };
        Jwks::open(Source::File(file.to_owned()), expect, every, Warnings::default()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_fetched_and_the_next_one_only_after_a_while() {
        let file = tempfile::NamedTempFile::new().unwrap();
        publish(file.path(), "a");
        let jwks = opened(file.path(), Duration::from_hours(1)).await;
        assert!(matches!(jwks.find(Some("a")).await, Found::Keys(_)));
        publish(file.path(), "b");
        assert!(matches!(jwks.find(Some("b")).await, Found::Keys(_)), "at once");
        assert!(matches!(jwks.find(Some("a")).await, Found::Unknown), "it is not published any more");
        publish(file.path(), "c");
        advance(Duration::from_secs(29)).await;
        assert!(matches!(jwks.find(Some("c")).await, Found::Unknown), "too soon");
        advance(Duration::from_secs(1)).await;
        assert!(matches!(jwks.find(Some("c")).await, Found::Keys(_)));
        assert!(
            matches!(jwks.find(None).await, Found::Keys(keys) if keys.len() == 1),
            "each may have signed it"
        );
    }

    #[tokio::test]
    async fn a_set_that_is_no_regular_file_is_not_read() {
        let why = Source::File("/dev/zero".into()).read().await.unwrap_err();
        assert!(format!("{why:#}").contains("not a regular file"), "{why:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_cannot_be_fetched_again_are_not_accepted_for_ever() {
        let file = tempfile::NamedTempFile::new().unwrap();
        publish(file.path(), "a");
        let jwks = opened(file.path(), Duration::from_hours(10)).await;
        std::fs::write(file.path(), "half of").unwrap();
        advance(MAX_AGE).await;
        assert!(matches!(jwks.find(Some("a")).await, Found::Keys(_)));
        advance(Duration::from_secs(1)).await;
        assert!(matches!(jwks.find(Some("a")).await, Found::Unavailable));
        publish(file.path(), "a");
        advance(UNKNOWN_KEY_INTERVAL).await;
        assert!(matches!(jwks.find(Some("a")).await, Found::Keys(_)), "it is there again");
    }
}
