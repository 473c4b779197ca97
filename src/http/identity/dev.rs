//! Dev auth: requests name their user and role, and are believed. For development, on a loopback address.

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, Uri};

use super::error::AuthError;
use super::principal::Principal;
use super::roles::{Grant, Role};
use crate::http::query::Query;

const USER_HEADER: &str = "x-user-id";
const ROLE_HEADER: &str = "x-user-role";

/// The user and role that a request names; the user `dev` with the role `creator` when it names neither.
fn claimed(user: Option<&str>, role: Option<&str>) -> Result<Principal, AuthError> {
    let role = match role {
        Some(word) => word.parse::<Grant>().map_err(|_| AuthError::UnknownRole)?,
        None if user.is_none() => Role::Creator.into(),
        None => Role::User.into(),
    };
    let user = user.unwrap_or("dev").parse().map_err(AuthError::InvalidUser)?;
    Ok(Principal { user, roles: [role].into_iter().collect(), expires_at: None })
}

/// From the headers of a request.
pub fn from_headers(headers: &HeaderMap) -> Result<Principal, AuthError> {
    claimed(text(headers, USER_HEADER)?, text(headers, ROLE_HEADER)?)
}

/// From the query of a WebSocket or an event stream, or else from the headers.
pub fn from_query(uri: &Uri, headers: &HeaderMap) -> Result<Principal, AuthError> {
    let query = Query::of(uri)?;
    let user = query.get("user_id").map_or_else(|| text(headers, USER_HEADER), |user| Ok(Some(user)))?;
    let role = query.get("role").map_or_else(|| text(headers, ROLE_HEADER), |role| Ok(Some(role)))?;
    claimed(user, role)
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, AuthError> {
    let Some(value) = headers.get(HeaderName::from_static(name)) else { return Ok(None) };
    // A user id may be any UTF-8, which `HeaderValue::to_str` would refuse.
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| AuthError::HeaderNotUtf8(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::identity::Roles;

    #[test]
    fn dev_auth_believes_and_has_the_seeds_defaults() {
        let who = |user, role| claimed(user, role).map(|who| (who.user.to_string(), who.roles));
        let role = |role: Role| [Grant::from(role)].into_iter().collect::<Roles>();
        assert_eq!(who(None, None), Ok(("dev".into(), role(Role::Creator))));
        assert_eq!(who(Some("1"), None), Ok(("1".into(), role(Role::User))));
        assert_eq!(who(Some("1"), Some("team")), Ok(("1".into(), role(Role::Team))));
        assert!(who(Some(""), None).is_err());
        assert!(who(Some("1"), Some("root")).is_err());
    }
}
