//! The page at `/`: a form for creators and, beside it, the banner that a user sees. Its files are part of the binary.
//!
//! It works with dev auth only, and is served with dev auth only.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::error::ApiError;
use super::respond;
use super::routes::Routes;
use crate::domain::Channel;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// What `index.html` refers to, by its name below `/page/`.
const ASSETS: [(&str, &str, &str); 11] = [
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("board.js", SCRIPT, include_str!("page/board.js")),
    ("client.js", SCRIPT, include_str!("page/client.js")),
    ("creator.js", SCRIPT, include_str!("page/creator.js")),
    ("device.js", SCRIPT, include_str!("page/device.js")),
    ("outcome.js", SCRIPT, include_str!("page/outcome.js")),
    ("question.js", SCRIPT, include_str!("page/question.js")),
    ("words.js", SCRIPT, include_str!("page/words.js")),
    ("style.css", STYLE, include_str!("page/style.css")),
    ("icon.svg", ICON, include_str!("page/icon.svg")),
];

/// The placeholder for the channels in `index.html`.
const CHANNELS: &str = "<!-- channels -->";

/// The content security policy: the page loads, runs and connects to what this replica serves, and nothing else; it cannot be
/// framed; and no script can turn text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Every response carries these.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Cached, and revalidated each time: after an update no old script runs against the new service.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The addresses of the page.
pub fn routes(channels: &[Channel]) -> Routes {
    let index = include_str!("page/index.html").replace(CHANNELS, &choices(channels));
    let index = File::new(HTML, index.into());
    let assets =
        ASSETS.map(|(name, kind, text)| (name, File::new(kind, Bytes::from_static(text.as_bytes()))));
    let assets = Arc::new(HashMap::from(assets));
    Routes::default().get("/", async move |headers: HeaderMap| index.response(&headers)).get(
        "/page/{file}",
        async move |name: Result<Path<String>, PathRejection>, headers: HeaderMap| {
            let file = name.ok().and_then(|Path(name)| assets.get(name.as_str()));
            let file = file.ok_or_else(ApiError::not_found)?;
            Ok::<_, ApiError>(file.response(&headers))
        },
    )
}

/// The channels to choose from. Their names need no escaping: letters, digits, `-` and `_`.
fn choices(channels: &[Channel]) -> String {
    channels.iter().map(|channel| format!("<option>{channel}</option>")).collect::<Vec<_>>().concat()
}

/// A file of the page.
#[derive(Clone)]
struct File {
    kind: &'static str,
    body: Bytes,
    etag: String,
}

impl File {
    fn new(kind: &'static str, body: Bytes) -> Self {
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12]));
        Self { kind, body, etag }
    }

    fn response(&self, headers: &HeaderMap) -> Response {
        let etag = [(ETAG, self.etag.as_str())];
        if self.is_current(headers) {
            return (HEADERS, etag, respond::not_modified()).into_response();
        }
        (HEADERS, etag, [(CONTENT_TYPE, self.kind)], self.body.clone()).into_response()
    }

    /// Whether the browser has the current version.
    fn is_current(&self, headers: &HeaderMap) -> bool {
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        known
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == self.etag || tag == "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_the_channels_that_exist() {
        let channels = ["creator", "fo-rum_2"].map(|name| name.parse().unwrap());
        assert_eq!(choices(&channels), "<option>creator</option><option>fo-rum_2</option>");
        assert_eq!(include_str!("page/index.html").matches(CHANNELS).count(), 1);
    }

    #[test]
    fn a_browser_that_has_it_is_known_by_any_of_its_tags() {
        let file = File::new(STYLE, Bytes::from_static(b"a"));
        let known =
            |value: String| file.is_current(&[(IF_NONE_MATCH, value.parse().unwrap())].into_iter().collect());
        assert!(
            known(file.etag.clone()) && known(format!("\"x\", W/{}", file.etag)) && known("*".to_owned())
        );
        assert!(!known("\"x\"".to_owned()) && !file.is_current(&HeaderMap::new()));
        assert_ne!(file.etag, File::new(STYLE, Bytes::from_static(b"b")).etag);
    }
}
