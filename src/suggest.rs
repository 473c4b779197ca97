//! Suggests the known name for an unknown one.

use strsim::jaro_winkler;

/// Names in responses that clients send back, and their names in requests.
const RENAMED: [(&str, &str); 3] = [("message_type", "type"), ("text", "message"), ("id", "broadcast_id")];

/// Longer names are compared by their beginning.
const MAX_COMPARED_CHARS: usize = 64;

/// From this likeness on (1: the same), a known name is worth a hint.
const NEAR: f64 = 0.8;

/// The known name that is spelled most like this one, if one is near.
pub fn near<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    nearest(name, known).filter(|found| jaro_winkler(&name.to_lowercase(), found) >= NEAR)
}

/// The known name that is spelled most like this one.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(MAX_COMPARED_CHARS).collect::<String>().to_lowercase();
    let renamed = RENAMED.iter().find(|(other, _)| *other == name).map(|(_, known)| *known);
    let is_renamed = |known: &&&str| Some(**known) == renamed;
    // This measure gives weight to the beginning: `targets` is nearer to `target_roles` than to `type`.
    let like = |known: &&&str| jaro_winkler(&name, known);
    let by_spelling = || known.iter().max_by(|one, other| like(one).total_cmp(&like(other)));
    known.iter().find(is_renamed).or_else(by_spelling).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let known = ["message", "type", "audience", "target_user_ids", "target_roles", "publish_at"];
        for (name, meant) in [
            ("target_user_id", "target_user_ids"),
            ("targets", "target_roles"),
            ("publish_on", "publish_at"),
            ("message_type", "type"),
            ("Message", "message"),
            ("mesage", "message"),
            ("audeince", "audience"),
        ] {
            assert_eq!(nearest(name, &known), Some(meant), "{name}");
        }
        assert_eq!(nearest("message_type", &[]), None);
        let known = ["min_position", "limit", "cursor"];
        for (name, meant) in [
            ("min_positon", Some("min_position")),
            ("Limits", Some("limit")),
            ("foo", None),
            ("user_id", None),
        ] {
            assert_eq!(near(name, &known), meant, "{name}");
        }
        assert!(nearest(&"x".repeat(30_000), &known).is_some());
    }
}
