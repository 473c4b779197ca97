//! The options of authentication and of allowed origins.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::Uri;
use axum::http::uri::Authority;
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::redacted::RedactedParser;
use crate::domain::Channel;
use crate::http::identity::authenticator::{AuthMode, Authenticator};
use crate::http::identity::jwks::{Jwks, Source};
use crate::http::identity::keys::{Expectations, SecretSource, Secrets, SharedSecret};
use crate::http::identity::origin::{Origin, Pattern};
use crate::http::identity::origin_policy::OriginPolicy;
use crate::http::identity::roles::{Mapping, RoleMap};
use crate::http::identity::{Signers, TokenSources, Verifier};
use crate::warnings::Warnings;

/// The secret itself, instead of a file. It is no flag: every user of a machine can read those.
pub const SECRET_VARIABLE: &str = "TIDINGS_AUTH_SECRET";

/// How requests are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Not at all: requests name their user. For development, on a loopback address only.
    Dev,
    /// By tokens (JWT) that your application or your identity provider signs.
    Jwt,
}

impl Auth {
    /// Whether any client can be any user: then a limit for each user bounds nothing.
    pub const fn is_unauthenticated(self) -> bool {
        matches!(self, Self::Dev)
    }
}

/// The secrets that are shared with the issuer of tokens.
#[derive(Clone, Debug, Args)]
pub struct Secret {
    /// File with the secret that signs tokens (HS256): at least 32 bytes, not counting line breaks at the end. With several
    /// files, each secret verifies tokens, and `admin token` signs with the first one: list the old and the new one during a
    /// rotation. On SIGHUP a replica reads the files again. The environment variable `TIDINGS_AUTH_SECRET` may contain the
    /// secret itself instead.
    #[arg(long, env = "TIDINGS_AUTH_SECRET_FILE", value_delimiter = ',', value_name = "FILE")]
    pub auth_secret_file: Vec<PathBuf>,
}

impl Secret {
    /// The source of the secrets, if any are configured.
    pub fn source(&self) -> anyhow::Result<Option<SecretSource>> {
        let in_environment = std::env::var_os(SECRET_VARIABLE).filter(|secret| !secret.is_empty());
        match (&self.auth_secret_file[..], in_environment) {
            ([], None) => Ok(None),
            ([_, ..], Some(_)) => {
                bail!("--auth-secret-file and {SECRET_VARIABLE} are both set; set only one of them")
            }
            (files, None) => Ok(Some(SecretSource::Files(files.to_vec()))),
            ([], Some(secret)) => {
                let secret = SharedSecret::new(secret.into_encoded_bytes());
                Ok(Some(SecretSource::Given(secret.context(format!("reading {SECRET_VARIABLE}"))?)))
            }
        }
    }
}

/// Authentication and allowed origins.
#[derive(Clone, Debug, Args)]
pub struct IdentityOptions {
    /// How requests are authenticated.
    #[arg(long, env = "TIDINGS_AUTH", default_value = "dev", value_name = "MODE")]
    pub auth: Auth,

    /// Allow `--auth dev` on any address: no authentication, and anyone who can reach the replica is trusted. Use it only on a
    /// network that restricts access. Requests still have to name localhost, an IP address or a host of `--allowed-hosts`.
    #[arg(long, env = "TIDINGS_AUTH_DEV_ANYWHERE")]
    pub auth_dev_anywhere: bool,

    /// Hosts that requests may name with `--auth dev`, besides localhost and loopback addresses: `tidings.internal`,
    /// without a port. This check prevents DNS rebinding, by which a website points a name of its own at this machine.
    #[arg(long, env = "TIDINGS_ALLOWED_HOSTS", value_delimiter = ',', value_name = "HOST", value_parser = host_name)]
    pub allowed_hosts: Vec<String>,

    /// The secret of tokens.
    #[command(flatten)]
    pub secret: Secret,

    /// File with the public keys (JWKS) of the token issuer. It is read again periodically.
    #[arg(long, env = "TIDINGS_AUTH_JWKS_FILE", value_name = "FILE", conflicts_with = "auth_secret_file")]
    pub auth_jwks_file: Option<PathBuf>,

    /// URL of the public keys (JWKS) of the token issuer: the `jwks_uri` of an identity provider. It is fetched again
    /// periodically, and when a token names an unknown key. While it is unavailable, cached keys are valid for up to an hour.
    #[arg(long, env = "TIDINGS_AUTH_JWKS_URL", hide_env_values = true, value_name = "URL", value_parser = RedactedParser::<Uri>::new(), conflicts_with_all = ["auth_secret_file", "auth_jwks_file"])]
    pub auth_jwks_url: Option<Uri>,

    /// How often public keys are read again, in seconds.
    #[arg(long, env = "TIDINGS_AUTH_JWKS_SECONDS", default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub auth_jwks_seconds: u64,

    /// Accepted signature algorithms of public keys: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA. A key
    /// that names one of them is used for that one only.
    #[arg(
        long,
        env = "TIDINGS_AUTH_ALGORITHMS",
        value_delimiter = ',',
        default_value = "RS256,ES256,EdDSA",
        value_parser = public_algorithm,
        value_name = "NAME"
    )]
    pub auth_algorithms: Vec<Algorithm>,

    /// Accepted audiences: the `aud` of a token must be, or contain, one of these. Without this option, a token with an
    /// audience is refused.
    #[arg(long, env = "TIDINGS_AUTH_AUDIENCE", value_delimiter = ',', value_name = "NAME")]
    pub auth_audience: Vec<String>,

    /// Accepted issuers: the `iss` of a token must be one of these. Without this option the issuer is not checked.
    #[arg(long, env = "TIDINGS_AUTH_ISSUER", value_delimiter = ',', value_name = "NAME")]
    pub auth_issuer: Vec<String>,

    /// The claim with the roles: an array, or one string with spaces. When no claim has exactly this name, it is a path into
    /// objects: `realm_access.roles`.
    #[arg(long, env = "TIDINGS_AUTH_ROLES_CLAIM", default_value = "roles", value_name = "NAME")]
    pub auth_roles_claim: String,

    /// Groups of the identity provider whose members have a role: `creator=editors,press`, or in one channel
    /// `creator@forum=forum-editors`. May be repeated (in the variable, separated by `;`). A role that is granted by groups is
    /// no longer granted by its own name.
    #[arg(long, env = "TIDINGS_ROLE", value_delimiter = ';', value_name = "ROLE=GROUP,…")]
    pub role: Vec<Mapping>,

    /// The cookie with the token, for browsers. Empty: no cookie is read.
    #[arg(long, env = "TIDINGS_AUTH_COOKIE", default_value = "session", value_name = "NAME")]
    pub auth_cookie: String,

    /// Also accept the tokens of WebSockets and event streams in this query parameter. Proxies log queries: use it only for
    /// clients that cannot send a header, such as a browser's `EventSource`.
    #[arg(
        long,
        env = "TIDINGS_AUTH_QUERY_TOKEN",
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "token"
    )]
    pub auth_query_token: Option<String>,

    /// The addresses at which browsers reach this service, such as `https://tidings.example.com`. Pages of these origins may
    /// change state, open connections and read responses. Without this option and `--allowed-origins`, the host and port of
    /// a page are compared with the `Host` of the request, and the scheme is not.
    #[arg(long, env = "TIDINGS_PUBLIC_URL", value_delimiter = ',', value_name = "URL", value_parser = Origin::of_service)]
    pub public_url: Vec<Origin>,

    /// Further origins whose pages may change state, open connections and read responses: `https://app.example.com`,
    /// `https://*.example.com` for every host below, `capacitor://localhost` of an application. `null` (files, sandboxed
    /// frames, and so any website) with `--auth dev` only. Default: with `--auth jwt` the host of the request or
    /// `--public-url`, with `--auth dev` this machine too.
    #[arg(long, env = "TIDINGS_ALLOWED_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub allowed_origins: Vec<Pattern>,
}

impl IdentityOptions {
    /// Reads the keys, and checks that roles name these channels only.
    pub async fn authenticator(
        &self,
        channels: &[Channel],
        warnings: &Warnings,
    ) -> anyhow::Result<Authenticator> {
        let origins = self.origins()?;
        let unknown = self.role.iter().filter_map(|mapping| mapping.grant.channel.as_ref());
        if let Some(channel) = unknown.into_iter().find(|channel| !channels.contains(channel)) {
            bail!("--role names the channel `{channel}`, which --channels does not list");
        }
        let mode = match self.auth {
            Auth::Dev => AuthMode::Dev,
            Auth::Jwt => {
                let sources =
                    TokenSources { cookie: self.auth_cookie.clone(), query: self.auth_query_token.clone() };
                let roles = RoleMap::new(&self.role);
                let verifier = Verifier::new(self.signers(warnings).await?, &self.auth_roles_claim, roles);
                AuthMode::Token(verifier.into(), sources)
            }
        };
        Ok(Authenticator { mode, origins })
    }

    fn origins(&self) -> anyhow::Result<OriginPolicy> {
        let dev = self.auth == Auth::Dev;
        if !dev && self.allowed_origins.contains(&Pattern::Null) {
            bail!("--allowed-origins null allows pages of any website, so it requires --auth dev");
        }
        if !dev && !self.allowed_hosts.is_empty() {
            bail!("--allowed-hosts requires --auth dev; with tokens, the host of a request does not matter");
        }
        Ok(OriginPolicy {
            dev,
            anywhere: dev && self.auth_dev_anywhere,
            listed: self.allowed_origins.clone(),
            own: self.public_url.clone(),
            hosts: self.allowed_hosts.clone(),
        })
    }

    async fn signers(&self, warnings: &Warnings) -> anyhow::Result<Signers> {
        let expect = Expectations {
            algorithms: self.auth_algorithms.clone(),
            audience: self.auth_audience.clone(),
            issuer: self.auth_issuer.clone(),
        };
        let every = Duration::from_secs(self.auth_jwks_seconds);
        let source = match (&self.auth_jwks_file, &self.auth_jwks_url) {
            (Some(file), _) => Some(Source::File(file.clone())),
            (None, Some(url)) => Some(Source::url(url).context("--auth-jwks-url")?),
            (None, None) => None,
        };
        match (self.secret.source()?, source) {
            (Some(secret), None) => Ok(Signers::Secrets(Secrets::open(secret, expect)?)),
            (None, Some(source)) => {
                Ok(Signers::Published(Jwks::open(source, expect, every, warnings.clone()).await?))
            }
            (Some(_), Some(_)) => bail!(
                "{SECRET_VARIABLE} and public keys are both given; tokens are signed either with a shared secret or with keys"
            ),
            (None, None) => bail!(
                "--auth jwt needs the keys of tokens: --auth-secret-file (or {SECRET_VARIABLE}), --auth-jwks-file or \
                 --auth-jwks-url"
            ),
        }
    }
}

/// A host without a port.
fn host_name(text: &str) -> Result<String, String> {
    match text.parse::<Authority>() {
        Ok(host) if host.host() == text && !text.is_empty() => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("`{text}` is not a host without a port, such as tidings.internal")),
    }
}

/// Shared secrets always use HS256; a public key must not.
fn public_algorithm(name: &str) -> Result<Algorithm, String> {
    let known = name.parse::<Algorithm>().ok().filter(|known| known.family() != AlgorithmFamily::Hmac);
    known.ok_or_else(|| format!("`{name}` is no supported algorithm of public keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_of_secrets_do_not_count_with_public_keys() {
        assert_eq!(public_algorithm("EdDSA"), Ok(Algorithm::EdDSA));
        for bad in ["HS256", "none", "", "rs256"] {
            assert!(public_algorithm(bad).is_err(), "{bad}");
        }
    }
}
