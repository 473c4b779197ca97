//! Gets a small document from a URL, within a time and a size.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use axum::http::{HeaderValue, Request, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::log::connection::without_password;

/// A document that takes longer is not there.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of a document.
pub const MAX_BYTES: usize = 256 * 1024;

/// A client of one server. It follows no redirects: who may say which keys count was configured.
pub struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
    login: Option<HeaderValue>,
}

impl Fetch {
    /// From an `https:` URL, by the certificates that the system trusts, or from an `http:` one.
    pub fn from(uri: &Uri) -> anyhow::Result<Self> {
        let builder = match uri.scheme_str() {
            Some("https") => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .context("reading the certificates that the system trusts")?,
            Some("http") => {
                let provider = rustls::crypto::ring::default_provider();
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()?;
                let nobody = RootCertStore::empty();
                HttpsConnectorBuilder::new()
                    .with_tls_config(config.with_root_certificates(nobody).with_no_client_auth())
            }
            _ => bail!("`{}` is no http: or https: URL", without_password(&uri.to_string())),
        };
        let connector = builder.https_or_http().enable_http1().build();
        let (uri, login) = apart(uri)?;
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri, login })
    }

    /// The document, as it is now.
    pub async fn get(&self) -> anyhow::Result<Bytes> {
        let answer = timeout(PATIENCE, self.ask()).await;
        answer.with_context(|| format!("it did not answer within {} s", PATIENCE.as_secs()))?
    }

    async fn ask(&self) -> anyhow::Result<Bytes> {
        let mut request = Request::get(&self.uri)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;
        if let Some(login) = &self.login {
            request.headers_mut().insert(AUTHORIZATION, login.clone());
        }
        let answer = self.client.request(request).await?;
        if !answer.status().is_success() {
            bail!("it answered {}", answer.status());
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer was not read to the end: {error}"))?;
        Ok(body.to_bytes())
    }
}

/// A URL without its login, and the login as a header. The client shows its URL when it is asked to say everything, and
/// sends no login that is part of it.
fn apart(uri: &Uri) -> anyhow::Result<(Uri, Option<HeaderValue>)> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let Some((login, host)) = authority.rsplit_once('@') else { return Ok((uri.clone(), None)) };
    let login = percent_decode_str(login).collect::<Vec<_>>();
    let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(login)))?;
    header.set_sensitive(true);
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(host.parse()?);
    Ok((Uri::from_parts(parts)?, Some(header)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_sent_apart_from_its_url() {
        let (uri, login) = apart(&"http://ann:p%40ss@h:1/keys?a=b".parse().unwrap()).unwrap();
        assert_eq!(
            (uri.to_string().as_str(), login.unwrap().to_str().unwrap()),
            ("http://h:1/keys?a=b", "Basic YW5uOnBAc3M=")
        );
        let (uri, login) = apart(&"https://h/keys".parse().unwrap()).unwrap();
        assert_eq!((uri.to_string().as_str(), login), ("https://h/keys", None));
    }
}
