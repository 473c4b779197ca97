//! Where a request carries its token: the places, in the order in which they count.

use std::borrow::Cow;

use axum::http::header::{AUTHORIZATION, COOKIE, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use axum::http::request::Parts;

use super::guard::Asks;
use crate::http::error::ApiError;
use crate::http::request::Query;

/// The WebSocket subprotocol behind which a token may follow.
pub const SUBPROTOCOL: &str = "bearer";

/// Places that are configured.
#[derive(Clone, Debug)]
pub struct Places {
    /// The name of the cookie; none is read when it is empty.
    pub cookie: String,
    /// The parameter of the query, where that is a place: for WebSockets and streams, to which a browser can add no header.
    pub query: Option<String>,
}

/// Where a token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer`.
    Header,
    /// The cookie. A browser sends it whoever made the page, so the page has to be looked at too.
    Cookie,
    /// Behind the WebSocket subprotocol `bearer`.
    Subprotocol,
    /// The query of a connection.
    Query,
}

/// A token, not verified yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    /// What was found.
    pub token: Cow<'a, str>,
    /// Where.
    pub place: Place,
}

/// The token of a request: from the first place that has one; the others are not looked at. A token that was put there
/// on purpose counts before the cookie, which the browser adds to everything that it sends to this host.
pub fn find<'a>(parts: &'a Parts, places: &Places, asks: Asks) -> Result<Option<Credential<'a>>, ApiError> {
    let found = |place| move |token| Credential { token, place };
    if let Some(token) = in_header(&parts.headers)? {
        return Ok(Some(found(Place::Header)(token.into())));
    }
    if asks == Asks::WebSocket
        && let Some(token) = in_subprotocol(&parts.headers)?
    {
        return Ok(Some(found(Place::Subprotocol)(token.into())));
    }
    if let Some(name) = places.query.as_ref().filter(|_| matches!(asks, Asks::Stream | Asks::WebSocket))
        && let Some(token) = Query::of(&parts.uri)?.get(name)
    {
        return Ok(Some(found(Place::Query)(token.to_owned().into())));
    }
    let token = in_cookie(&parts.headers, &places.cookie)?;
    Ok(token.map(|token| found(Place::Cookie)(token.into())))
}

/// Schemes of others, such as a proxy's `Basic`, are none of our business.
fn in_header(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| unreadable("The header Authorization"))?;
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            continue;
        }
        if found.replace(token.trim()).is_some() {
            return Err(ApiError::invalid_token("There is more than one `Authorization: Bearer`."));
        }
    }
    Ok(found)
}

/// Two cookies of the name that differ: somebody may have put one there, through a sibling of this host for instance.
fn in_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    if name.is_empty() {
        return Ok(None);
    }
    let mut found: Option<&str> = None;
    for value in headers.get_all(COOKIE) {
        // A cookie of others may hold any bytes; then those beside it are still read.
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let Some((known, value)) = std::str::from_utf8(pair).ok().and_then(|pair| pair.split_once('='))
            else {
                continue;
            };
            if known.trim() != name {
                continue;
            }
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value);
            // Applications delete a cookie by emptying it.
            if value.is_empty() {
                continue;
            }
            if found.replace(value).is_some_and(|other| other != value) {
                return Err(ApiError::invalid_token("Several cookies of its name differ."));
            }
        }
    }
    Ok(found)
}

fn in_subprotocol(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut offered = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let text = value.to_str().map_err(|_| unreadable("The header Sec-WebSocket-Protocol"))?;
        offered.extend(text.split(',').map(str::trim));
    }
    let Some(place) = offered.iter().position(|protocol| protocol.eq_ignore_ascii_case(SUBPROTOCOL)) else {
        return Ok(None);
    };
    let token = offered.get(place + 1).filter(|token| !token.is_empty());
    let missing = || {
        ApiError::invalid_token(format!(
            "The subprotocol `{SUBPROTOCOL}` is offered without a token behind it."
        ))
    };
    token.copied().map(Some).ok_or_else(missing)
}

fn unreadable(what: &str) -> ApiError {
    ApiError::invalid_token(format!("{what} must be visible ASCII."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, Request};

    type Header<'a> = (&'static str, &'a [u8]);

    fn found(uri: &str, headers: &[Header<'_>]) -> Result<Option<(String, Place)>, ()> {
        found_by(Asks::WebSocket, uri, headers)
    }

    fn found_by(asks: Asks, uri: &str, headers: &[Header<'_>]) -> Result<Option<(String, Place)>, ()> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let places = Places { cookie: "session".to_owned(), query: Some("token".to_owned()) };
        let credential = find(&parts, &places, asks).map_err(|_| ())?;
        Ok(credential.map(|credential| (credential.token.into_owned(), credential.place)))
    }

    fn at(place: Place, token: &str) -> (String, Place) {
        (token.to_owned(), place)
    }

    #[test]
    fn the_first_place_counts() {
        let header = ("authorization", &b"Bearer h"[..]);
        let cookie = ("cookie", &b"a=b; session=c; d"[..]);
        let subprotocol = ("sec-websocket-protocol", &b"chat, bearer, s"[..]);
        let query = "/x?token=q";
        assert_eq!(found(query, &[header, cookie, subprotocol]), Ok(Some(at(Place::Header, "h"))));
        assert_eq!(found(query, &[cookie, subprotocol]), Ok(Some(at(Place::Subprotocol, "s"))));
        assert_eq!(found(query, &[cookie]), Ok(Some(at(Place::Query, "q"))));
        assert_eq!(found("/x", &[cookie]), Ok(Some(at(Place::Cookie, "c"))));
        let by = |asks, headers: &[Header<'_>]| found_by(asks, query, headers);
        assert_eq!(by(Asks::Once, &[]), Ok(None));
        assert_eq!(by(Asks::Once, &[cookie, subprotocol]), Ok(Some(at(Place::Cookie, "c"))));
        assert_eq!(by(Asks::Once, &[subprotocol]), Ok(None), "it is no WebSocket");
        assert_eq!(by(Asks::Stream, &[cookie, subprotocol]), Ok(Some(at(Place::Query, "q"))));
        assert_eq!(found("/x", &[]), Ok(None));
        assert_eq!(
            found("/x", &[("authorization", b"Basic eDp5"), cookie]),
            Ok(Some(at(Place::Cookie, "c")))
        );
        assert_eq!(found("/x", &[("authorization", b"bearer  h ")]), Ok(Some(at(Place::Header, "h"))));
        assert_eq!(found("/x", &[("cookie", b"session=\"c\"")]), Ok(Some(at(Place::Cookie, "c"))));
    }

    #[test]
    fn what_is_said_twice_or_not_at_all_is_refused() {
        let twice = [("authorization", &b"Bearer a"[..]), ("authorization", b"Bearer a")];
        assert_eq!(found("/x", &twice), Err(()));
        assert_eq!(found("/x", &[("cookie", b"session=a"), ("cookie", b"session=b")]), Err(()));
        assert_eq!(found("/x", &[("cookie", b"session=a; session=a")]), Ok(Some(at(Place::Cookie, "a"))));
        for emptied in [&b"session=; session=a"[..], b"session=a; session=\"\"; session="] {
            assert_eq!(found("/x", &[("cookie", emptied)]), Ok(Some(at(Place::Cookie, "a"))), "no token");
        }
        assert_eq!(found("/x", &[("cookie", b"session=")]), Ok(None));
        assert_eq!(found("/x", &[("authorization", b"Bearer \xff")]), Err(()));
        assert_eq!(found("/x", &[("cookie", b"x=\xff; session=a")]), Ok(Some(at(Place::Cookie, "a"))));
        for odd in [&b"bearer"[..], b"bearer,", b"bearer, \xff", b"bearer,, x"] {
            assert_eq!(found("/x", &[("sec-websocket-protocol", odd)]), Err(()), "{odd:?}");
        }
        let capital = ("sec-websocket-protocol", &b"Bearer, x"[..]);
        assert_eq!(found("/x", &[capital]), Ok(Some(at(Place::Subprotocol, "x"))));
        assert_eq!(found("/x", &[("authorization", b"Bearer")]), Ok(Some(at(Place::Header, ""))));
    }
}
