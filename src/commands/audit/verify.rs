//! `audit verify`: gathers what a log is held to, and prints what is found.

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;

use serde_json::json;

use super::keys::{given, own};
use super::{Opened, note};
use crate::audit::export::Export;
use crate::audit::finding::{Finding, Kind};
use crate::audit::terminal::json_line;
use crate::audit::verify::{self, Evidence, Known, Verified, live, mirror};
use crate::clock::{Clock as _, SystemClock};
use crate::commands::print;
use crate::commands::progress::Progress;
use crate::config::{Verify, VerifyFormat};
use crate::log::provision;

/// Verifies, and says what was found; exit code 1 when anything was.
pub(super) async fn run(options: Verify) -> anyhow::Result<ExitCode> {
    let keys = if options.key.is_empty() { own(&options.from)? } else { given(&options.key)? };
    let known = options.known.as_deref().map(Known::read).transpose()?.flatten();
    let opened = Opened::of(&options.from).await?;
    let context = opened.connection.as_ref().map(|connection| provision::context(&connection.client));
    // Replicas are asked before the log is: they are never ahead of it, then.
    let replicas = match &context {
        Some(context) => live::replicas(context).await?,
        None => Vec::new(),
    };
    let evidence = Evidence { signed: opened.signed(keys).await?, known, replicas };

    let mut output = Output::new(options.format);
    let progress = Progress::over(opened.source.head().await?.last_sequence);
    let mut report = |finding: Finding| progress.beside(|| output.report(&finding));
    if let Some(file) = &opened.file {
        report_faults(file, &mut report);
    }
    let verified = verify::verify(&opened.source, &evidence, |at| progress.at(at), &mut report).await?;
    if let Some(context) = &context {
        mirror::compare(context, &verified, SystemClock.now(), &mut report).await?;
    }
    drop(progress);
    output.finish(&verified, &evidence)?;
    if output.findings > 0 {
        return Ok(ExitCode::FAILURE);
    }
    if let Some(file) = &options.known {
        verified.to_keep().write(file)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that is wrong with a file as a file.
fn report_faults(file: &Export, report: &mut impl FnMut(Finding)) {
    for fault in file.faults() {
        report(Finding { kind: Kind::File, sequence: fault.sequence, what: fault.to_string() });
    }
    if file.more_faults() > 0 {
        report(Finding::of_all(Kind::File, format!("{} faults more", file.more_faults())));
    }
}

/// What is printed, and how much was found.
struct Output {
    text: bool,
    findings: u64,
    /// What went wrong with printing.
    broken: anyhow::Result<()>,
}

impl Output {
    fn new(format: VerifyFormat) -> Self {
        let text = match format {
            VerifyFormat::Auto => stdout().is_terminal(),
            VerifyFormat::Text => true,
            VerifyFormat::Ndjson => false,
        };
        Self { text, findings: 0, broken: Ok(()) }
    }

    fn report(&mut self, finding: &Finding) {
        self.findings += 1;
        if self.broken.is_ok() {
            self.broken =
                print(&if self.text { format!("{finding}\n") } else { json_line(&finding.to_json()) });
        }
    }

    fn finish(&mut self, verified: &Verified, evidence: &Evidence) -> anyhow::Result<()> {
        std::mem::replace(&mut self.broken, Ok(()))?;
        if evidence.signed.checks_no_signature() {
            note("no --key was given: who signed the checkpoints was not looked at".to_owned());
        }
        let unsigned = verified.size - verified.right_up_to;
        if !self.text {
            return print(&json_line(&json!({
                "verified": self.findings == 0,
                "findings": self.findings,
                "epoch": verified.epoch,
                "size": verified.size,
                "root": verified.root,
                "digest": verified.digest,
                "compared": verified.compared,
                "signed_up_to": verified.right_up_to,
                "replicas": evidence.replicas.len(),
            })));
        }
        let found = match self.findings {
            0 => "Nothing is wrong.".to_owned(),
            many => format!("{} in all.", counted(many, "finding")),
        };
        let signed = match unsigned {
            0 => "all of it".to_owned(),
            _ => format!("up to {}; the last {} not yet", verified.right_up_to, counted(unsigned, "place")),
        };
        print(&format!(
            "{found}\n  log      {}, {}\n  root     {}\n  held to  {} signed or kept, {}\n  signed   {signed}\n",
            verified.epoch,
            counted(verified.size, "place"),
            verified.root,
            counted(verified.compared, "root"),
            counted(evidence.replicas.len() as u64, "live replica"),
        ))
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
