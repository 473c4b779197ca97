//! Who is asking, and from which page.
//!
//! Dev auth believes what people say of themselves, so it is for a loopback address. Pages of other origins are
//! refused: a browser would let any site post to it.

use axum::extract::{FromRequestParts, Request};
use axum::http::header::{HeaderName, ORIGIN, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use super::request::Query;
use super::state::App;
use crate::domain::UserId;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends and clears broadcasts, and reads statistics.
    Creator,
    /// Reads statistics.
    Team,
    /// Reads broadcasts and acknowledges them.
    User,
    /// Reads the log.
    Auditor,
}

impl Role {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "creator" => Some(Self::Creator),
            "team" => Some(Self::Team),
            "user" => Some(Self::User),
            "auditor" => Some(Self::Auditor),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Creator => "creator",
            Self::Team => "team",
            Self::User => "user",
            Self::Auditor => "auditor",
        }
    }
}

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Their id.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
}

const USER_HEADER: HeaderName = HeaderName::from_static("x-user-id");
const ROLE_HEADER: HeaderName = HeaderName::from_static("x-user-role");

impl Identity {
    /// Dev auth: what was said, or the user `dev` with role `creator` when nothing was.
    fn claimed(user: Option<&str>, role: Option<&str>) -> Result<Self, ApiError> {
        let role = match role {
            Some(word) => Role::parse(word).ok_or_else(|| {
                ApiError::no_identity("The role must be one of: creator, team, user, auditor.")
            })?,
            None if user.is_none() => Role::Creator,
            None => Role::User,
        };
        let user = user
            .unwrap_or("dev")
            .parse()
            .map_err(|e: String| ApiError::no_identity(format!("Not a user: {e}.")))?;
        Ok(Self { user, role })
    }

    /// From the headers of a REST call.
    fn from_headers(headers: &HeaderMap) -> Result<Self, ApiError> {
        Self::claimed(text(headers, &USER_HEADER)?, text(headers, &ROLE_HEADER)?)
    }

    /// From the query of a WebSocket or event-stream connection; headers count where the query says nothing.
    pub fn from_query(uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        let query = Query::of(uri)?;
        let user = query.get("user_id").map_or_else(|| text(headers, &USER_HEADER), |user| Ok(Some(user)))?;
        let role = query.get("role").map_or_else(|| text(headers, &ROLE_HEADER), |role| Ok(Some(role)))?;
        Self::claimed(user, role)
    }

    /// Lets those through who have one of these roles.
    pub fn require(&self, roles: &[Role]) -> Result<(), ApiError> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let allowed = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        Err(ApiError::forbidden(
            "role_required",
            format!("This takes the role {allowed}; yours is {}.", self.role.as_str()),
        ))
    }

    /// Whether they learn what creators and team learn.
    pub const fn is_staff(&self) -> bool {
        matches!(self.role, Role::Creator | Role::Team)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    // User ids may be any UTF-8, so the bytes are read as that rather than as visible ASCII.
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| ApiError::no_identity(format!("The header {name} is not UTF-8.")))
}

impl FromRequestParts<App> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        Self::from_headers(&parts.headers)
    }
}

/// Refuses pages of other origins on whatever changes state and on WebSockets. Who is no browser sends no `Origin`.
pub async fn same_origin(request: Request, next: Next) -> Response {
    let guarded =
        !matches!(*request.method(), Method::GET | Method::HEAD) || request.headers().contains_key(UPGRADE);
    match request.headers().get(ORIGIN) {
        Some(origin) if guarded && !is_local(origin.to_str().unwrap_or("?")) => {
            let message = "Pages of this origin may not do that. In dev auth only pages of this machine may.";
            ApiError::forbidden("origin_not_allowed", message).into_response()
        }
        _ => next.run(request).await,
    }
}

/// `null` (a file, a sandbox) and pages that this machine serves.
fn is_local(origin: &str) -> bool {
    if origin == "null" {
        return true;
    }
    let host = origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_auth_believes_and_has_the_seeds_defaults() {
        let who = |user, role| Identity::claimed(user, role).map(|i| (i.user.to_string(), i.role));
        assert_eq!(who(None, None), Ok(("dev".into(), Role::Creator)));
        assert_eq!(who(Some("1"), None), Ok(("1".into(), Role::User)));
        assert_eq!(who(Some("1"), Some("team")), Ok(("1".into(), Role::Team)));
        assert!(who(Some(""), None).is_err());
        assert!(who(Some("1"), Some("root")).is_err());
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
}
