//! Keeps responses out of caches, and browsers from guessing content types.

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, VARY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

/// The request headers on which every response below `/api/` depends.
const DEPENDS_ON: [&str; 3] = ["origin", "authorization", "cookie"];

/// Below `/api/`: no cache stores a response, unless its handler allows that, and `Vary` names the request headers that it
/// depends on. Everywhere: a browser believes the `Content-Type`.
pub async fn keep_private(request: Request, next: Next) -> Response {
    let is_personal = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_personal {
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        vary(headers);
    }
    response
}

/// One line, each name once.
fn vary(headers: &mut HeaderMap) {
    let mut names: Vec<_> = DEPENDS_ON.map(str::to_owned).into();
    for value in headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok()) {
        let more = value.split(',').map(|name| name.trim().to_ascii_lowercase());
        for name in more {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if let Ok(all) = HeaderValue::try_from(names.join(", ")) {
        headers.insert(VARY, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vary_names_each_header_once() {
        let mut headers = HeaderMap::new();
        for value in ["Accept", "origin, Accept-Language"] {
            headers.append(VARY, HeaderValue::from_static(value));
        }
        vary(&mut headers);
        let all: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(all, ["origin, authorization, cookie, accept, accept-language"]);
    }
}
