//! Requests that are refused before a handler has them, as errors: for their sender, their page, their rate or their query.

use axum::http::StatusCode;

use super::ApiError;
use crate::domain::Channel;
use crate::http::excerpt::excerpt;
use crate::http::identity::error::{AuthError, InvalidToken};
use crate::http::identity::{Grant, Role};
use crate::http::query::QueryError;
use crate::rate_limit::RateLimited;
use crate::suggest;

/// The challenge to a request without a token, and to one with a token that is not valid (RFC 6750, section 3.1).
const NO_TOKEN: &str = "Bearer";
const INVALID_TOKEN: &str = r#"Bearer error="invalid_token""#;

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let unauthorized = |code, message: String| Self::new(StatusCode::UNAUTHORIZED, code, message);
        let forbidden = |code, message: String| Self::new(StatusCode::FORBIDDEN, code, message);
        match error {
            AuthError::MissingToken { cookie } => {
                let cookie = cookie.map(|name| format!(" or the cookie `{name}`")).unwrap_or_default();
                let message =
                    format!("Authentication required: send `Authorization: Bearer <token>`{cookie}.");
                unauthorized("no_identity", message).with_challenge(NO_TOKEN)
            }
            AuthError::InvalidToken(why) => {
                let message = format!("The token is not valid. {}", invalid_token(&why));
                unauthorized("invalid_token", message).with_challenge(INVALID_TOKEN)
            }
            AuthError::ExpiredToken => unauthorized("token_expired", "The token has expired.".to_owned())
                .with_challenge(INVALID_TOKEN),
            AuthError::InvalidUser(why) => unauthorized("no_identity", format!("Invalid user id: {why}.")),
            AuthError::UnknownRole => unauthorized(
                "no_identity",
                "The role must be one of: creator, team, user, auditor; or creator@<channel>.".to_owned(),
            ),
            AuthError::HeaderNotUtf8(name) => {
                unauthorized("no_identity", format!("The header {name} is not UTF-8."))
            }
            AuthError::OtherUser => forbidden(
                "other_user",
                "The token belongs to a different user than this request or connection.".to_owned(),
            ),
            AuthError::KeysUnavailable => {
                let message = "The token issuer's signing keys (JWKS) are unavailable; retrying.";
                Self::unavailable("keys_away", message).retry_after(5)
            }
            AuthError::NoTokens => Self::malformed("not_supported", "Dev auth has no tokens."),
            AuthError::Query(error) => error.into(),
            AuthError::MissingRole { required, channel, own } => {
                forbidden("role_required", missing_role(&required, channel.as_ref(), &own))
            }
            AuthError::MissingOrigin => forbidden(
                "origin_not_allowed",
                "With the token in a cookie, this request requires the header `Origin`, which browsers send. Programs send \
                 `Authorization: Bearer <token>` instead."
                    .to_owned(),
            ),
            AuthError::OriginNotAllowed(explanation) => forbidden("origin_not_allowed", explanation),
            AuthError::HostNotAllowed { host } => forbidden(
                "host_not_allowed",
                format!(
                    "The host `{host}` is not known as this service. In dev auth, requests must name localhost, a loopback \
                     address or a host of --allowed-hosts."
                ),
            ),
        }
    }
}

/// Why a token is not valid. The token is the subject of the sentence before.
fn invalid_token(why: &InvalidToken) -> String {
    match why {
        InvalidToken::UnreadableHeader(name) => format!("The header {name} must be visible ASCII."),
        InvalidToken::SeveralHeaders => "There is more than one `Authorization: Bearer`.".to_owned(),
        InvalidToken::SeveralCookies => {
            "There are several cookies of this name with different values.".to_owned()
        }
        InvalidToken::SubprotocolAlone => {
            "The subprotocol `bearer` is offered without a token after it.".to_owned()
        }
        InvalidToken::TooLong(max) => format!("It is longer than {max} bytes."),
        InvalidToken::NotASignedJwt => "It is not a JWT that is signed with a known algorithm.".to_owned(),
        InvalidToken::CriticalExtensions => {
            "Its header requires extensions (`crit`) that are not supported.".to_owned()
        }
        InvalidToken::UnknownKey => "Its issuer does not publish the key that it was signed with.".to_owned(),
        InvalidToken::Signature => "Its signature is not by an accepted key.".to_owned(),
        InvalidToken::Algorithm => "Its signature algorithm is not accepted.".to_owned(),
        InvalidToken::NotYetValid => "It is not valid yet (`nbf`).".to_owned(),
        InvalidToken::Audience => "Unexpected audience (`aud`).".to_owned(),
        InvalidToken::AudienceNotConfigured => "Unexpected audience (`aud`): none is configured.".to_owned(),
        InvalidToken::Issuer => "Unexpected issuer (`iss`).".to_owned(),
        InvalidToken::MissingClaim(name) => format!("It has no `{name}`."),
        InvalidToken::ClaimType(name, expected) => format!("Its `{name}` must be {expected}."),
        InvalidToken::Subject(why) => format!("Its `sub` is not a user id: {why}."),
        InvalidToken::Unreadable => "Its claims cannot be parsed.".to_owned(),
    }
}

fn missing_role(required: &[Role], channel: Option<&Channel>, own: &[Grant]) -> String {
    let required = required.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
    let channel = channel.map(|channel| format!(" in the channel `{channel}`")).unwrap_or_default();
    let own: Vec<_> = own.iter().map(ToString::to_string).collect();
    let own = match &own[..] {
        [] => "you have no role".to_owned(),
        [one] => format!("your role is {one}"),
        _ => format!("your roles are {}", own.join(", ")),
    };
    format!("Requires the role {required}{channel}; {own}.")
}

/// The hint about a parameter of connections on another address.
const FOR_CONNECTIONS: &str = " Only connections accept it: here `Authorization` identifies the user, or with dev auth \
                               `X-User-Id` and `X-User-Role`.";

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Malformed(why) => {
                Self::malformed("malformed_query", format!("The query cannot be parsed: {why}."))
            }
            QueryError::LogLimiter(name) => {
                let message = format!("The query parameter `{}` must not be repeated.", excerpt(&name));
                Self::malformed("malformed_query", message)
            }
            QueryError::Unknown { name, known } => {
                let hint = match suggest::near(&name, &known) {
                    Some(near) => format!(" Did you mean `{near}`?"),
                    None if ["user_id", "role", "token"].contains(&name.as_str()) => {
                        FOR_CONNECTIONS.to_owned()
                    }
                    None => String::new(),
                };
                let name = excerpt(&name);
                let message = format!("`{name}` is not a query parameter of this address.{hint}");
                Self::malformed("unknown_parameter", message)
            }
        }
    }
}

impl From<RateLimited> for ApiError {
    fn from(limited: RateLimited) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, RateLimited::CODE, limited.to_string())
            .with_rate_limit(limited.quota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::identity::Principal;

    #[test]
    fn a_missing_role_is_named_with_the_roles_that_the_user_has() {
        let principal = |words: &[&str]| Principal {
            user: "ann".parse().unwrap(),
            roles: words.iter().map(|word| word.parse::<Grant>().unwrap()).collect(),
            expires_at: None,
        };
        let (creator, roles) = ("creator".parse().unwrap(), [Role::Creator, Role::Team]);
        let message = |words: &[&str]| {
            let required = principal(words).require(&creator, &roles);
            required.err().map(|error| ApiError::from(error).into_parts().1)
        };
        assert_eq!(message(&["team"]), None);
        assert_eq!(message(&["team@creator"]), None);
        assert_eq!(message(&[]).unwrap(), "Requires the role creator or team; you have no role.");
        assert_eq!(message(&["user"]).unwrap(), "Requires the role creator or team; your role is user.");
        let two = message(&["auditor", "user"]).unwrap();
        assert_eq!(two, "Requires the role creator or team; your roles are user, auditor.");
        let elsewhere = message(&["creator@forum"]).unwrap();
        let expected =
            "Requires the role creator or team in the channel `creator`; your role is creator@forum.";
        assert_eq!(elsewhere, expected);
        assert!(principal(&["creator@forum"]).require_everywhere(&roles).is_err());
    }
}
