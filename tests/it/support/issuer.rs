//! Whoever issues tokens: makes them by hand, right and wrong, and publishes the keys.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RsaKeyPair,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A secret as long as it has to be.
pub const SECRET: &str = "a secret of the tests: 32 bytes or more";

enum Key {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Curve(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

/// One key of an issuer.
pub struct Issuer {
    key: Key,
    algorithm: &'static str,
    id: Option<String>,
}

impl Issuer {
    /// One who shares a secret.
    pub fn secret(secret: impl Into<Vec<u8>>) -> Self {
        Self { key: Key::Secret(secret.into()), algorithm: "HS256", id: None }
    }

    /// RS256 or RS384, always with the same key: making one takes long.
    pub fn rsa(algorithm: &'static str, id: &str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(include_bytes!("issuer/rsa.pk8")).unwrap();
        Self { key: Key::Rsa(Box::new(pair)), algorithm, id: Some(id.to_owned()) }
    }

    /// ES256, with a new key.
    pub fn curve(id: &str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
        Self { key: Key::Curve(pair), algorithm: "ES256", id: Some(id.to_owned()) }
    }

    /// `EdDSA`, with a new key.
    pub fn edwards(id: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self { key: Key::Edwards(pair), algorithm: "EdDSA", id: Some(id.to_owned()) }
    }

    /// Under another name, or none.
    pub fn called(self, id: Option<&str>) -> Self {
        Self { id: id.map(str::to_owned), ..self }
    }

    /// A token of a user for an hour.
    pub fn token(&self, user: &str, roles: &[&str]) -> String {
        self.sign(&claims(user, roles))
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = json!({"alg": self.algorithm, "typ": "JWT"});
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        self.sign_with(&header, claims)
    }

    /// A token with this header, whatever it says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
            Key::Rsa(pair) => {
                let padding = if self.algorithm == "RS384" { &RSA_PKCS1_SHA384 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &rand::SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Key::Curve(pair) => pair.sign(&rand::SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Key::Edwards(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half, as it is published.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Secret(_) => panic!("a secret is not published"),
            Key::Rsa(pair) => {
                let public = aws_lc_rs::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Key::Curve(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y)})
            }
            Key::Edwards(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        };
        jwk["use"] = "sig".into();
        if let Some(id) = &self.id {
            jwk["kid"] = id.as_str().into();
        }
        jwk
    }

    /// The public half of an RSA key in bytes: what somebody might take for a secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            _ => panic!("not an RSA key"),
        }
    }
}

/// What a token without a signature has: its header and its claims.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// Of a user for an hour.
pub fn claims(user: &str, roles: &[&str]) -> Value {
    json!({"sub": user, "exp": in_seconds(3_600), "roles": roles})
}

/// Seconds since 1970, so many from now.
#[expect(clippy::disallowed_methods, reason = "an issuer has a clock of its own")]
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

/// A set of published keys.
pub fn key_set(issuers: &[&Issuer]) -> Value {
    json!({"keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()})
}

/// An HTTP server that publishes keys, and may stop doing that for a while.
pub struct KeyServer {
    url: String,
    said: Arc<Said>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Said {
    keys: Mutex<String>,
    away: AtomicBool,
    asked: AtomicUsize,
}

impl KeyServer {
    pub async fn start(keys: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let said = Arc::new(Said { keys: Mutex::new(keys.to_string()), ..Said::default() });
        let shared = said.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &shared).await;
            }
        });
        Self { url, said, task }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it says this.
    pub fn publish(&self, keys: &Value) {
        self.say(&keys.to_string());
    }

    /// From now on it says this, whatever it is.
    pub fn say(&self, text: &str) {
        text.clone_into(&mut self.said.keys.lock().unwrap());
    }

    /// From now on it answers `503`, or not any more.
    pub fn be_away(&self, away: bool) {
        self.said.away.store(away, Ordering::SeqCst);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.said.asked.load(Ordering::SeqCst)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, said: &Said) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
    }
    said.asked.fetch_add(1, Ordering::SeqCst);
    let (status, body) = if said.away.load(Ordering::SeqCst) {
        ("503 Service Unavailable", String::new())
    } else {
        ("200 OK", said.keys.lock().unwrap().clone())
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}
