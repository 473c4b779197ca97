//! What was measured: kept round by round, summed up, and shown as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::statistics::Summary;

/// Everything that was measured so far, in the order in which it came first.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// A kind of load, of one size.
struct Row {
    name: String,
    /// Whom the others are compared with.
    base: &'static str,
    /// Who was measured.
    columns: Vec<&'static str>,
    lines: Vec<Line>,
    /// Of what must not be and was, in words.
    faults: Vec<String>,
}

/// One thing that is measured, of everybody.
struct Line {
    measure: &'static str,
    unit: &'static str,
    /// Whether others are put in relation to the base.
    compared: bool,
    /// By who was measured, and by round.
    values: BTreeMap<&'static str, BTreeMap<u32, f64>>,
}

/// Where the values of one row, round and server go.
pub struct Column<'a> {
    row: &'a mut Row,
    server: &'static str,
    round: u32,
}

impl Column<'_> {
    /// Keeps a value, to be compared with the base's.
    pub fn compare(&mut self, measure: &'static str, unit: &'static str, value: f64) {
        self.put(measure, unit, true, value);
    }

    /// Keeps a value that says enough by itself.
    pub fn keep(&mut self, measure: &'static str, unit: &'static str, value: f64) {
        self.put(measure, unit, false, value);
    }

    /// Keeps a value that has to be 0. What is not 0 is a fault, see [`Table::faults`].
    pub fn none(&mut self, measure: &'static str, unit: &'static str, value: f64) {
        self.keep(measure, unit, value);
        if value != 0.0 {
            let (row, round, who) = (&self.row.name, self.round, self.server);
            let fault = format!("{row}, round {round}: of {who}, {} {unit} {measure}", short(value));
            self.row.faults.push(fault);
        }
    }

    fn put(&mut self, measure: &'static str, unit: &'static str, compared: bool, value: f64) {
        let lines = &mut self.row.lines;
        let at =
            lines.iter().position(|line| (line.measure, line.unit) == (measure, unit)).unwrap_or_else(|| {
                lines.push(Line { measure, unit, compared, values: BTreeMap::new() });
                lines.len() - 1
            });
        lines[at].values.entry(self.server).or_default().insert(self.round, value);
    }
}

impl Table {
    /// Where what comes is kept. `first` is whom the table is about, and `base` whom it is compared with.
    pub fn column(
        &mut self,
        row: &str,
        (first, base): (&'static str, &'static str),
        server: &'static str,
        round: u32,
    ) -> Column<'_> {
        let at = self.rows.iter().position(|known| known.name == row).unwrap_or_else(|| {
            let name = row.to_owned();
            self.rows.push(Row { name, base, columns: Vec::new(), lines: Vec::new(), faults: Vec::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        if !row.columns.contains(&server) {
            row.columns.push(server);
            // In whichever order they were measured.
            row.columns.sort_unstable_by_key(|column| (*column != first, *column != base, *column));
        }
        Column { row, server, round }
    }

    /// The median of what was measured of somebody in the last row that has these words in its name.
    pub fn median(&self, row: &str, measure: &str, unit: &str, server: &str) -> Option<f64> {
        let row = self.rows.iter().rev().find(|known| known.name.contains(row))?;
        let line = row.lines.iter().find(|line| (line.measure, line.unit) == (measure, unit))?;
        line.summary(server).map(|summary| summary.median)
    }

    /// What must not be and was: without any, the measurement holds.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().flat_map(|row| &row.faults).map(String::as_str)
    }

    /// For people, in Markdown.
    pub fn markdown(&self) -> String {
        self.rows.iter().map(Row::markdown).collect()
    }

    /// For programs: every value of every round too.
    pub fn json(&self) -> Value {
        self.rows.iter().flat_map(|row| row.lines.iter().flat_map(|line| row.json(line))).collect()
    }
}

impl Row {
    fn markdown(&self) -> String {
        let all = self.lines.iter().flat_map(|line| line.values.values());
        let rounds = all.map(BTreeMap::len).max().unwrap_or_default();
        let confidence = Summary::of(&vec![0.0; rounds]).map_or(0.0, |summary| summary.confidence);
        let relation = match self.columns.len() {
            1 => String::new(),
            _ => format!("; × is in relation to {}", self.base),
        };
        let shown = match rounds {
            1 => "one round".to_owned(),
            _ => format!("{rounds} rounds, intervals of {:.0} %", 100.0 * confidence),
        };
        let mut text = format!("\n**{}** ({shown}{relation})\n\n", self.name);
        let _ = writeln!(text, "| | {} |", self.columns.join(" | "));
        let _ = writeln!(text, "| --- |{}", " --- |".repeat(self.columns.len()));
        for line in &self.lines {
            let cells: Vec<_> = self.columns.iter().map(|column| self.cell(line, column)).collect();
            let unit = if line.unit.is_empty() { String::new() } else { format!(", {}", line.unit) };
            let _ = writeln!(text, "| {}{unit} | {} |", line.measure, cells.join(" | "));
        }
        text
    }

    fn cell(&self, line: &Line, column: &str) -> String {
        let Some(summary) = line.summary(column) else { return String::new() };
        let value = shown(&summary);
        match self.ratio(line, column) {
            Some(ratio) => format!("{value}, × {}", shown(&ratio)),
            None => value,
        }
    }

    /// How somebody stands to the base, round by round: what disturbs both in a round cancels out.
    fn ratio(&self, line: &Line, column: &str) -> Option<Summary> {
        let (values, base) = (line.values.get(column)?, line.values.get(self.base)?);
        if column == self.base || !line.compared {
            return None;
        }
        let ratios = values.iter().filter_map(|(round, value)| Some(value / base.get(round)?));
        Summary::of(&ratios.filter(|ratio| ratio.is_finite()).collect::<Vec<_>>())
    }

    fn json<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = Value> + 'a {
        let of = |summary: Summary| {
            json!({
                "median": summary.median, "low": summary.low, "high": summary.high,
                "confidence": summary.confidence, "rounds": summary.rounds,
            })
        };
        line.values.iter().map(move |(column, rounds)| {
            json!({
                "row": self.name, "measure": line.measure, "unit": line.unit, "of": column, "rounds": rounds,
                "summary": line.summary(column).map(of), "base": self.base, "ratio": self.ratio(line, column).map(of),
            })
        })
    }
}

impl Line {
    fn summary(&self, column: &str) -> Option<Summary> {
        Summary::of(&self.values.get(column)?.values().copied().collect::<Vec<_>>())
    }
}

/// The median, and the interval unless it is a point.
fn shown(summary: &Summary) -> String {
    let (median, low, high) = (short(summary.median), short(summary.low), short(summary.high));
    if low == high { median } else { format!("{median} ({low}–{high})") }
}

/// Three digits, or all before the point.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small @ ..0.01 => return format!("{small:.1e}"),
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let whole = text.find('.').unwrap_or(text.len());
    let grouped = text.char_indices().flat_map(|(at, digit)| {
        let comma = (at > 0 && at < whole && (whole - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    });
    sign.chars().chain(grouped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: (&str, &str) = ("tidings", "send loop");

    fn table() -> Table {
        let mut table = Table::default();
        for round in 0..9 {
            // The machine is slower in every round, for both.
            let slower = f64::from(round + 1);
            let mut base = table.column("one broadcast", WHO, "send loop", round);
            base.compare("CPU a delivery", "µs", 2.0 * slower);
            base.keep("lost", "deliveries", 0.0);
            table.column("one broadcast", WHO, "tidings", round).compare(
                "CPU a delivery",
                "µs",
                3.0 * slower,
            );
        }
        table
    }

    #[test]
    fn everybody_is_put_in_relation_round_by_round() {
        let lines = table().markdown();
        assert!(
            lines.contains("**one broadcast** (9 rounds, intervals of 96 %; × is in relation to send loop)"),
            "{lines}"
        );
        assert!(lines.contains("| | tidings | send loop |\n| --- | --- | --- |\n"), "{lines}");
        assert!(
            lines.contains("| CPU a delivery, µs | 15.0 (6.00–24.0), × 1.50 | 10.0 (4.00–16.0) |"),
            "{lines}"
        );
        assert!(lines.contains("| lost, deliveries |  | 0 |"), "{lines}");
        assert_eq!(table().median("broadcast", "CPU a delivery", "µs", "tidings"), Some(15.0));
        assert_eq!(table().median("broadcast", "CPU a delivery", "ms", "tidings"), None);
    }

    #[test]
    fn what_must_be_0_and_is_not_is_a_fault() {
        let mut table = table();
        let mut column = table.column("one broadcast", WHO, "send loop", 9);
        column.none("doubled", "deliveries", 0.0);
        column.keep("heard", "pings", 1.0);
        assert_eq!(table.faults().count(), 0);
        table.column("one broadcast", WHO, "tidings", 9).none("doubled", "deliveries", 2.0);
        table.column("a storm", WHO, "tidings", 1).none("refused", "clients", f64::NAN);
        let faults: Vec<_> = table.faults().collect();
        assert_eq!(
            faults,
            [
                "one broadcast, round 9: of tidings, 2.00 deliveries doubled",
                "a storm, round 1: of tidings, NaN clients refused",
            ]
        );
        let lines = table.markdown();
        assert!(lines.contains("| doubled, deliveries | 2.00 | 0 |"), "{lines}");
    }

    #[test]
    fn programs_get_every_round() {
        let json = table().json();
        assert_eq!((&json[0]["of"], &json[1]["of"]), (&"send loop".into(), &"tidings".into()));
        assert_eq!(json[1]["rounds"].as_object().unwrap().len(), 9);
        assert!((json[1]["ratio"]["median"].as_f64().unwrap() - 1.5).abs() < 1e-9, "{json}");
        assert!(json[0]["ratio"].is_null());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.001_23, 1.234, 12.34, 1234.5, 1_234_567.0, -999_999.6].map(short);
        assert_eq!(shown, ["0", "1.2e-3", "1.23", "12.3", "1,234", "1,234,567", "-1,000,000"]);
    }
}
