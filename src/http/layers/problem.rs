//! Errors as problem details (RFC 9457), for clients that accept `application/problem+json`.

use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::respond;

const MEDIA_TYPE: &str = "application/problem+json";

/// Replaces the body of an error, for clients that accept problem details. Status and headers stay.
pub async fn problem_json(request: Request, next: Next) -> Response {
    let wanted = is_wanted(request.headers());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
    if wanted {
        let problem = respond::json(response.status(), &error.problem(response.status()));
        *response.body_mut() = problem.into_body();
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    }
    response
}

fn is_wanted(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(MEDIA_TYPE));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        named && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_names_it_gets_it() {
        let wanted = |accept: &str| is_wanted(&[(ACCEPT, accept.parse().unwrap())].into_iter().collect());
        for accept in [
            "application/problem+json",
            "Application/Problem+JSON; q=0.5",
            "application/json, application/problem+json;charset=utf-8",
        ] {
            assert!(wanted(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/*",
            "application/json",
            "application/problem+json;q=0",
            "application/problem+xml",
        ] {
            assert!(!wanted(accept), "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
