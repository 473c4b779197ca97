//! Fetches a small document from a URL, with limits of time and size.

use std::iter::empty;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::http::Uri;
use axum::http::header::ACCEPT;
use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::log::connection::without_password;

/// The time limit, from connecting to the last byte of the response.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The size limit.
pub const MAX_BYTES: usize = 256 * 1024;

/// A client of one URL. It follows no redirects: the source of the keys is configured. It goes through the proxy of
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
            .timeout(FETCH_TIMEOUT);
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
        self.request().await.map_err(|error| match error.downcast::<reqwest::Error>() {
            Ok(error) if error.is_timeout() => {
                anyhow::anyhow!("no response within {} s", FETCH_TIMEOUT.as_secs())
            }
            // It may have a login.
            Ok(error) => error.without_url().into(),
            Err(error) => error,
        })
    }

    async fn request(&self) -> anyhow::Result<Bytes> {
        let request =
            self.client.get(self.url.clone()).header(ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await?;
        ensure!(response.status().is_success(), "the response is {}", response.status());
        let mut body = BytesMut::new();
        while let Some(part) = response.chunk().await? {
            ensure!(body.len() + part.len() <= MAX_BYTES, "the document has more than {MAX_BYTES} bytes");
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }
}
