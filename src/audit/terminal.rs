//! What a terminal may be shown: tables of a fixed width, and nothing of a foreign log that would steer it.

use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::domain::message::is_forbidden;

const GAP: &str = "  ";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub heading: &'static str,
    /// How wide it is, at least. A text in the last column gets the rest of the line.
    pub width: usize,
    /// Numbers stand on the right, and are never cut.
    pub number: bool,
}

impl Column {
    /// Text on the left, cut to the width.
    pub const fn text(heading: &'static str, width: usize) -> Self {
        Self { heading, width, number: false }
    }

    /// A number on the right.
    pub const fn number(heading: &'static str, width: usize) -> Self {
        Self { heading, width, number: true }
    }
}

/// A table that is printed a line at a time: its widths do not depend on what is still to come.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its columns.
    pub columns: &'static [Column],
    /// How wide a line may be.
    pub width: usize,
}

impl Table {
    /// The line above the rows.
    pub fn heading(&self) -> String {
        self.row(&self.columns.iter().map(|column| column.heading.to_owned()).collect::<Vec<_>>())
    }

    /// A row, whatever its texts are.
    pub fn row(&self, cells: &[String]) -> String {
        let mut line = String::new();
        let last = self.columns.len().saturating_sub(1);
        for (place, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let rest =
                if place == last && !column.number { self.width.saturating_sub(line.width()) } else { 0 };
            let width = column.width.max(rest);
            let text = if column.number { cell.clone() } else { cut(&printable(cell), width) };
            let padding = " ".repeat(width.saturating_sub(text.width()));
            let (before, after) =
                if column.number { (padding, String::new()) } else { (String::new(), padding) };
            line = line + &before + &text + &after + GAP;
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Text in one line, without what would steer a terminal or make text read differently from what it says.
pub fn printable(text: &str) -> String {
    let shown = |c| match c {
        '\n' | '\t' => ' ',
        c if is_forbidden(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        // One column is for the ellipsis.
        taken < width
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// JSON in one line. It says the same as ever, but writes as `\u…` what JSON lets through and a terminal should not get.
pub fn json_line(value: &Value) -> String {
    escaped(&value.to_string()) + "\n"
}

/// JSON over many lines, with the same care.
pub fn json_pages(value: &Value) -> String {
    escaped(&format!("{value:#}")) + "\n"
}

/// Outside of its strings, JSON has no such characters; and none of them needs a surrogate. U+2028 and U+2029 are among them,
/// since some readers of NDJSON take them for the end of a line.
fn escaped(json: &str) -> String {
    let is_escaped = |c: char| is_forbidden(c) || matches!(c, '\u{2028}' | '\u{2029}');
    if !json.contains(is_escaped) {
        return json.to_owned();
    }
    json.chars()
        .map(|c| if is_escaped(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const COLUMNS: [Column; 3] = [Column::number("N", 4), Column::text("WHO", 5), Column::text("WHAT", 6)];

    fn row(width: usize, cells: [&str; 3]) -> String {
        Table { columns: &COLUMNS, width }.row(&cells.map(str::to_owned))
    }

    #[test]
    fn rows_are_cut_and_padded_by_what_is_seen() {
        assert_eq!(Table { columns: &COLUMNS, width: 0 }.heading(), "   N  WHO    WHAT\n");
        assert_eq!(row(0, ["7", "ann", "hello"]), "   7  ann    hello\n");
        assert_eq!(row(0, ["7", "annabel", "hello you"]), "   7  anna…  hello…\n");
        assert_eq!(row(21, ["7", "ann", "hello you"]), "   7  ann    hello y…\n");
        assert_eq!(row(0, ["7", "東京都", ""]), "   7  東京…\n");
        assert_eq!(row(0, ["123456789", "", "x"]), "123456789         x\n");
        assert_eq!(row(0, ["1", "e\u{301}a", "a\nb\tc"]), "   1  e\u{301}a     a b c\n");
    }

    #[test]
    fn a_number_in_the_last_column_stands_under_its_heading() {
        const COUNTS: [Column; 2] = [Column::text("WHO", 5), Column::number("ACKS", 6)];
        let table = Table { columns: &COUNTS, width: 60 };
        assert_eq!(table.heading(), "WHO      ACKS\n");
        assert_eq!(table.row(&["ann".to_owned(), "7".to_owned()]), "ann         7\n");
    }

    #[test]
    fn what_would_steer_a_terminal_is_not_shown() {
        let evil = "a\u{1b}[2Jb\u{9b}31m\u{7}\r\u{202E}c\u{7f}";
        assert_eq!(printable(evil), "a\u{FFFD}[2Jb\u{FFFD}31m\u{FFFD}\u{FFFD}\u{FFFD}c\u{FFFD}");
        let lines = "a\u{2028}b\u{2029}c";
        assert_eq!(json_line(&json!(lines)), "\"a\\u2028b\\u2029c\"\n");
        let value = json!({"message": evil, "\u{9b}": ["\u{2066}é\u{200F}👩‍👩‍👧"]});
        for (text, lines) in [(json_line(&value), 1), (json_pages(&value), 6)] {
            assert!(!text.chars().any(is_forbidden), "{text:?}");
            assert_eq!(text.lines().count(), lines);
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    proptest! {
        #[test]
        fn a_row_is_one_line_that_is_not_too_long(who in any::<String>(), what in any::<String>()) {
            let row = row(40, ["1", &who, &what]);
            prop_assert_eq!(row.matches('\n').count(), 1);
            prop_assert!(!row.trim_end_matches('\n').contains(char::is_control));
        }

        #[test]
        fn any_text_survives_as_json(text in any::<String>()) {
            let value = json!({ "text": text });
            prop_assert_eq!(serde_json::from_str::<Value>(&json_line(&value)).unwrap(), value);
        }
    }
}
