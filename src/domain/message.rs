//! What a broadcast says: which characters a message may have, and how many.

use serde::{Deserialize, Serialize};

use super::decide::Rejection;

/// The most Unicode scalar values a message may have, after trimming.
///
/// The seed counted with Python's `len`, which counts code points too.
pub const MAX_MESSAGE_CHARS: usize = 280;

/// The length up to which a message is comfortable to read on a phone; advice, not a rule.
pub const RECOMMENDED_MESSAGE_CHARS: usize = 120;

/// What a broadcast says: trimmed, 1 to 280 Unicode scalar values, newlines as `\n`, nothing that fools a reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Message(String);

impl Message {
    /// Checks and normalises what a creator typed.
    pub fn parse(raw: &str) -> Result<Self, Rejection> {
        let text = raw.replace("\r\n", "\n");
        let text = text.trim();
        if let Some((before, character)) = text.chars().enumerate().find(|(_, c)| is_forbidden(*c)) {
            return Err(Rejection::MessageForbiddenCharacter { character, place: before + 1 });
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
/// carries text that nobody sees: tag characters, interlinear annotations and noncharacters. Left-to-right and right-to-left
/// *marks* (U+200E, U+200F, U+061C), joiners and variation selectors are part of honest writing and pass.
pub(crate) fn is_forbidden(c: char) -> bool {
    let is_hidden = matches!(c, '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}');
    let is_noncharacter = matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE;
    (c.is_control() && c != '\n')
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        || is_hidden
        || is_noncharacter
}

/// What is in the log was judged when it was written, and is read as it stands: later rules do not reach back. The
/// length is part of the schema of version 1 and bounds what a foreign writer could have put there.
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
        let forbidden = |character, place| Err(Rejection::MessageForbiddenCharacter { character, place });
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
            assert_eq!(refused, Err(Rejection::MessageForbiddenCharacter { character, place: 2 }));
        }
        // A newline, marks of direction in Hebrew and Arabic, joiners in Persian and in emoji, a variation selector.
        for needed in ['\n', '\u{200E}', '\u{200F}', '\u{61C}', '\u{200C}', '\u{200D}', '\u{FE0F}', '\u{AD}']
        {
            assert!(Message::parse(&format!("a{needed}b")).is_ok(), "{needed:?}");
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
