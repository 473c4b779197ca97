//! Diagnostics on stderr: lines for people, or a JSON object a line for whatever collects them.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, stderr};

use serde_json::{Map, Value};
use tracing::field::Field;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{JsonFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::audit::terminal::json_line;
use crate::config::{Audit, Command, LogFormat};
use crate::domain::message::is_forbidden;

/// The variable that says how much is written, in the syntax of `tracing` (`info,tidings=debug`).
pub(super) const VERBOSITY: &str = "TIDINGS_LOG";

/// How much is written.
pub(super) struct Verbosity {
    /// In the syntax of `tracing`.
    pub(super) directives: String,
    /// Whether the environment says so, and not the default.
    pub(super) is_chosen: bool,
    /// What the environment says, and why it cannot be read.
    misread: Option<(String, String)>,
}

impl Verbosity {
    /// What is in effect for this command.
    pub(super) fn of(command: &Command) -> Self {
        let wanted = std::env::var(VERBOSITY).unwrap_or_default();
        let default = default(command).to_owned();
        if wanted.is_empty() {
            return Self { directives: default, is_chosen: false, misread: None };
        }
        match EnvFilter::try_new(&wanted) {
            Ok(_) => Self { directives: wanted, is_chosen: true, misread: None },
            Err(why) => {
                Self { directives: default, is_chosen: false, misread: Some((wanted, why.to_string())) }
            }
        }
    }
}

/// Starts them, and returns how they are written.
pub(super) fn start(command: &Command, verbosity: &Verbosity) -> LogFormat {
    let diagnostics = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&verbosity.directives))
        .with_writer(stderr)
        .with_target(false)
        // They would go to stderr with `eprintln!`, and panic when it is stderr that nobody reads any more.
        .log_internal_errors(false);
    let format = format(command);
    match format {
        LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            diagnostics
                .with_ansi(stderr().is_terminal())
                .fmt_fields(fields)
                .finish()
                .with(filter_fn(is_wanted))
                .init();
        }
        LogFormat::Json => diagnostics
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines { fields: JsonFields::new() })
            .finish()
            .with(filter_fn(is_wanted))
            .init(),
    }
    if let Some((wanted, why)) = &verbosity.misread {
        warn!("{VERBOSITY}={wanted:?} cannot be read ({why}), so it is {:?}", verbosity.directives);
    }
    format
}

/// Whether a line is to be written, whatever `TIDINGS_LOG` says.
fn is_wanted(metadata: &Metadata<'_>) -> bool {
    has_no_payload(metadata) && metadata.target() != CONNECTING
}

/// Where the NATS client writes why it could not connect, at each attempt: several times a second, without the server. That is
/// said by `log::connection`, now and then, with what to do; and by the error of a command that ends.
const CONNECTING: &str = "async_nats::connector";

/// Below `info` the NATS client writes what it sends and receives: messages and users, which belong in the log alone.
fn has_no_payload(metadata: &Metadata<'_>) -> bool {
    let is_the_client = metadata.target().split("::").next() == Some("async_nats");
    !is_the_client || *metadata.level() <= Level::INFO
}

/// How much is said unless `TIDINGS_LOG` says otherwise.
const fn default(command: &Command) -> &'static str {
    match command {
        // sled reports what it does about its files, and the client each ping; neither is for operators.
        Command::Serve(_) => "info,sled=warn,async_nats=warn",
        // It says itself, in its own words, what happens to the log.
        Command::Audit(Audit::Replay(options)) if options.follow => "off",
        _ => "warn,sled=error,async_nats=error",
    }
}

const fn format(command: &Command) -> LogFormat {
    match command {
        Command::Serve(options) => options.log_format,
        _ => LogFormat::Text,
    }
}

/// One field of a line for people, the message among them. Whatever it is about, which may come from anybody, it stays in
/// its line, and neither steers a terminal nor reads differently from what it says.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => {}
        name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        name => write!(writer, "{name}=")?,
    }
    write!(Escaping(writer), "{value:?}")
}

struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_unprintable) {
            let (plain, last) = match part.chars().next_back() {
                Some(last) if is_unprintable(last) => (&part[..part.len() - last.len_utf8()], Some(last)),
                _ => (part, None),
            };
            self.0.write_str(plain)?;
            if let Some(last) = last {
                write!(self.0, "{}", last.escape_default())?;
            }
        }
        Ok(())
    }
}

fn is_unprintable(c: char) -> bool {
    c == '\n' || is_forbidden(c)
}

/// One object a line: time, level, target, message, then the fields of the event and of the spans that it was said in,
/// under their own names. The library's own format keeps the spans' fields one level down, where a search for `trace.id`
/// would have to look as well.
struct JsonLines {
    fields: JsonFields,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = String::new();
        self.fields.format_fields(Writer::new(&mut said), event)?;
        let mut said = object(&said);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), time.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        line.insert("message".to_owned(), said.shift_remove("message").unwrap_or_default());
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                line.extend(object(&fields.fields));
            }
        }
        line.extend(said);
        writer.write_str(&json_line(&Value::Object(line)))
    }
}

fn object(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_said_stays_in_its_line() {
        let mut said = String::new();
        let mut writer = Writer::new(&mut said);
        write!(Escaping(&mut writer), "a\nb\r\u{1b}[2J\u{9b}31m \u{202E}é").unwrap();
        assert_eq!(said, "a\\nb\\r\\u{1b}[2J\\u{9b}31m \\u{202e}é");
    }
}
