//! From a token to who somebody is.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{decode, decode_header};
use serde_json::{Map, Value};

use super::jwks::{Found, Jwks};
use super::keys::Key;
use super::{Identity, Roles, crypto};
use crate::domain::Timestamp;
use crate::http::error::ApiError;

/// The most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Whose signatures count.
pub enum Signers {
    /// Whoever has the shared secret.
    Secret(Arc<Key>),
    /// Those who published their keys.
    Published(Arc<Jwks>),
}

/// Verifies tokens and reads them.
pub struct Verifier {
    signers: Signers,
    roles_claim: Vec<String>,
}

impl Verifier {
    /// Roles are in this claim; dots lead into objects (`realm_access.roles`).
    pub fn new(signers: Signers, roles_claim: &str) -> Self {
        crypto::install();
        Self { signers, roles_claim: roles_claim.split('.').map(str::to_owned).collect() }
    }

    /// Who the token says that somebody is, if it is to be believed.
    pub async fn verify(&self, token: &str) -> Result<Identity, ApiError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ApiError::invalid_token(format!("It is longer than {MAX_TOKEN_BYTES} bytes.")));
        }
        // The header only says which key to try. What that key may verify was configured.
        let header = decode_header(token)
            .map_err(|_| ApiError::invalid_token("It is no token that is signed in a known way."))?;
        if header.crit.is_some() {
            return Err(ApiError::invalid_token(
                "It has extensions that have to be understood, and are not.",
            ));
        }
        let mut why = ErrorKind::InvalidSignature;
        for key in self.keys(header.kid.as_deref()).await? {
            match decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(token) => return self.identity(&token.claims),
                Err(error) => match error.into_kind() {
                    // Another key may be the one.
                    ErrorKind::InvalidSignature => {}
                    other @ (ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat) => why = other,
                    other => return Err(refused(&other)),
                },
            }
        }
        Err(refused(&why))
    }

    async fn keys(&self, id: Option<&str>) -> Result<Vec<Arc<Key>>, ApiError> {
        match &self.signers {
            Signers::Secret(key) => Ok(vec![key.clone()]),
            Signers::Published(jwks) => match jwks.find(id).await {
                Found::Keys(keys) => Ok(keys),
                Found::Unknown => {
                    Err(ApiError::invalid_token("It was signed with a key that its issuer does not publish."))
                }
                Found::Away => Err(ApiError::keys_away()),
            },
        }
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, ApiError> {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let user = subject
            .parse()
            .map_err(|why| ApiError::invalid_token(format!("Its `sub` is no user: {why}.")))?;
        let ends = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        Ok(Identity { user, roles: self.roles(claims), ends: Some(moment(ends)) })
    }

    /// An array of words, or one text of words. Words that mean nothing here are somebody else's.
    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        let (first, rest) = (self.roles_claim.first(), self.roles_claim.iter().skip(1));
        let claim = first.and_then(|name| claims.get(name));
        let claim = rest.fold(claim, |value, name| value.and_then(|value| value.get(name)));
        match claim {
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(words)) => words.split_ascii_whitespace().collect(),
            _ => Roles::default(),
        }
    }
}

/// Of seconds since 1970, which may have decimals.
fn moment(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    Timestamp::from_unix_ms((seconds * 1_000.0) as i64)
}

/// Why a token was refused, for whoever has to find out why theirs is.
fn refused(why: &ErrorKind) -> ApiError {
    match why {
        ErrorKind::ExpiredSignature => ApiError::token_expired(),
        ErrorKind::ImmatureSignature => ApiError::invalid_token("It is not valid yet."),
        ErrorKind::InvalidAudience => ApiError::invalid_token("It is for somebody else: `aud` is another."),
        ErrorKind::InvalidIssuer => ApiError::invalid_token("It is of somebody else: `iss` is another."),
        ErrorKind::MissingRequiredClaim(claim) => ApiError::invalid_token(format!("It has no `{claim}`.")),
        ErrorKind::InvalidClaimFormat(claim) => {
            ApiError::invalid_token(format!("Its `{claim}` cannot be read."))
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
            ApiError::invalid_token("It is signed in a way that does not count here.")
        }
        ErrorKind::InvalidSignature => {
            ApiError::invalid_token("Its signature is not by a key that counts here.")
        }
        _ => ApiError::invalid_token("It cannot be read."),
    }
}
