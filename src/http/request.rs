//! What requests share: the host, the channel in the path, the query, keys and conditions in headers, and the wanted
//! position.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use super::state::{App, READ_PATIENCE};
use crate::domain::Channel;
use crate::log::trace::TRACEPARENT;
use crate::log::{Position, TraceParent};
use crate::metrics::Counted;
use crate::projection::Reached;

/// Refuses a request of HTTP/1.1 that does not say in one header `Host` whom it is for (RFC 9112, section 3.2): what stands
/// in between might take it for somebody else's.
///
/// A target in absolute form counts before that header (section 3.2.2), so it takes the header's place.
pub async fn names_a_host(mut request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let clear = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_a_host(host),
        (None, _) => request.version() < Version::HTTP_11,
        _ => false,
    };
    let target = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    match target {
        _ if !clear => return ApiError::no_host().into_response(),
        Some(Ok(target)) if is_a_host(&target) => drop(request.headers_mut().insert(header::HOST, target)),
        Some(_) => return ApiError::no_host().into_response(),
        None => {}
    }
    let headers = request.headers();
    let is_interface = request.uri().path().starts_with("/api/");
    let repeated = ONCE.into_iter().find(|name| is_interface && headers.get_all(name).iter().count() > 1);
    if let Some(name) = repeated {
        return ApiError::repeated_header(name.as_str()).into_response();
    }
    next.run(request).await
}

/// It may also be empty.
fn is_a_host(value: &HeaderValue) -> bool {
    let host = value.to_str().unwrap_or("@");
    host.is_empty() || (!host.contains('@') && host.parse::<Authority>().is_ok())
}

/// The channel that the path names, if it exists here.
pub struct InChannel(pub Channel);

impl FromRequestParts<App> for InChannel {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::not_found())?;
        let name = names.get("channel").map_or("", String::as_str);
        let known = app.channels.iter().find(|channel| channel.as_str() == name);
        known.cloned().map(Self).ok_or_else(|| ApiError::unknown_channel(name))
    }
}

/// Headers that a request may have once (RFC 9110, section 5.3): of two, each side of a proxy might believe another one.
/// `If-Match` may be repeated by that RFC; here a list stands in one line.
const ONCE: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static(MIN_POSITION),
    header::SEC_WEBSOCKET_KEY,
    HeaderName::from_static("x-user-id"),
    HeaderName::from_static("x-user-role"),
];

/// A number in decimal digits, in its one spelling: neither `+5` nor `05`.
pub fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// The parameters of a query, each of which may be there once.
#[derive(Debug)]
pub struct Query(HashMap<String, String>);

impl Query {
    /// Reads the query of an address.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::malformed("malformed_query", format!("The query cannot be read: {e}.")))?;
        let mut once = HashMap::new();
        for (name, value) in pairs.0 {
            if once.contains_key(&name) {
                let shown: String = name.chars().take(40).collect();
                let message = format!("The query has the parameter `{}` twice.", shown.escape_debug());
                return Err(ApiError::malformed("malformed_query", message));
            }
            once.insert(name, value);
        }
        Ok(Self(once))
    }

    /// Refuses parameters other than these, and those that any read takes: an answer that ignored one would mislead.
    pub fn only(self, names: &[&str]) -> Result<Self, ApiError> {
        self.known(&names.iter().copied().chain(OF_READS).collect::<Vec<_>>())
    }

    /// Refuses every parameter: a write takes none.
    pub fn none(self) -> Result<Self, ApiError> {
        self.known(&[])
    }

    fn known(self, known: &[&str]) -> Result<Self, ApiError> {
        // Of several, the answer names the same one each time.
        let unknown = self.0.keys().filter(|name| !known.contains(&name.as_str())).min();
        unknown.map_or(Ok(()), |name| Err(ApiError::unknown_parameter(name, known)))?;
        Ok(self)
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The header of requests that asks for an answer that reflects the log up to a position.
const MIN_POSITION: &str = "tidings-min-position";

/// Parameters that any read may have besides its own.
const OF_READS: [&str; 1] = ["min_position"];

/// That this replica has read the log as far as the caller asks, having waited for it if need be.
pub struct Fresh;

impl FromRequestParts<App> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Some(wanted) = min_position(parts)? else { return serving(app).map(|()| Self) };
        match wait_for(app, wanted).await? {
            Reached::OtherLog => Err(ApiError::other_log(wanted, app.projection.position().log_position())),
            Reached::Yes | Reached::Behind => serving(app).map(|()| Self),
        }
    }
}

/// The same for connections, which begin with the state: a position of another log asks for nothing.
pub struct FreshOrOther;

impl FromRequestParts<App> for FreshOrOther {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if let Some(wanted) = min_position(parts)? {
            wait_for(app, wanted).await?;
        }
        serving(app).map(|()| Self)
    }
}

/// The position that the caller asks for, if any: for answers that reflect the log itself and not this replica.
pub struct MinPosition(pub Option<Position>);

impl<S: Sync> FromRequestParts<S> for MinPosition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        min_position(parts).map(Self)
    }
}

/// The position that the header asks for, or else the query.
fn min_position(parts: &Parts) -> Result<Option<Position>, ApiError> {
    let query = Query::of(&parts.uri)?;
    let header = parts.headers.get(MIN_POSITION).map(|value| value.to_str().unwrap_or(""));
    let Some(wanted) = header.or_else(|| query.get("min_position")) else { return Ok(None) };
    wanted.trim().parse().map(Some).map_err(|()| {
        ApiError::malformed(
            "invalid_position",
            "Tidings-Min-Position must be a position: the Tidings-Position of an earlier answer.",
        )
    })
}

/// Waits until this replica has read that far: an error when it does not get there in time.
pub async fn wait_for(app: &App, wanted: Position) -> Result<Reached, ApiError> {
    let _waiting = Counted::on(&app.metrics.reads_waiting);
    match app.projection.reached_position(wanted, READ_PATIENCE).await {
        Reached::Behind => Err(ApiError::behind(wanted, app.projection.position().log_position())),
        reached => Ok(reached),
    }
}

/// A replica that is rebuilding has nothing true to show.
fn serving(app: &App) -> Result<(), ApiError> {
    if app.projection.position().serving { Ok(()) } else { Err(crate::projection::Unavailable.into()) }
}

/// The trace that a request belongs to. One that is not valid is ignored.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::only(headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes))
}

/// The key under which a request may be repeated.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(|key| key.trim_matches(' '));
    let key = key.filter(|key| (1..=128).contains(&key.len()) && !key.contains('\t'));
    key.map(Some).ok_or_else(|| {
        ApiError::malformed(
            "invalid_idempotency_key",
            "An Idempotency-Key has 1 to 128 visible ASCII characters.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let name = HeaderName::from_static(name);
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_host_may_have_a_port_and_may_be_empty() {
        let is_one = |value: &[u8]| is_a_host(&HeaderValue::from_bytes(value).unwrap());
        for host in [&b""[..], b"localhost", b"127.0.0.1:8000", b"[::1]:8000", b"tidings_1.internal:8000"] {
            assert!(is_one(host), "{host:?}");
        }
        for wrong in [&b"a b"[..], b"ann@localhost", b"http://localhost", b"\xff"] {
            assert!(!is_one(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_short_and_visible() {
        assert_eq!(idempotency_key(&headers("idempotency-key", " k1 ")), Ok(Some("k1")));
        assert!(idempotency_key(&headers("idempotency-key", &"k".repeat(129))).is_err());
        assert!(idempotency_key(&headers("idempotency-key", "")).is_err());
        assert!(idempotency_key(&headers("idempotency-key", "a\tb")).is_err());
    }

    #[test]
    fn a_parameter_is_there_once_and_known() {
        let of = |query: &str| Query::of(&format!("/x?{query}").parse().unwrap());
        assert!(of("a=1&a=2").is_err() && of("a=1&%61=1").is_err());
        assert!(of("a=1&min_position=7").unwrap().only(&["a"]).is_ok());
        let unknown = of("foo=1").unwrap().only(&["limit"]).err().map(|error| error.into_parts().0);
        assert_eq!(unknown, Some("unknown_parameter"));
        let query = of("a=1&b=%20").unwrap();
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), (Some("1"), Some(" "), None));
    }
}
