//! Verifies tokens (JWT) and reads the user and the roles from their claims.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{decode, decode_header};
use serde_json::{Map, Value};

use super::error::{AuthError, InvalidToken};
use super::jwks::{Found, Jwks};
use super::keys::{Key, Reloaded, Secrets};
use super::principal::Principal;
use super::roles::{RoleMap, Roles};
use crate::domain::Timestamp;

/// The most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The keys that verify tokens.
pub enum Signers {
    /// Shared secrets (HS256).
    Secrets(Secrets),
    /// The published keys of the issuer (JWKS).
    Published(Arc<Jwks>),
}

/// Verifies tokens.
pub struct Verifier {
    signers: Signers,
    roles_claim: String,
    roles: RoleMap,
}

impl Verifier {
    /// `roles_claim` names the claim with the roles, or else its path: `realm_access.roles`.
    pub fn new(signers: Signers, roles_claim: &str, roles: RoleMap) -> Self {
        Self { signers, roles_claim: roles_claim.to_owned(), roles }
    }

    /// Reads the keys again: secrets from their files, published keys from their source. After an error, the known keys
    /// remain valid.
    pub async fn reload(&self) -> anyhow::Result<Reloaded> {
        match &self.signers {
            Signers::Secrets(secrets) => secrets.reload().await,
            Signers::Published(jwks) => jwks.reload().await,
        }
    }

    /// The published keys, if tokens are verified with such.
    pub const fn published(&self) -> Option<&Arc<Jwks>> {
        match &self.signers {
            Signers::Secrets(_) => None,
            Signers::Published(jwks) => Some(jwks),
        }
    }

    /// The user and the roles of a token, if it is valid.
    pub async fn verify(&self, token: &str) -> Result<Principal, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLong(MAX_TOKEN_BYTES).into());
        }
        // The header selects the keys to try. What each key may verify is configured.
        let header = decode_header(token).map_err(|_| InvalidToken::NotASignedJwt)?;
        if header.crit.is_some() {
            return Err(InvalidToken::CriticalExtensions.into());
        }
        let mut why = ErrorKind::InvalidSignature;
        for key in self.keys(header.kid.as_deref()).await?.iter() {
            match decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(token) => return Ok(self.principal(&token.claims, key.validation.aud.is_some())?),
                Err(error) => match error.into_kind() {
                    // Another key may be the one.
                    ErrorKind::InvalidSignature => {}
                    other @ (ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat) => why = other,
                    other => return Err(auth_error(&other, token)),
                },
            }
        }
        Err(auth_error(&why, token))
    }

    async fn keys(&self, id: Option<&str>) -> Result<Arc<[Arc<Key>]>, AuthError> {
        match &self.signers {
            Signers::Secrets(secrets) => Ok(secrets.keys()),
            Signers::Published(jwks) => match jwks.find(id).await {
                Found::Keys(keys) => Ok(keys.into()),
                Found::Unknown => Err(InvalidToken::UnknownKey.into()),
                Found::Unavailable => Err(AuthError::KeysUnavailable),
            },
        }
    }

    fn principal(
        &self,
        claims: &Map<String, Value>,
        audience_is_configured: bool,
    ) -> Result<Principal, InvalidToken> {
        // The library takes an `aud` that it cannot parse for none.
        if !audience_is_configured && claims.contains_key("aud") {
            return Err(InvalidToken::AudienceNotConfigured);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let user = subject.parse().map_err(InvalidToken::Subject)?;
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        Ok(Principal { user, roles: self.roles(claims), expires_at: Some(from_unix_seconds(expires)) })
    }

    /// The claim is an array of strings, or one string with spaces.
    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        match claim(claims, &self.roles_claim) {
            Some(Value::Array(words)) => self.roles.roles(words.iter().filter_map(Value::as_str)),
            Some(Value::String(words)) => self.roles.roles(words.split_ascii_whitespace()),
            _ => Roles::default(),
        }
    }
}

/// The claim of exactly this name, which may contain dots as URLs do; else the one at this path.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut names = name.split('.');
        let outer = claims.get(names.next()?);
        names.fold(outer, |value, name| value.and_then(|value| value.get(name)))
    })
}

/// Seconds since 1970, which may have decimals.
fn from_unix_seconds(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    Timestamp::from_unix_ms((seconds * 1_000.0) as i64)
}

/// What the library refused, for the developer of the client.
fn auth_error(kind: &ErrorKind, token: &str) -> AuthError {
    let why = match kind {
        ErrorKind::ExpiredSignature => return AuthError::ExpiredToken,
        ErrorKind::ImmatureSignature => InvalidToken::NotYetValid,
        ErrorKind::InvalidAudience => InvalidToken::Audience,
        ErrorKind::InvalidIssuer => InvalidToken::Issuer,
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => {
            claim_error(name, token)
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => InvalidToken::Algorithm,
        ErrorKind::InvalidSignature => InvalidToken::Signature,
        ErrorKind::Json(_) if let Some(name) = nested(token) => claim_error(name, token),
        _ => InvalidToken::Unreadable,
    };
    why.into()
}

/// The library does not distinguish a missing claim from one of the wrong type. The token's signature was verified.
fn claim_error(name: &str, token: &str) -> InvalidToken {
    let claims = claims_of(token);
    if claims.get(name).is_none_or(Value::is_null) {
        return InvalidToken::MissingClaim(name.to_owned());
    }
    let expected = match name {
        "exp" | "nbf" => "a number of seconds since 1970",
        "sub" => "a string",
        _ => "a string or an array of strings",
    };
    InvalidToken::ClaimType(name.to_owned(), expected)
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
