//! A request of a test: reqwest's, but every answer is held to `openapi.yaml` before the test sees it.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;

use super::contract::openapi::{self, Answer, Asked};

/// Installs the cryptography of TLS for this process, as the binary does: a client cannot be built without, even for plain
/// HTTP. Call it before a client is built; calling it again does no harm.
pub fn choose_cryptography() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// An HTTP client, which gives an answer a time.
#[derive(Clone)]
pub struct Http(reqwest::Client);

impl Http {
    pub fn patient(patience: Duration) -> Self {
        choose_cryptography();
        Self(reqwest::Client::builder().timeout(patience).build().unwrap())
    }

    pub fn request(&self, method: Method, url: impl reqwest::IntoUrl) -> Request {
        Request(self.0.request(method, url))
    }
}

pub struct Request(RequestBuilder);

impl Request {
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        HeaderName: TryFrom<N, Error: Into<http::Error>>,
        HeaderValue: TryFrom<V, Error: Into<http::Error>>,
    {
        Self(self.0.header(name, value))
    }

    pub fn json<T: Serialize + ?Sized>(self, json: &T) -> Self {
        Self(self.0.json(json))
    }

    pub fn body(self, body: impl Into<Body>) -> Self {
        Self(self.0.body(body))
    }

    pub fn build(self) -> reqwest::Result<reqwest::Request> {
        self.0.build()
    }

    /// Sends it, and judges the answer: the whole of it, or its head when it is a stream.
    pub async fn send(self) -> reqwest::Result<Response> {
        let (client, request) = self.0.build_split();
        let request = request?;
        let asked = Asked {
            method: request.method().clone(),
            url: request.url().clone(),
            headers: request.headers().clone(),
            body: request.body().and_then(Body::as_bytes).unwrap_or_default().to_vec(),
        };
        let response = client.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let goes_on = asked.url.query_pairs().any(|(name, value)| name == "follow" && value == "true");
        let is_stream = |kind: &HeaderValue| {
            kind.as_bytes().starts_with(b"text/event-stream") || (kind == "application/x-ndjson" && goes_on)
        };
        if headers.get(CONTENT_TYPE).is_some_and(is_stream) {
            openapi::hold(&asked, &Answer { status, headers: &headers, body: None });
            return Ok(response);
        }
        let body = response.bytes().await?;
        openapi::hold(&asked, &Answer { status, headers: &headers, body: Some(&body) });
        let mut whole = http::Response::new(body);
        (*whole.status_mut(), *whole.headers_mut()) = (status, headers);
        Ok(whole.into())
    }
}
