//! Tokens that are made by hand: for a service that has nobody else to issue them, and for trying.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use crate::clock::{Clock, SystemClock};
use crate::config::{MintToken, SECRET_VARIABLE};
use crate::http::identity::keys::SharedSecret;

/// Makes a token of these claims.
pub(super) fn mint(options: &MintToken) -> anyhow::Result<String> {
    let source = options.secret.source()?;
    let source = source
        .with_context(|| format!("name the secret with --auth-secret-file, or in {SECRET_VARIABLE}"))?;
    let secrets = source.read()?;
    // During a rotation, every replica knows the first one.
    signed(options, secrets.first().context("there is no secret")?)
}

fn signed(options: &MintToken, secret: &SharedSecret) -> anyhow::Result<String> {
    let lifetime = options.expires_in;
    ensure!(lifetime >= Duration::from_secs(1), "--expires-in must be at least a second");
    let now = SystemClock.now().as_unix_ms().div_euclid(1_000);
    let ends = i64::try_from(lifetime.as_secs()).ok().and_then(|lifetime| now.checked_add(lifetime));
    let ends = ends.context("--expires-in is too long")?;
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), options.sub.as_str().into());
    claims.insert("iat".to_owned(), now.into());
    claims.insert("exp".to_owned(), ends.into());
    let roles = options.role.iter().map(ToString::to_string).chain(options.group.iter().cloned());
    let roles = roles.collect::<Vec<_>>();
    put(&mut claims, &options.auth_roles_claim, json!(roles));
    let named = [("name", &options.name), ("aud", &options.aud), ("iss", &options.iss)];
    claims.extend(
        named.into_iter().filter_map(|(claim, value)| Some((claim.to_owned(), value.clone()?.into()))),
    );
    secret.sign(&claims)
}

/// Puts a claim where `serve` looks for it: under the name itself when it is a URL, which has dots of its own; else where
/// dots lead.
fn put(claims: &mut Map<String, Value>, claim: &str, value: Value) {
    match claim.split_once('.').filter(|_| !claim.contains("://")) {
        None => drop(claims.insert(claim.to_owned(), value)),
        Some((outer, inner)) => {
            let mut within = Map::new();
            put(&mut within, inner, value);
            claims.insert(outer.to_owned(), within.into());
        }
    }
}
