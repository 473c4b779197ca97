//! From which pages a browser may ask: same-origin rules for whatever changes state and for WebSockets, and CORS.

use std::fmt;
use std::str::FromStr;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, UPGRADE, VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::answer;
use crate::http::error::ApiError;
use crate::http::state::App;

/// What pages of other origins may send,
const HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, Tidings-Min-Sequence, \
                       traceparent, X-User-Id, X-User-Role";

/// and read.
const EXPOSED: &str = "RateLimit, RateLimit-Policy, Retry-After, Tidings-Sequence";

/// Where a page is from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn default_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }

    /// Whether that is what the `Host` of a request names. What ends TLS in front of us knows the scheme, we do not.
    fn is_at(&self, host: &Authority) -> bool {
        let port = host.port_u16().unwrap_or_else(|| Self::default_port(self.https));
        self.host.eq_ignore_ascii_case(host.host()) && self.port == port
    }
}

impl FromStr for Origin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (scheme, rest) = text.split_once("://").ok_or(())?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(()),
        };
        let authority: Authority = rest.parse().map_err(|_| ())?;
        if rest.contains('@') || authority.host().is_empty() {
            return Err(());
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // A port that is no number is none to this parser, and no default to us.
            None if rest.len() > authority.host().len() => return Err(()),
            None => Self::default_port(https),
        };
        Ok(Self { https, host: authority.host().to_ascii_lowercase(), port })
    }
}

/// Origins that are allowed: `https://app.example.com`, or `https://*.example.com` for every host below that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    origin: Origin,
    below: bool,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.replacen("://*.", "://", 1);
        let origin = plain.parse().map_err(|()| {
            format!("`{text}` is no origin: https://app.example.com, or https://*.example.com, and nothing behind it")
        })?;
        let pattern = Self { origin, below: plain != text };
        if pattern.origin.host.contains('*') {
            return Err(format!("`{text}` has a * elsewhere than in front of a host: https://*.example.com"));
        }
        Ok(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { https, host, port } = &self.origin;
        let (scheme, star) = (if *https { "https" } else { "http" }, if self.below { "*." } else { "" });
        write!(f, "{scheme}://{star}{host}:{port}")
    }
}

impl Pattern {
    fn has(&self, origin: &Origin) -> bool {
        self.origin.https == origin.https && self.origin.port == origin.port && self.is_of(&origin.host)
    }

    fn is_of(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(&self.origin.host).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
        } else {
            host == self.origin.host
        }
    }
}

/// Which pages may ask.
#[derive(Clone, Debug)]
pub struct Origins {
    /// Pages of this machine, and those that say `null`: files, and sandboxes.
    pub local: bool,
    /// Hosts that requests may name are those of this machine: a page cannot make a name of its own lead here.
    pub local_hosts: bool,
    /// Those of these origins; when there are none, those of the host that was asked.
    pub listed: Vec<Pattern>,
}

impl Origins {
    /// Whether this page may do what changes state, and open WebSockets.
    pub fn allow(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let text = origin.to_str().unwrap_or("?");
        if self.local && is_local(text) {
            return true;
        }
        let Ok(origin) = text.parse::<Origin>() else { return false };
        if self.local || !self.listed.is_empty() {
            return self.listed.iter().any(|pattern| pattern.has(&origin));
        }
        host(headers).is_some_and(|host| origin.is_at(&host))
    }

    fn refuse_host(&self, headers: &HeaderMap) -> bool {
        let unknown = |host: &Authority| {
            let name = host.host().to_ascii_lowercase();
            !is_local_host(&name) && !self.listed.iter().any(|pattern| pattern.is_of(&name))
        };
        self.local_hosts && headers.contains_key(HOST) && host(headers).is_none_or(|host| unknown(&host))
    }
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

/// `null` (a file, a sandbox) and pages that this machine serves.
fn is_local(origin: &str) -> bool {
    origin == "null" || origin.parse().is_ok_and(|origin: Origin| is_local_host(&origin.host))
}

fn is_local_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a request does what a page of another origin may not have done: it changes state, or opens a WebSocket.
pub fn is_guarded(method: &Method, headers: &HeaderMap) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) || headers.contains_key(UPGRADE)
}

/// Refuses pages of other origins on whatever changes state and on WebSockets, and tells browsers which pages may read
/// the answers. Who is no browser sends no `Origin`.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let (origins, headers) = (&app.gate.origins, request.headers());
    if request.uri().path().starts_with("/api/") && origins.refuse_host(headers) {
        let message = "In dev auth only this machine may ask, by its own name: localhost, or a loopback address. \
                       --allowed-origins lists others.";
        return ApiError::forbidden("host_not_allowed", message).into_response();
    }
    let Some(origin) = headers.get(ORIGIN).cloned() else { return next.run(request).await };
    let allowed = headers.get_all(ORIGIN).iter().count() == 1 && origins.allow(&origin, headers);
    if !allowed && is_guarded(request.method(), headers) {
        return refuse(origins.local).into_response();
    }
    let asks_first =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks_first { answer::nothing().into_response() } else { next.run(request).await };
    if allowed && origin != "null" {
        permit(response.headers_mut(), origin, asks_first);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    response
}

fn refuse(dev: bool) -> ApiError {
    let message = if dev {
        "Pages of this origin may not do that. In dev auth only pages of this machine may."
    } else {
        "Pages of this origin may not do that. --allowed-origins lists those that may; without it, those of the same host."
    };
    ApiError::forbidden("origin_not_allowed", message)
}

fn permit(headers: &mut HeaderMap, origin: HeaderValue, asks_first: bool) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if asks_first {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> HeaderMap {
        [(HOST, host.parse().unwrap())].into_iter().collect()
    }

    fn listed(patterns: &[&str]) -> Origins {
        let listed = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        Origins { local: false, local_hosts: false, listed }
    }

    fn allows(origins: &Origins, origin: &str, host: &str) -> bool {
        origins.allow(&origin.parse().unwrap(), &asked(host))
    }

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for local in
            ["null", "http://localhost:3000", "http://127.0.0.1:8000", "http://[::1]:1", "https://127.9.9.9"]
        {
            assert!(is_local(local), "{local}");
        }
        for foreign in
            ["https://example.org", "http://localhost.example.org", "http://127.0.0.1.nip.io", "?", ""]
        {
            assert!(!is_local(foreign), "{foreign}");
        }
    }

    #[test]
    fn without_a_list_a_page_of_the_same_host_may() {
        let same = listed(&[]);
        for (origin, host) in [
            ("https://example.com", "example.com"),
            ("https://Example.com", "example.COM:443"),
            ("http://example.com:8000", "example.com:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
        ] {
            assert!(allows(&same, origin, host), "{origin} at {host}");
        }
        for (origin, host) in [
            ("https://example.org", "example.com"),
            ("https://example.com:444", "example.com"),
            ("https://a.example.com", "example.com"),
            ("null", "example.com"),
            ("https://example.com.evil.org", "example.com"),
            ("https://example.com@evil.org", "evil.org"),
            ("https://example.com:", "example.com"),
            ("https://example.com:x", "example.com"),
            ("https://example.com/", "example.com"),
            ("ftp://example.com", "example.com"),
        ] {
            assert!(!allows(&same, origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn a_list_says_it_all() {
        let list = listed(&["https://app.example.com", "https://*.example.org", "http://x.test:3000"]);
        for origin in ["https://app.example.com", "https://a.example.org", "https://b.a.example.org:443"] {
            assert!(allows(&list, origin, "api.example.net"), "{origin}");
        }
        assert!(allows(&list, "http://x.test:3000", "api.example.net"));
        for origin in [
            "https://api.example.net",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "http://a.example.org",
            "http://x.test",
            "null",
        ] {
            assert!(!allows(&list, origin, "api.example.net"), "{origin}");
        }
        for bad in ["example.com", "https://", "https://*", "https://a.*.com", "https://a.com/x", "*", "null"]
        {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_somebody_makes_lead_here_is_refused_in_dev_auth() {
        let dev = Origins { local: true, local_hosts: true, listed: vec!["http://me.test".parse().unwrap()] };
        for host in ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", "me.test:8000"] {
            assert!(!dev.refuse_host(&asked(host)), "{host}");
        }
        for host in ["evil.org:8000", "localhost.evil.org", "127.0.0.1.nip.io", "10.0.0.1", "a b"] {
            assert!(dev.refuse_host(&asked(host)), "{host}");
        }
        assert!(!dev.refuse_host(&HeaderMap::new()), "no browser leaves it out");
    }
}
