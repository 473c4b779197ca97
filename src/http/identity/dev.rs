//! Dev auth: people are who they say. So it is for a loopback address.

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, Uri};

use super::{Grant, Identity, Role};
use crate::http::error::ApiError;
use crate::http::request::Query;

const USER_HEADER: HeaderName = HeaderName::from_static("x-user-id");
const ROLE_HEADER: HeaderName = HeaderName::from_static("x-user-role");

/// What was said, or the user `dev` with role `creator` when nothing was.
fn claimed(user: Option<&str>, role: Option<&str>) -> Result<Identity, ApiError> {
    let role = match role {
        Some(word) => word.parse::<Grant>().map_err(|_| {
            ApiError::no_identity(
                "The role must be one of: creator, team, user, auditor; or creator@<channel>.",
            )
        })?,
        None if user.is_none() => Role::Creator.into(),
        None => Role::User.into(),
    };
    let user = user
        .unwrap_or("dev")
        .parse()
        .map_err(|e: String| ApiError::no_identity(format!("Invalid user id: {e}.")))?;
    Ok(Identity { user, roles: [role].into_iter().collect(), ends: None })
}

/// From the headers of a REST call.
pub fn from_headers(headers: &HeaderMap) -> Result<Identity, ApiError> {
    claimed(text(headers, &USER_HEADER)?, text(headers, &ROLE_HEADER)?)
}

/// From the query of a WebSocket or event-stream connection; headers count where the query says nothing.
pub fn from_query(uri: &Uri, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let query = Query::of(uri)?;
    let user = query.get("user_id").map_or_else(|| text(headers, &USER_HEADER), |user| Ok(Some(user)))?;
    let role = query.get("role").map_or_else(|| text(headers, &ROLE_HEADER), |role| Ok(Some(role)))?;
    claimed(user, role)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    // User ids may be any UTF-8, so the bytes are read as that rather than as visible ASCII.
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| ApiError::no_identity(format!("The header {name} is not UTF-8.")))
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
