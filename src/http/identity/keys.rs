//! The keys that verify tokens, and what each of them may verify: fixed by configuration, never by a token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde_json::Value;

use crate::blocking::blocking;
use crate::disk::check_regular;
use crate::disk::private::read_secret;

/// The clocks of issuer and replica may differ by this much.
pub const LEEWAY_SECONDS: u64 = 30;

/// The minimum length of a shared secret: that of its signatures (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// The most keys of a set.
pub const MAX_KEYS: usize = 64;

/// What tokens have to contain besides a valid signature.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The algorithms of published keys.
    pub algorithms: Vec<Algorithm>,
    /// The accepted audiences. Without any, a token with an audience is refused.
    pub audience: Vec<String>,
    /// The accepted issuers. Without any, the issuer is not checked.
    pub issuer: Vec<String>,
}

impl Expectations {
    fn validation(&self, algorithms: Vec<Algorithm>) -> Validation {
        let mut validation = Validation::default();
        let mut required = vec!["exp", "sub"];
        validation.algorithms = algorithms;
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        if !self.issuer.is_empty() {
            validation.set_issuer(&self.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

/// A key, and what it may verify.
pub struct Key {
    /// Its id in a published set.
    pub id: Option<String>,
    /// The key.
    pub decoding: DecodingKey,
    /// Its algorithms, and the checks of claims.
    pub validation: Validation,
}

/// A secret that this service shares with the issuer of tokens.
#[derive(Clone)]
pub struct SharedSecret(Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret([set])")
    }
}

impl SharedSecret {
    /// From bytes, without the line breaks at the end that editors add.
    pub fn new(mut bytes: Vec<u8>) -> anyhow::Result<Self> {
        let newline = bytes.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        bytes.truncate(bytes.len() - newline);
        if bytes.len() < MIN_SECRET_BYTES {
            bail!("the secret has {} bytes, and at least {MIN_SECRET_BYTES} are required", bytes.len());
        }
        Ok(Self(bytes))
    }

    /// Reads one from its file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let bytes = read_secret(file, "the secret of tokens")?;
        Self::new(bytes).with_context(|| format!("the secret of tokens in {}", file.display()))
    }

    /// The key that verifies tokens, for HS256 only.
    fn key(&self, expect: &Expectations) -> Key {
        let decoding = DecodingKey::from_secret(&self.0);
        Key { id: None, decoding, validation: expect.validation(vec![Algorithm::HS256]) }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &impl Serialize) -> anyhow::Result<String> {
        let key = EncodingKey::from_secret(&self.0);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).context("signing the token")
    }
}

/// The source of shared secrets.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// These files, which are read again on request.
    Files(Vec<PathBuf>),
    /// The environment of the process, which does not change.
    Given(SharedSecret),
}

impl SecretSource {
    /// The secrets, as they are now; at least one.
    pub fn read(&self) -> anyhow::Result<Vec<SharedSecret>> {
        match self {
            Self::Files(files) => files.iter().map(|file| SharedSecret::read(file)).collect(),
            Self::Given(secret) => Ok(vec![secret.clone()]),
        }
    }

    /// The same for secrets that were read before. At the start a secret may come through a pipe, which cannot be read again.
    fn read_again(&self) -> anyhow::Result<Vec<SharedSecret>> {
        if let Self::Files(files) = self {
            for file in files {
                let reading = || format!("reading the secret of tokens in {}", file.display());
                check_regular(file).with_context(reading)?;
            }
        }
        self.read()
    }
}

/// The result of reading keys again.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// How many keys or secrets are valid now.
    pub keys: usize,
    /// Where they were read from: files or a URL.
    pub from: String,
}

/// Shared secrets that are all valid: during a rotation, the old one and the new one.
pub struct Secrets {
    source: SecretSource,
    expect: Expectations,
    keys: RwLock<Arc<[Arc<Key>]>>,
}

impl Secrets {
    /// Reads them for the first time.
    pub fn open(source: SecretSource, expect: Expectations) -> anyhow::Result<Self> {
        let read = source.read()?;
        let secrets = Self { source, expect, keys: RwLock::new(Arc::default()) };
        secrets.replace(&read);
        Ok(secrets)
    }

    /// Reads them again, all or none: after an error, the known ones remain valid.
    pub async fn reload(&self) -> anyhow::Result<Reloaded> {
        let SecretSource::Files(files) = &self.source else {
            bail!("the secret is in the environment, which is read only at the start: use --auth-secret-file")
        };
        let from = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        let source = self.source.clone();
        // A file may be on a disk that does not answer.
        let read = blocking(move || source.read_again()).await.context("reading the secrets of tokens")??;
        self.replace(&read);
        Ok(Reloaded { keys: read.len(), from })
    }

    fn replace(&self, read: &[SharedSecret]) {
        let keys = read.iter().map(|secret| Arc::new(secret.key(&self.expect))).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys that verify tokens.
    pub fn keys(&self) -> Arc<[Arc<Key>]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The usable keys of a published set (RFC 7517). Keys for another use, of another kind or unreadable are skipped.
pub fn published(document: &[u8], expect: &Expectations) -> anyhow::Result<Arc<[Arc<Key>]>> {
    let document: Value = serde_json::from_slice(document).context("the document is not JSON")?;
    let keys =
        document["keys"].as_array().context("the document is no set of keys: it has no list `keys`")?;
    if keys.len() > MAX_KEYS {
        bail!("the set has {} keys, and at most {MAX_KEYS} are accepted", keys.len());
    }
    let usable = keys.iter().filter_map(|key| usable(serde_json::from_value(key.clone()).ok()?, expect));
    let usable: Arc<[_]> = usable.map(Arc::new).collect();
    if usable.is_empty() {
        bail!("none of the {} keys is for signatures by --auth-algorithms", keys.len());
    }
    Ok(usable)
}

fn usable(jwk: Jwk, expect: &Expectations) -> Option<Key> {
    let for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let may_verify = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if !for_signatures || !jwk.common.key_operations.as_ref().is_none_or(may_verify) {
        return None;
    }
    let of_its_kind = of_kind(&jwk.algorithm);
    let named = jwk.common.key_algorithm;
    let algorithms = of_its_kind.iter().copied().filter(|algorithm| {
        let as_named = named.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
        as_named && expect.algorithms.contains(algorithm)
    });
    let algorithms: Vec<_> = algorithms.collect();
    if algorithms.is_empty() {
        return None;
    }
    let decoding = decoding_key(&jwk)?;
    Some(Key { id: jwk.common.key_id, decoding, validation: expect.validation(algorithms) })
}

/// Some issuers write the modulus with a leading zero byte, which RFC 7518 (section 6.3.1.1) forbids and AWS-LC rejects.
fn decoding_key(jwk: &Jwk) -> Option<DecodingKey> {
    let AlgorithmParameters::RSA(key) = &jwk.algorithm else { return DecodingKey::from_jwk(jwk).ok() };
    let number = |base64: &str| -> Option<Vec<u8>> {
        Some(URL_SAFE_NO_PAD.decode(base64).ok()?.into_iter().skip_while(|byte| *byte == 0).collect())
    };
    Some(DecodingKey::from_rsa_raw_components(&number(&key.n)?, &number(&key.e)?))
}

/// The algorithms of a kind of key. A secret is never published.
fn of_kind(parameters: &AlgorithmParameters) -> &'static [Algorithm] {
    match parameters {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expecting(algorithms: &[Algorithm]) -> Expectations {
        Expectations { algorithms: algorithms.to_vec(), audience: Vec::new(), issuer: Vec::new() }
    }

    fn of(keys: &Value, expect: &Expectations) -> Vec<(Option<String>, Vec<Algorithm>)> {
        let keys = published(json!({"keys": keys}).to_string().as_bytes(), expect);
        let keys = keys.unwrap_or_default();
        keys.iter().map(|key| (key.id.clone(), key.validation.algorithms.clone())).collect()
    }

    #[test]
    fn a_published_key_verifies_what_it_is_for_and_nothing_else() {
        let all = expecting(&[Algorithm::RS256, Algorithm::RS384, Algorithm::EdDSA, Algorithm::HS256]);
        let rsa = json!({"kty": "RSA", "n": "sXch", "e": "AQAB", "kid": "a"});
        assert_eq!(
            of(&json!([rsa]), &all),
            [(Some("a".to_owned()), vec![Algorithm::RS256, Algorithm::RS384])],
            "of those that are configured"
        );
        let mut named = rsa.clone();
        named["alg"] = "RS384".into();
        assert_eq!(of(&json!([named]), &all), [(Some("a".to_owned()), vec![Algorithm::RS384])]);
        for (field, value) in
            [("use", json!("enc")), ("key_ops", json!(["encrypt"])), ("alg", json!("RSA-OAEP"))]
        {
            let mut other = rsa.clone();
            other[field] = value;
            assert_eq!(of(&json!([other]), &all), [], "{other}");
        }
        // A secret that somebody published is everybody's.
        let secret = json!({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"});
        assert_eq!(of(&json!([secret]), &all), []);
        assert_eq!(of(&json!([{"kty": "new"}, {"kty": 7}, 7, rsa]), &all).len(), 1, "others are passed over");
    }

    #[test]
    fn a_set_has_keys_and_not_too_many() {
        let all = expecting(&[Algorithm::RS256]);
        let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]}).to_string();
        for bad in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":{}}"#, &many] {
            assert!(published(bad.as_bytes(), &all).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn secrets_are_read_again_on_request_and_kept_when_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["old", "new"].map(|name| folder.path().join(name));
        for file in &files {
            std::fs::write(file, format!("{}{}", file.display(), "x".repeat(MIN_SECRET_BYTES))).unwrap();
        }
        let source = SecretSource::Files(files.to_vec());
        let secrets = Secrets::open(source, expecting(&[])).unwrap();
        let before = secrets.keys();
        assert_eq!(before.len(), 2);
        std::fs::write(&files[0], "short").unwrap();
        let why = secrets.reload().await.unwrap_err();
        assert!(format!("{why:#}").contains(&files[0].display().to_string()), "{why:#}");
        assert!(Arc::ptr_eq(&secrets.keys(), &before), "those that were known still count");
        std::fs::write(&files[0], "y".repeat(MIN_SECRET_BYTES)).unwrap();
        secrets.reload().await.unwrap();
        assert!(!Arc::ptr_eq(&secrets.keys(), &before));
    }

    #[test]
    fn a_secret_is_long_and_never_shown() {
        let secret = "0123456789abcdef0123456789abcdef";
        assert!(SharedSecret::new(secret[1..].into()).is_err());
        assert!(SharedSecret::new(format!("{}\n\n", &secret[1..]).into()).is_err(), "newlines do not count");
        let taken = SharedSecret::new(format!("{secret}\r\n").into()).unwrap();
        assert_eq!(taken.0, secret.as_bytes());
        assert_eq!(format!("{taken:?}"), "SharedSecret([set])");
    }
}
