//! Gets a small document from a URL, within a time and a size.

use std::iter::empty;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::http::Uri;
use axum::http::header::ACCEPT;
use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::log::connection::without_password;

/// The most that a request may take, from the connection to the last byte of the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of a document.
pub const MAX_BYTES: usize = 256 * 1024;

/// A client of one URL. It follows no redirects: who may say which keys count was configured. It goes through the proxy of
/// `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`, unless `NO_PROXY` names the host.
pub struct Fetch {
    client: Client,
    url: Url,
}

impl Fetch {
    /// From an `https:` URL, by the certificates that the system trusts, or from an `http:` one.
    pub fn from(uri: &Uri) -> anyhow::Result<Self> {
        let builder = Client::builder()
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(PATIENCE);
        let builder = match uri.scheme_str() {
            Some("https") => builder,
            // No certificates: the system may have none.
            Some("http") => builder.tls_certs_only(empty()),
            _ => bail!("`{}` is no http: or https: URL", without_password(&uri.to_string())),
        };
        // An error means that it is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = builder.build().context("reading the certificates that the system trusts")?;
        Ok(Self { client, url: uri.to_string().parse().context("the URL cannot be read")? })
    }

    /// The document, as it is now.
    pub async fn get(&self) -> anyhow::Result<Bytes> {
        self.ask().await.map_err(|error| match error.downcast::<reqwest::Error>() {
            Ok(error) if error.is_timeout() => {
                anyhow::anyhow!("it did not answer within {} s", PATIENCE.as_secs())
            }
            // It may have a login.
            Ok(error) => error.without_url().into(),
            Err(error) => error,
        })
    }

    async fn ask(&self) -> anyhow::Result<Bytes> {
        let request =
            self.client.get(self.url.clone()).header(ACCEPT, "application/jwk-set+json, application/json");
        let mut answer = request.send().await?;
        ensure!(answer.status().is_success(), "it answered {}", answer.status());
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await? {
            ensure!(body.len() + part.len() <= MAX_BYTES, "it has more than {MAX_BYTES} bytes");
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }
}
