//! What must not be seen, and all that was.

use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::process::Command;

use crate::support::Request;
use crate::support::nats::files_below;

/// Is in every secret that may be any text, and in nothing else.
pub const MARK: &str = "cAnArYcAnArY";

/// So many characters of a secret are enough to know it again, wherever it was cut off.
const KNOWN_BY: usize = 12;

pub struct Watch {
    secrets: Vec<(String, String)>,
    seen: Vec<(String, String)>,
}

impl Default for Watch {
    /// The mark, in all the ways in which base64 has it.
    fn default() -> Self {
        let mut watch = Self { secrets: Vec::new(), seen: Vec::new() };
        watch.secret("the mark", MARK);
        for shift in 0..3 {
            let text = URL_SAFE_NO_PAD.encode(format!("{}{MARK}", "x".repeat(shift)));
            // What stands before it, and the bits that it shares with what comes after, are left out.
            watch.secret("the mark in base64", &text[if shift == 0 { 0 } else { 4 }..][..KNOWN_BY]);
        }
        watch
    }
}

impl Watch {
    pub fn secret(&mut self, what: &str, text: &str) {
        assert!(text.len() >= KNOWN_BY, "{text} may be there by chance");
        self.secrets.push((what.to_owned(), text.to_owned()));
    }

    /// Watches for pieces of a token: its signature, and the end of its claims.
    pub fn token(&mut self, token: &str) {
        for part in token.split('.').skip(1) {
            self.secret("the end of a part of a token", &part[part.len() - KNOWN_BY..]);
        }
        let signature = token.rsplit('.').next().unwrap();
        self.secret("the beginning of a signature", &signature[..KNOWN_BY]);
    }

    pub fn saw(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let text = String::from_utf8_lossy(&bytes.into()).into_owned();
        self.seen.push((place.into(), text));
    }

    /// Every file below.
    pub fn saw_folder(&mut self, place: &str, folder: &Path) {
        let files = files_below(folder);
        assert!(!files.is_empty(), "{place} is empty");
        for file in files {
            self.saw(format!("{place}: {}", file.display()), std::fs::read(&file).unwrap());
        }
    }

    /// Sends a request, and sees its answer; returns the status.
    pub async fn ask(&mut self, request: Request) -> u16 {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
        let body = answer.text().await.unwrap();
        self.saw(format!("an answer {status}"), format!("{headers}\n{body}"));
        status.as_u16()
    }

    /// Runs a command, and sees what it prints.
    pub async fn run(&mut self, command: &mut Command) -> Output {
        let output = command.output().await.unwrap();
        let what = command.as_std().get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        self.saw(format!("a command: {what}"), [&*output.stdout, &*output.stderr].concat());
        output
    }

    /// That something harmless was seen shows that it would have been.
    pub fn has_seen(&self, place: &str, text: &str) {
        let found = self.seen.iter().any(|(seen, said)| seen.starts_with(place) && said.contains(text));
        assert!(found, "{text} is not in {place}");
    }

    /// Fails with every secret that was seen, and where.
    pub fn judge(&self) {
        let mut found = Vec::new();
        for (place, text) in &self.seen {
            for (what, secret) in &self.secrets {
                if let Some(at) = text.find(secret.as_str()) {
                    let from = text[..at].rfind('\n').map_or(0, |end| end + 1);
                    let line: String = text[from..].chars().take(300).collect();
                    found.push(format!("{what} is in {place}: {line}"));
                }
            }
        }
        found.sort();
        found.dedup();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
