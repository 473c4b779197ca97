//! The text of a broadcast: which characters it may have, and how many.

use serde::{Deserialize, Serialize};

use super::rejection::Rejection;
use super::types::MAX_MESSAGE_CHARS;

/// The length up to which a message is comfortable to read on a phone; advice, not a rule.
pub const RECOMMENDED_MESSAGE_CHARS: usize = 120;

/// The text of a broadcast: trimmed, 1 to 280 Unicode scalar values, newlines as `\n`, no character that misleads a reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Message(String);

impl Message {
    /// Validates and normalises what a creator typed.
    pub fn parse(raw: &str) -> Result<Self, Rejection> {
        let text = raw.replace("\r\n", "\n");
        let text = text.trim();
        if let Some((before, character)) = first_forbidden(text) {
            return Err(Rejection::MessageForbiddenCharacter { character, position: before + 1 });
        }
        match text.chars().count() {
            _ if text.chars().all(is_blank) => Err(Rejection::MessageEmpty),
            1..=MAX_MESSAGE_CHARS => Ok(Self(text.to_owned())),
            length => Err(Rejection::MessageTooLong { length }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its length as the limit counts it: Unicode scalar values.
    pub fn character_count(&self) -> usize {
        self.0.chars().count()
    }
}

/// The first character that a message may not have, and how many are before it. Tag characters pass where they are part of
/// a flag.
fn first_forbidden(text: &str) -> Option<(usize, char)> {
    let mut of_flag = 0_usize;
    text.char_indices().enumerate().find_map(|(before, (at, c))| {
        if of_flag > 0 {
            of_flag -= 1;
            return None;
        }
        if c == BLACK_FLAG {
            of_flag = tags_of_flag(&text[at + c.len_utf8()..]).unwrap_or(0);
        }
        is_forbidden(c).then_some((before, c))
    })
}

/// The flag of a part of a country begins with this character.
const BLACK_FLAG: char = '\u{1F3F4}';

/// The last tag character of a flag.
const CANCEL_TAG: char = '\u{E007F}';

/// How many tag characters make a flag of the black flag before them, or `None`: an emoji tag sequence (UTS #51, ED-14a)
/// whose tags are a subdivision of a country by Unicode's CLDR, such as `gbeng`. Those are two letters and one to four letters
/// or digits, so that no text hides there.
fn tags_of_flag(behind: &str) -> Option<usize> {
    let ascii = |c: char| char::from_u32(u32::from(c).checked_sub(0xE0000)?).filter(char::is_ascii);
    let tags: String = behind.chars().map_while(|c| ascii(c).filter(|_| c != CANCEL_TAG)).take(7).collect();
    let subdivision = tags.split_at_checked(2).filter(|(country, part)| {
        let is_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        country.bytes().all(|c| c.is_ascii_lowercase())
            && (1..=4).contains(&part.len())
            && part.bytes().all(is_part)
    });
    let ends = behind.chars().nth(tags.len()) == Some(CANCEL_TAG);
    subdivision.filter(|_| ends).map(|_| tags.len() + 1)
}

/// Characters that show nothing: `White_Space` and `Default_Ignorable_Code_Point` of Unicode, and the empty Braille
/// pattern, which is blank by its glyph alone. A message of nothing else is empty.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || is_default_ignorable(c) || c == '\u{2800}'
}

/// `Default_Ignorable_Code_Point` of Unicode 17.0, from `DerivedCoreProperties.txt`.
const fn is_default_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Control characters; the embeddings, overrides and isolates that make text read differently from what it says; and what
/// carries text that nobody sees: tag characters outside of flags, interlinear annotations and noncharacters. Left-to-right and
/// right-to-left *marks* (U+200E, U+200F, U+061C), joiners and variation selectors are part of honest writing and pass.
pub(crate) fn is_forbidden(c: char) -> bool {
    let is_hidden = matches!(c, '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}');
    let is_noncharacter = matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE;
    (c.is_control() && c != '\n')
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        || is_hidden
        || is_noncharacter
}

/// A message in the log was validated when it was written, and is read as it is: later rules do not apply to it. The
/// length is part of the schema of version 1 and limits what a foreign writer could have stored.
impl TryFrom<String> for Message {
    type Error = String;

    fn try_from(stored: String) -> Result<Self, Self::Error> {
        match stored.chars().count() {
            1..=MAX_MESSAGE_CHARS => Ok(Self(stored)),
            length => {
                Err(format!("a message has 1 to {MAX_MESSAGE_CHARS} characters; this one has {length}"))
            }
        }
    }
}

impl From<Message> for String {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_trimmed_counted_and_cleaned() {
        let forbidden =
            |character, place| Err(Rejection::MessageForbiddenCharacter { character, position: place });
        let cases: [(&str, Result<&str, Rejection>); 9] = [
            ("  hello \r\n", Ok("hello")),
            ("a\r\nb\nc", Ok("a\nb\nc")),
            ("\u{200F}שלום", Ok("\u{200F}שלום")),
            ("👩‍👩‍👧", Ok("👩‍👩‍👧")),
            ("", Err(Rejection::MessageEmpty)),
            (" \n\t ", Err(Rejection::MessageEmpty)),
            ("a\u{7}b", forbidden('\u{7}', 2)),
            ("a\rb", forbidden('\r', 2)),
            (" \r\né\r\n\u{202E}fed", forbidden('\u{202E}', 3)),
        ];
        for (raw, expected) in cases {
            let parsed = Message::parse(raw);
            assert_eq!(parsed.as_ref().map(Message::as_str), expected.as_ref().copied(), "{raw:?}");
        }
        assert!(Message::parse(&"é".repeat(280)).is_ok());
        assert_eq!(Message::parse(&"é".repeat(281)), Err(Rejection::MessageTooLong { length: 281 }));
    }

    #[test]
    fn what_only_fools_readers_is_forbidden_and_what_writing_needs_is_not() {
        let fooling = ('\u{202A}'..='\u{202E}').chain('\u{2066}'..='\u{2069}');
        let controls = ('\0'..'\n').chain('\u{B}'..' ').chain('\u{7F}'..='\u{9F}');
        let hidden =
            ('\u{FFF9}'..='\u{FFFB}').chain('\u{E0000}'..='\u{E007F}').chain('\u{FDD0}'..='\u{FDEF}');
        let noncharacters = ['\u{FFFE}', '\u{FFFF}', '\u{1FFFE}', '\u{10FFFF}'];
        for character in fooling.chain(controls).chain(hidden).chain(noncharacters) {
            let refused = Message::parse(&format!("a{character}b"));
            assert_eq!(refused, Err(Rejection::MessageForbiddenCharacter { character, position: 2 }));
        }
        // A newline, marks of direction in Hebrew and Arabic, joiners in Persian and in emoji, a variation selector.
        for needed in ['\n', '\u{200E}', '\u{200F}', '\u{61C}', '\u{200C}', '\u{200D}', '\u{FE0F}', '\u{AD}']
        {
            assert!(Message::parse(&format!("a{needed}b")).is_ok(), "{needed:?}");
        }
    }

    #[test]
    fn tag_characters_are_allowed_in_the_flag_of_a_part_of_a_country_and_nowhere_else() {
        let tags = |text: &str| -> String {
            text.chars().map(|c| char::from_u32(0xE0000 + u32::from(c)).unwrap()).collect()
        };
        let end = '\u{E007F}';
        let flag = |part: &str| format!("\u{1F3F4}{}{end}", tags(part));
        let (england, texas) = (flag("gbeng"), flag("ustx"));
        assert_eq!(england, "🏴󠁧󠁢󠁥󠁮󠁧󠁿");
        for good in [
            england.clone(),
            format!("{england}{texas} a"),
            format!("a {england}"),
            flag("fr75c"),
            "🏴".to_owned(),
        ] {
            assert_eq!(Message::parse(&good).map(|parsed| parsed.0), Ok(good.clone()), "{good:?}");
        }
        assert_eq!(Message::parse(&england).unwrap().character_count(), 7);
        let stray = |text: &str| match Message::parse(text) {
            Err(Rejection::MessageForbiddenCharacter { position: place, .. }) => Some(place),
            _ => None,
        };
        for (bad, place) in [
            (tags("gbeng"), 1),
            (format!("a{}{end}", tags("gbeng")), 2),
            (format!("\u{1F3F4}{}", tags("gbeng")), 2),
            (format!("\u{1F3F4}{end}"), 2),
            (flag("gb"), 2),
            (flag("GBENG"), 2),
            (flag("12345"), 2),
            (flag("gbengx7"), 2),
            (flag("send the money"), 2),
            (format!("{england}{}", tags("x")), 8),
            (format!("{england}{end}"), 8),
            (format!("\u{1F3F4}\u{1F3F4}{}", tags("gbeng")), 3),
            (format!("\u{1F3F4}\u{FE0F}{}{end}", tags("gbeng")), 3),
        ] {
            assert_eq!(stray(&bad), Some(place), "{bad:?}");
        }
    }

    #[test]
    fn a_message_of_nothing_visible_is_empty() {
        let blank = [
            '\u{200B}', '\u{2060}', '\u{FEFF}', '\u{2800}', '\u{3164}', '\u{115F}', '\u{FFA0}', '\u{AD}',
            '\u{34F}', '\u{180E}', '\u{200E}', '\u{200D}', '\u{FE0F}', '\u{2062}', '\u{A0}', '\u{3000}',
            '\u{2028}',
        ];
        for character in blank {
            for message in [character.to_string(), format!("{character} \u{200B}\n{character}")] {
                assert_eq!(Message::parse(&message), Err(Rejection::MessageEmpty), "{message:?}");
            }
            assert!(Message::parse(&format!("{character}x")).is_ok(), "{character:?}");
        }
        assert!(Message::parse(".").is_ok());
    }

    proptest! {
        #[test]
        fn what_unicode_lets_displays_ignore_is_blank(character in "\\p{Default_Ignorable_Code_Point}") {
            prop_assert!(character.chars().all(is_default_ignorable));
        }

        #[test]
        fn what_displays_do_not_ignore_is_not_taken_for_it(character in "\\P{Default_Ignorable_Code_Point}") {
            prop_assert!(!character.chars().any(is_default_ignorable));
        }

        #[test]
        fn parsing_a_message_twice_changes_nothing(raw in "\\PC{0,300}") {
            if let Ok(message) = Message::parse(&raw) {
                prop_assert_eq!(Message::parse(message.as_str()), Ok(message));
            }
        }
    }
}
