//! Conditional requests (RFC 9110, section 13). The entity tag of the active broadcast is its id in double quotes: `GET /active`
//! and the response to `POST /` have it as `ETag`, and `If-Match` accepts it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use super::respond;
use crate::domain::{BroadcastId, Precondition};

/// The broadcasts that one `If-Match` may name. They are stored with a request that waits in the outbox.
const MAX_NAMED: usize = 32;

/// The precondition of a request that writes: `If-Match` with `*` or ids, or `If-None-Match: *`.
pub fn of_write(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    match (headers.get(header::IF_MATCH), headers.get(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::Always),
        (Some(wanted), None) => if_match(wanted),
        (None, Some(unwanted)) if text(unwanted) == "*" => Ok(Precondition::NoneActive),
        (None, Some(_)) => Err(no_if_none_match(
            "If-None-Match must be `*` here: only if no broadcast is active. To require that a certain one is active, use \
             If-Match.",
        )),
        (Some(_), Some(_)) => {
            Err(no_if_none_match("If-Match and If-None-Match exclude each other: send only one of them."))
        }
    }
}

fn if_match(value: &HeaderValue) -> Result<Precondition, ApiError> {
    let value = text(value);
    if value == "*" {
        return Ok(Precondition::AnyActive);
    }
    // Empty elements of a list are ignored (RFC 9110, section 5.6.1.2).
    let tags = || value.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    if tags().any(|tag| tag.starts_with("W/")) {
        return Err(no_if_match(
            "If-Match compares strongly, so a weak tag (`W/`) never matches: send the id of the broadcast in double quotes.",
        ));
    }
    if tags().count() > MAX_NAMED {
        return Err(no_if_match(format!("If-Match may name at most {MAX_NAMED} broadcasts.")));
    }
    let ids = tags().map(id_in).collect::<Option<Vec<_>>>().filter(|ids| !ids.is_empty());
    ids.map(Precondition::OneOf).ok_or_else(|| {
        no_if_match(
            "If-Match must be `*`, or one or more ids of broadcasts, each in double quotes, separated by commas: \
             \"0198c5a0-1111-7222-8333-444455556666\".",
        )
    })
}

/// The id in an entity tag.
fn id_in(tag: &str) -> Option<BroadcastId> {
    BroadcastId::from_client(tag.strip_prefix('"')?.strip_suffix('"')?).ok()
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().map_or("", str::trim)
}

fn no_if_match(message: impl Into<String>) -> ApiError {
    ApiError::malformed("invalid_if_match", message)
}

fn no_if_none_match(message: &str) -> ApiError {
    ApiError::malformed("invalid_if_none_match", message)
}

/// Adds the entity tag to a response with this broadcast; `304` when `If-None-Match` names it.
pub fn tagged(mut response: Response, broadcast: BroadcastId, request: &HeaderMap) -> Response {
    let (name, tag) = etag(broadcast);
    response.headers_mut().extend([(name, tag)]);
    if request.get(header::IF_NONE_MATCH).is_none_or(|known| !names(known, broadcast)) {
        return response;
    }
    let (mut head, _) = response.into_parts();
    head.headers.remove(header::CONTENT_TYPE);
    (respond::not_modified(), head.headers).into_response()
}

/// The entity tag of a broadcast.
pub fn etag(broadcast: BroadcastId) -> (HeaderName, HeaderValue) {
    let tag = HeaderValue::try_from(format!("\"{broadcast}\""));
    (header::ETAG, tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
}

/// Whether `If-None-Match` names a broadcast, by weak comparison. Other tags are ignored.
fn names(known: &HeaderValue, broadcast: BroadcastId) -> bool {
    let known = text(known);
    let mut tags = known.split(',').map(str::trim).map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
    known == "*" || tags.any(|tag| id_in(tag) == Some(broadcast))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0198c5a0-1111-7222-8333-444455556666";
    const B: &str = "0198c5a0-1111-7222-8333-444455557777";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn wanted(value: &str) -> Result<Precondition, &'static str> {
        of_write(&headers(&[(header::IF_MATCH, value)])).map_err(|error| error.into_parts().0)
    }

    #[test]
    fn if_match_takes_a_star_an_id_and_a_list_of_ids() {
        let (a, b) = (A.parse().unwrap(), B.parse().unwrap());
        assert_eq!(of_write(&HeaderMap::new()), Ok(Precondition::Always));
        assert_eq!(wanted("*"), Ok(Precondition::AnyActive));
        assert_eq!(wanted(&format!("\"{A}\"")), Ok(Precondition::OneOf(vec![a])));
        assert_eq!(wanted(&format!("\"{}\"", A.to_uppercase())), Ok(Precondition::OneOf(vec![a])));
        assert_eq!(wanted(&format!(" , \"{A}\",\t\"{B}\",")), Ok(Precondition::OneOf(vec![a, b])));
        let many = vec![format!("\"{A}\""); MAX_NAMED].join(",");
        assert!(wanted(&many).is_ok());
    }

    #[test]
    fn a_malformed_if_match_is_refused() {
        let too_many = vec![format!("\"{A}\""); MAX_NAMED + 1].join(",");
        for bad in [
            "",
            ",",
            A,
            "\"\"",
            "\"",
            "\"x\"",
            "W/\"x\"",
            &format!("W/\"{A}\""),
            &format!("\"{A}\" \"{B}\""),
            &format!("\"{A}\", *"),
            &format!("\"{A}\", W/\"{B}\""),
            &format!("\"{A},{B}\""),
            "* *",
            &too_many,
        ] {
            assert_eq!(wanted(bad), Err("invalid_if_match"), "{bad}");
        }
    }

    #[test]
    fn if_none_match_is_a_star_and_stands_alone() {
        let unwanted = |pairs: &[(HeaderName, &str)]| of_write(&headers(pairs));
        assert_eq!(unwanted(&[(header::IF_NONE_MATCH, "*")]), Ok(Precondition::NoneActive));
        let id = format!("\"{A}\"");
        for bad in ["", "\"*\"", "*, *", &id] {
            assert!(unwanted(&[(header::IF_NONE_MATCH, bad)]).is_err(), "{bad}");
        }
        assert!(unwanted(&[(header::IF_NONE_MATCH, "*"), (header::IF_MATCH, "*")]).is_err());
    }

    #[test]
    fn a_client_that_has_the_active_broadcast_gets_304() {
        let shown = |known: &str| {
            let asked = headers(&[(header::IF_NONE_MATCH, known)]);
            let answer = tagged(respond::ok(None, &serde_json::json!({})), A.parse().unwrap(), &asked);
            assert_eq!(answer.headers()["etag"], format!("\"{A}\""));
            answer.status().as_u16()
        };
        for known in ["*", &format!("\"{A}\""), &format!("W/\"{A}\""), &format!("\"x\", \"{A}\"")] {
            assert_eq!(shown(known), 304, "{known}");
        }
        for other in ["", "\"x\"", A, &format!("\"{B}\"")] {
            assert_eq!(shown(other), 200, "{other}");
        }
    }
}
