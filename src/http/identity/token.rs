//! From a token to who somebody is.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{decode, decode_header};
use serde_json::{Map, Value};

use super::jwks::{Found, Jwks};
use super::keys::{Key, Reloaded, Secrets};
use super::roles::{RoleMap, Roles};
use super::{Identity, crypto};
use crate::domain::Timestamp;
use crate::http::error::ApiError;

/// The most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Whose signatures count.
pub enum Signers {
    /// Those of whoever has a shared secret.
    Secrets(Secrets),
    /// Those of the issuer that published its keys.
    Published(Arc<Jwks>),
}

/// Verifies tokens and reads them.
pub struct Verifier {
    signers: Signers,
    roles_claim: String,
    roles: RoleMap,
}

impl Verifier {
    /// Roles are in the claim of this name; when there is none, dots lead into objects (`realm_access.roles`).
    pub fn new(signers: Signers, roles_claim: &str, roles: RoleMap) -> Self {
        crypto::install();
        Self { signers, roles_claim: roles_claim.to_owned(), roles }
    }

    /// Reads the keys again: secrets from their files, published ones from where they are. After an error, those that are
    /// known still count.
    pub async fn reload(&self) -> anyhow::Result<Reloaded> {
        match &self.signers {
            Signers::Secrets(secrets) => secrets.reload().await,
            Signers::Published(jwks) => jwks.reload().await,
        }
    }

    /// The published keys, if tokens are signed with such.
    pub const fn published(&self) -> Option<&Arc<Jwks>> {
        match &self.signers {
            Signers::Secrets(_) => None,
            Signers::Published(jwks) => Some(jwks),
        }
    }

    /// Who the token says that somebody is, if it is valid.
    pub async fn verify(&self, token: &str) -> Result<Identity, ApiError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ApiError::invalid_token(format!("It is longer than {MAX_TOKEN_BYTES} bytes.")));
        }
        // The header only says which key to try. What that key may verify was configured.
        let header = decode_header(token)
            .map_err(|_| ApiError::invalid_token("It is not a JWT that is signed with a known algorithm."))?;
        if header.crit.is_some() {
            return Err(ApiError::invalid_token(
                "Its header requires extensions (`crit`) that are not supported.",
            ));
        }
        let mut why = ErrorKind::InvalidSignature;
        for key in self.keys(header.kid.as_deref()).await?.iter() {
            match decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(token) => return self.identity(&token.claims, key.validation.aud.is_some()),
                Err(error) => match error.into_kind() {
                    // Another key may be the one.
                    ErrorKind::InvalidSignature => {}
                    other @ (ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat) => why = other,
                    other => return Err(refused(&other, token)),
                },
            }
        }
        Err(refused(&why, token))
    }

    async fn keys(&self, id: Option<&str>) -> Result<Arc<[Arc<Key>]>, ApiError> {
        match &self.signers {
            Signers::Secrets(secrets) => Ok(secrets.keys()),
            Signers::Published(jwks) => match jwks.find(id).await {
                Found::Keys(keys) => Ok(keys.into()),
                Found::Unknown => Err(ApiError::invalid_token(
                    "Its issuer does not publish the key that it was signed with.",
                )),
                Found::Away => Err(ApiError::keys_away()),
            },
        }
    }

    fn identity(&self, claims: &Map<String, Value>, audience_is_known: bool) -> Result<Identity, ApiError> {
        // The library takes an `aud` that it cannot read for none.
        if !audience_is_known && claims.contains_key("aud") {
            return Err(ApiError::invalid_token("Unexpected audience (`aud`): none is configured."));
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let user = subject
            .parse()
            .map_err(|why| ApiError::invalid_token(format!("Its `sub` is not a user id: {why}.")))?;
        let ends = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        Ok(Identity { user, roles: self.roles(claims), ends: Some(moment(ends)) })
    }

    /// An array of words, or one text of words.
    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        match claim(claims, &self.roles_claim) {
            Some(Value::Array(words)) => self.roles.roles(words.iter().filter_map(Value::as_str)),
            Some(Value::String(words)) => self.roles.roles(words.split_ascii_whitespace()),
            _ => Roles::default(),
        }
    }
}

/// The claim of this very name, which may have dots as URLs do; else the one that dots lead to.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut names = name.split('.');
        let outer = claims.get(names.next()?);
        names.fold(outer, |value, name| value.and_then(|value| value.get(name)))
    })
}

/// Of seconds since 1970, which may have decimals.
fn moment(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    Timestamp::from_unix_ms((seconds * 1_000.0) as i64)
}

/// Why a token was refused, for whoever has to find out why theirs is.
fn refused(why: &ErrorKind, token: &str) -> ApiError {
    let message = match why {
        ErrorKind::ExpiredSignature => return ApiError::token_expired(),
        ErrorKind::ImmatureSignature => "It is not valid yet (`nbf`).".to_owned(),
        ErrorKind::InvalidAudience => "Unexpected audience (`aud`).".to_owned(),
        ErrorKind::InvalidIssuer => "Unexpected issuer (`iss`).".to_owned(),
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => unfit(name, token),
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
            "It is signed with an algorithm that is not accepted here.".to_owned()
        }
        ErrorKind::InvalidSignature => "Its signature is not by an accepted key.".to_owned(),
        ErrorKind::Json(_) if let Some(name) = nested(token) => unfit(name, token),
        _ => "It cannot be read.".to_owned(),
    };
    ApiError::invalid_token(message)
}

/// A claim that is missing or has the wrong type: the library does not tell which. The token's signature was verified.
fn unfit(name: &str, token: &str) -> String {
    let claims = claims_of(token);
    if claims.get(name).is_none_or(Value::is_null) {
        return format!("It has no `{name}`.");
    }
    let kind = match name {
        "exp" | "nbf" => "a number of seconds since 1970",
        "sub" => "a string",
        _ => "a string or an array of strings",
    };
    format!("Its `{name}` must be {kind}.")
}

/// The first claim that is an array or an object and may not be one: the library breaks off there, and does not say where.
fn nested(token: &str) -> Option<&'static str> {
    let claims = claims_of(token);
    ["exp", "nbf", "sub"]
        .into_iter()
        .find(|name| matches!(claims.get(*name), Some(Value::Array(_) | Value::Object(_))))
}

/// For messages alone.
fn claims_of(token: &str) -> Map<String, Value> {
    jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_found_by_its_name_before_its_path() {
        let url = "https://example.com/roles";
        let claims = json!({
            url: ["a"],
            "realm_access": {"roles": ["b"]},
            "x.y": ["literal"],
            "x": {"y": ["inside"]},
        });
        let claims = claims.as_object().unwrap();
        for (name, value) in
            [(url, json!(["a"])), ("realm_access.roles", json!(["b"])), ("x.y", json!(["literal"]))]
        {
            assert_eq!(claim(claims, name), Some(&value), "{name}");
        }
        for nothing in ["", ".", "realm_access.", "realm_access.roles.x", "roles"] {
            assert_eq!(claim(claims, nothing), None, "{nothing}");
        }
    }
}
