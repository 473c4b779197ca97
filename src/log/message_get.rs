//! Messages of the log from its leader, by `STREAM.MSG.GET`.
//!
//! Not by the client's own calls: of a header that a message has twice, those keep the last value alone, while a consumer
//! gives them all (async-nats 0.51; `tests/it/nats/server_behaviour.rs` keeps watch). A message must read the same however it comes,
//! or its leaf would not be the same.

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::names::LOG_STREAM;
use super::time::parse_rfc3339;
use super::{RawMessage, ReadError};

#[derive(Deserialize)]
struct GetResponse {
    message: StoredMessage,
}

/// A message as the API returns it: bytes in base64.
#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// The requested message of the log; `None` when there is none.
pub(super) async fn get(
    context: &jetstream::Context,
    request: &Value,
) -> Result<Option<RawMessage>, ReadError> {
    let answer = context.request(format!("STREAM.MSG.GET.{LOG_STREAM}"), request).await;
    match answer.map_err(|error| ReadError::Away(error.into()))? {
        Response::Ok(GetResponse { message }) => read(message).map(Some).map_err(ReadError::Away),
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(ReadError::Away(error.into())),
    }
}

fn read(stored: StoredMessage) -> anyhow::Result<RawMessage> {
    let decoded = |text: &str| STANDARD.decode(text).context("a stored message is not in base64");
    let mut headers = headers(&String::from_utf8(decoded(&stored.hdrs)?).context("headers are not UTF-8")?);
    // The other ways of reading sort them as well.
    headers.sort();
    Ok(RawMessage {
        sequence: stored.seq,
        time_ns: parse_rfc3339(&stored.time)?,
        subject: stored.subject,
        headers,
        body: decoded(&stored.data)?.into(),
    })
}

/// Parses a block of headers: a line with the version, then a line a header, continued by lines that begin with a space.
fn headers(block: &str) -> Vec<(String, String)> {
    let mut headers = Vec::<(String, String)>::new();
    for line in block.lines().skip(1).filter(|line| !line.is_empty()) {
        match (line.split_once(':'), headers.last_mut()) {
            (_, Some((_, value))) if line.starts_with(char::is_whitespace) => value.push_str(line),
            (Some((name, value)), _) => headers.push((name.to_owned(), value.trim_start().to_owned())),
            (None, _) => {}
        }
    }
    for (_, value) in &mut headers {
        value.truncate(value.trim_end().len());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_is_read_also_one_that_stands_there_twice() {
        let block = "NATS/1.0\r\nx-note: one\r\nce-id:1\r\nx-note:  two \r\nlong: a\r\n b\r\nempty:\r\n\r\n";
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let expected = [("x-note", "one"), ("ce-id", "1"), ("x-note", "two"), ("long", "a b"), ("empty", "")];
        assert_eq!(headers(block), expected.map(pair));
        assert_eq!(headers(""), []);
    }
}
