//! The sources of a token in a request, in the order of their precedence.

use std::borrow::Cow;

use axum::http::header::{AUTHORIZATION, COOKIE, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use axum::http::request::Parts;

use super::error::{AuthError, InvalidToken};
use crate::http::query::Query;
use crate::http::request_kind::RequestKind;

/// The WebSocket subprotocol after which a client may offer its token.
pub const SUBPROTOCOL: &str = "bearer";

/// The configured sources, besides the header and the subprotocol.
#[derive(Clone, Debug)]
pub struct TokenSources {
    /// The name of the cookie; no cookie is read when it is empty.
    pub cookie: String,
    /// The query parameter, if one is read: for WebSockets and event streams, to which a browser cannot add headers.
    pub query: Option<String>,
}

/// Where a token was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer`.
    Header,
    /// The cookie. A browser adds it for pages of any origin, so the origin has to be checked.
    Cookie,
    /// After the WebSocket subprotocol `bearer`.
    Subprotocol,
    /// The query of a WebSocket or an event stream.
    Query,
}

/// A token that is not verified yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    /// The token.
    pub token: Cow<'a, str>,
    /// Where it was found.
    pub source: TokenSource,
}

/// The token of a request, from the first source that has one. A token that the client put there on purpose precedes the
/// cookie, which a browser adds to every request to this host.
pub fn find<'a>(
    parts: &'a Parts,
    sources: &TokenSources,
    kind: RequestKind,
) -> Result<Option<Credential<'a>>, AuthError> {
    let from = |source, token: Cow<'a, str>| Some(Credential { token, source });
    if let Some(token) = in_header(&parts.headers)? {
        return Ok(from(TokenSource::Header, token.into()));
    }
    if kind == RequestKind::WebSocket
        && let Some(token) = in_subprotocol(&parts.headers)?
    {
        return Ok(from(TokenSource::Subprotocol, token.into()));
    }
    if let Some(name) = &sources.query
        && matches!(kind, RequestKind::EventStream | RequestKind::WebSocket)
        && let Some(token) = Query::of(&parts.uri)?.get(name)
    {
        return Ok(from(TokenSource::Query, token.to_owned().into()));
    }
    let token = in_cookie(&parts.headers, &sources.cookie)?;
    Ok(token.and_then(|token| from(TokenSource::Cookie, token.into())))
}

/// Other schemes, such as `Basic` for a proxy, are ignored.
fn in_header(headers: &HeaderMap) -> Result<Option<&str>, InvalidToken> {
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| InvalidToken::UnreadableHeader("Authorization"))?;
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            continue;
        }
        if found.replace(token.trim()).is_some() {
            return Err(InvalidToken::SeveralHeaders);
        }
    }
    Ok(found)
}

/// Cookies of this name with different values are refused: another host of the same domain may have set one of them.
fn in_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, InvalidToken> {
    if name.is_empty() {
        return Ok(None);
    }
    let mut found: Option<&str> = None;
    for value in headers.get_all(COOKIE) {
        // Cookies of other applications may contain any bytes; the rest of the line is still read.
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
            // Some applications delete a cookie by setting it to an empty value.
            if value.is_empty() {
                continue;
            }
            if found.replace(value).is_some_and(|other| other != value) {
                return Err(InvalidToken::SeveralCookies);
            }
        }
    }
    Ok(found)
}

fn in_subprotocol(headers: &HeaderMap) -> Result<Option<&str>, InvalidToken> {
    let mut offered = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let text = value.to_str().map_err(|_| InvalidToken::UnreadableHeader("Sec-WebSocket-Protocol"))?;
        offered.extend(text.split(',').map(str::trim));
    }
    let Some(at) = offered.iter().position(|protocol| protocol.eq_ignore_ascii_case(SUBPROTOCOL)) else {
        return Ok(None);
    };
    let token = offered.get(at + 1).filter(|token| !token.is_empty());
    token.copied().map(Some).ok_or(InvalidToken::SubprotocolAlone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, Request};

    type Header<'a> = (&'static str, &'a [u8]);

    fn found(uri: &str, headers: &[Header<'_>]) -> Result<Option<(String, TokenSource)>, ()> {
        found_by(RequestKind::WebSocket, uri, headers)
    }

    fn found_by(
        kind: RequestKind,
        uri: &str,
        headers: &[Header<'_>],
    ) -> Result<Option<(String, TokenSource)>, ()> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let sources = TokenSources { cookie: "session".to_owned(), query: Some("token".to_owned()) };
        let credential = find(&parts, &sources, kind).map_err(|_| ())?;
        Ok(credential.map(|credential| (credential.token.into_owned(), credential.source)))
    }

    fn at(source: TokenSource, token: &str) -> (String, TokenSource) {
        (token.to_owned(), source)
    }

    #[test]
    fn the_first_source_counts() {
        let header = ("authorization", &b"Bearer h"[..]);
        let cookie = ("cookie", &b"a=b; session=c; d"[..]);
        let subprotocol = ("sec-websocket-protocol", &b"chat, bearer, s"[..]);
        let query = "/x?token=q";
        assert_eq!(found(query, &[header, cookie, subprotocol]), Ok(Some(at(TokenSource::Header, "h"))));
        assert_eq!(found(query, &[cookie, subprotocol]), Ok(Some(at(TokenSource::Subprotocol, "s"))));
        assert_eq!(found(query, &[cookie]), Ok(Some(at(TokenSource::Query, "q"))));
        assert_eq!(found("/x", &[cookie]), Ok(Some(at(TokenSource::Cookie, "c"))));
        let by = |kind, headers: &[Header<'_>]| found_by(kind, query, headers);
        assert_eq!(by(RequestKind::Plain, &[]), Ok(None));
        assert_eq!(by(RequestKind::Plain, &[cookie, subprotocol]), Ok(Some(at(TokenSource::Cookie, "c"))));
        assert_eq!(by(RequestKind::Plain, &[subprotocol]), Ok(None), "it is no WebSocket");
        assert_eq!(
            by(RequestKind::EventStream, &[cookie, subprotocol]),
            Ok(Some(at(TokenSource::Query, "q")))
        );
        assert_eq!(found("/x", &[]), Ok(None));
        assert_eq!(
            found("/x", &[("authorization", b"Basic eDp5"), cookie]),
            Ok(Some(at(TokenSource::Cookie, "c")))
        );
        assert_eq!(found("/x", &[("authorization", b"bearer  h ")]), Ok(Some(at(TokenSource::Header, "h"))));
        assert_eq!(found("/x", &[("cookie", b"session=\"c\"")]), Ok(Some(at(TokenSource::Cookie, "c"))));
    }

    #[test]
    fn what_is_said_twice_or_not_at_all_is_refused() {
        let twice = [("authorization", &b"Bearer a"[..]), ("authorization", b"Bearer a")];
        assert_eq!(found("/x", &twice), Err(()));
        assert_eq!(found("/x", &[("cookie", b"session=a"), ("cookie", b"session=b")]), Err(()));
        assert_eq!(
            found("/x", &[("cookie", b"session=a; session=a")]),
            Ok(Some(at(TokenSource::Cookie, "a")))
        );
        for emptied in [&b"session=; session=a"[..], b"session=a; session=\"\"; session="] {
            assert_eq!(
                found("/x", &[("cookie", emptied)]),
                Ok(Some(at(TokenSource::Cookie, "a"))),
                "no token"
            );
        }
        assert_eq!(found("/x", &[("cookie", b"session=")]), Ok(None));
        assert_eq!(found("/x", &[("authorization", b"Bearer \xff")]), Err(()));
        assert_eq!(found("/x", &[("cookie", b"x=\xff; session=a")]), Ok(Some(at(TokenSource::Cookie, "a"))));
        for odd in [&b"bearer"[..], b"bearer,", b"bearer, \xff", b"bearer,, x"] {
            assert_eq!(found("/x", &[("sec-websocket-protocol", odd)]), Err(()), "{odd:?}");
        }
        let capital = ("sec-websocket-protocol", &b"Bearer, x"[..]);
        assert_eq!(found("/x", &[capital]), Ok(Some(at(TokenSource::Subprotocol, "x"))));
        assert_eq!(found("/x", &[("authorization", b"Bearer")]), Ok(Some(at(TokenSource::Header, ""))));
    }
}
