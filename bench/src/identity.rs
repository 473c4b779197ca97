//! Who clients are: users and a creator, each with a token that a replica of the benchmark believes.

use serde_json::json;
use tidings::clock::{Clock as _, SystemClock};
use tidings::http::identity::keys::SharedSecret;

/// What the tokens are signed under.
pub const SECRET: &str = "a secret of the benchmark: 32 bytes or more";

/// How a replica believes such tokens, and does not count what all of them do from the one machine: connections and upgrades of an
/// address, and broadcasts of the creator. All other limits are the defaults of `--auth jwt`.
pub const BELIEVING: [&str; 8] = [
    "--auth",
    "jwt",
    "--max-sockets-per-address",
    "0",
    "--connects-per-minute",
    "0",
    "--creates-per-minute",
    "0",
];

/// Longer than any measurement: no connection ends because of it.
const LIFETIME_SECONDS: i64 = 24 * 3_600;

/// Whoever issues tokens.
pub struct Issuer(SharedSecret);

impl Issuer {
    /// The one whom replicas of the benchmark believe.
    pub fn new() -> anyhow::Result<Self> {
        Self::of(SECRET)
    }

    /// One with a secret.
    pub fn of(secret: &str) -> anyhow::Result<Self> {
        Ok(Self(SharedSecret::new(secret.as_bytes().to_vec())?))
    }

    /// A token of a user in a role.
    pub fn token(&self, user: &str, role: &str) -> anyhow::Result<String> {
        let now = SystemClock.now().as_unix_ms().div_euclid(1_000);
        let claims = json!({"sub": user, "iat": now, "exp": now + LIFETIME_SECONDS, "roles": [role]});
        self.0.sign(&claims)
    }

    /// A token for each of so many users, who are called this and a number.
    pub fn tokens(&self, users: &str, count: usize) -> anyhow::Result<Vec<String>> {
        (0..count).map(|number| self.token(&format!("{users}-{number}"), "user")).collect()
    }
}
