//! A NATS whose users are known by credentials files, as NATS's own tools make them: an operator trusts accounts, an account
//! signs users, and a user has a file.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::issuer::in_seconds;

/// An operator with the account of the replicas, and the one that JetStream wants besides.
pub struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
    folder: TempDir,
}

impl Operator {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-creds-").tempdir().unwrap();
        let [account, system] = [KeyPair::new_account(), KeyPair::new_account()];
        Self { key: KeyPair::new_operator(), account, system, folder }
    }

    /// What a server's configuration says of them.
    pub fn configuration(&self) -> String {
        let operator = signed(&self.key, &self.key, &json!({"type": "operator", "version": 2}));
        let [account, system] = [&self.account, &self.system].map(|account| {
            let limits = [
                "subs",
                "data",
                "payload",
                "imports",
                "exports",
                "conn",
                "leaf",
                "mem_storage",
                "disk_storage",
                "streams",
                "consumer",
            ];
            // The account of the system has no storage of its own.
            let of_system = account.public_key() == self.system.public_key();
            let limits = limits.iter().map(|name| {
                let none = of_system && ["mem_storage", "disk_storage", "streams", "consumer"].contains(name);
                ((*name).to_owned(), json!(if none { 0 } else { -1 }))
            });
            let mut limits: serde_json::Map<_, _> = limits.collect();
            limits.insert("wildcards".to_owned(), true.into());
            let claims = json!({"limits": limits, "type": "account", "version": 2});
            format!("{}: {}", account.public_key(), signed(&self.key, account, &claims))
        });
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{account}\n{system}\n}}\n",
            self.system.public_key()
        )
    }

    /// A user of the replicas' account, in a file.
    pub fn credentials(&self) -> PathBuf {
        self.user_of("replica.creds", &self.account)
    }

    /// One whose account nobody trusts.
    pub fn credentials_of_a_stranger(&self) -> PathBuf {
        self.user_of("stranger.creds", &KeyPair::new_account())
    }

    fn user_of(&self, file: &str, account: &KeyPair) -> PathBuf {
        let user = KeyPair::new_user();
        let nothing = json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let mut claims = nothing;
        claims["type"] = "user".into();
        claims["version"] = 2.into();
        let token = signed(account, &user, &claims);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        let path = self.folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A token of NATS about somebody.
fn signed(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let (subject, issuer_key) = (subject.public_key(), issuer.public_key());
    let claims = part(&json!({
        "jti": subject, "iat": in_seconds(-60), "iss": issuer_key, "sub": subject, "name": "tests", "nats": nats
    }));
    let signature = issuer.sign(format!("{header}.{claims}").as_bytes()).unwrap();
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}
