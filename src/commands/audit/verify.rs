//! `audit verify`: gathers what a log is held to, and prints what is found.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;

use serde_json::json;

use super::exit::{FOUND, UNSIGNED};
use super::keys::{given, own};
use super::{AuditInput, note};
use crate::audit::export::ExportFile;
use crate::audit::finding::{Finding, FindingKind};
use crate::audit::terminal::json_line;
use crate::audit::verify::{self, Baseline, Evidence, Verified, live, mirror};
use crate::clock::{Clock as _, SystemClock};
use crate::commands::print;
use crate::commands::progress::Progress;
use crate::config::{Verify, VerifyFormat};
use crate::log::provision;

/// Findings of one kind that are printed; the rest is counted.
const MAX_PRINTED: u64 = 1_000;

/// Verifies, and says what was found.
pub(super) async fn run(options: Verify) -> anyhow::Result<ExitCode> {
    let keys = if options.key.is_empty() { own(&options.from)? } else { given(&options.key)? };
    let known = options.known.as_deref().map(Baseline::read).transpose()?.flatten();
    let input = AuditInput::of(&options.from).await?;
    let context = input.connection.as_ref().map(|connection| provision::context(&connection.client));
    // Replicas are asked before the log is: they are never ahead of it, then.
    let replicas = match &context {
        Some(context) => live::replicas(context).await?,
        None => Vec::new(),
    };
    let evidence = Evidence { signed: input.signed(keys).await?, baseline: known, replicas };

    let mut output = Output::new(options.format);
    let progress = Progress::over(input.source.head().await?.last_sequence);
    let mut report = |finding: Finding| progress.beside(|| output.report(&finding));
    if let Some(file) = &input.file {
        report_faults(file, &mut report);
    }
    let verified = verify::verify(&input.source, &evidence, |at| progress.at(at), &mut report).await?;
    if let Some(context) = &context {
        mirror::compare(context, &verified, SystemClock.now(), &mut report).await?;
    }
    drop(progress);
    output.finish(&verified, &evidence)?;
    if output.findings() > 0 {
        return Ok(ExitCode::from(FOUND));
    }
    if let Some(file) = &options.known {
        verified.to_baseline().write(file)?;
    }
    Ok(ExitCode::from(if is_unsigned(&verified) { UNSIGNED } else { 0 }))
}

/// Whether the log has events, and no checkpoint was of any of them.
const fn is_unsigned(verified: &Verified) -> bool {
    verified.size > 0 && verified.compared_signed == 0
}

/// Everything that is wrong with a file as a file.
fn report_faults(file: &ExportFile, report: &mut impl FnMut(Finding)) {
    for fault in file.faults() {
        report(Finding { kind: FindingKind::File, sequence: fault.sequence, what: fault.to_string() });
    }
    if file.more_faults() > 0 {
        report(Finding::of_all(FindingKind::File, format!("{} faults more", file.more_faults())));
    }
}

/// What is printed, and how much was found.
struct Output {
    text: bool,
    /// How many of each kind.
    found: BTreeMap<FindingKind, u64>,
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
        Self { text, found: BTreeMap::new(), broken: Ok(()) }
    }

    fn report(&mut self, finding: &Finding) {
        let of_kind = self.found.entry(finding.kind).or_default();
        *of_kind += 1;
        if *of_kind <= MAX_PRINTED {
            self.print(finding);
        }
    }

    fn print(&mut self, finding: &Finding) {
        if self.broken.is_ok() {
            self.broken =
                print(&if self.text { format!("{finding}\n") } else { json_line(&finding.to_json()) });
        }
    }

    /// How many there are in all.
    fn findings(&self) -> u64 {
        self.found.values().sum()
    }

    fn finish(&mut self, verified: &Verified, evidence: &Evidence) -> anyhow::Result<()> {
        let findings = self.findings();
        for (kind, count) in std::mem::take(&mut self.found) {
            if count > MAX_PRINTED {
                let what = format!("{} more of this kind are not listed", count - MAX_PRINTED);
                self.print(&Finding::of_all(kind, what));
            }
            self.found.insert(kind, count);
        }
        std::mem::replace(&mut self.broken, Ok(()))?;
        if evidence.signed.checks_no_signature() {
            note("no --key was given: who signed the checkpoints was not looked at".to_owned());
        }
        let unsigned = verified.size - verified.verified_up_to;
        if !self.text {
            return print(&json_line(&json!({
                "verified": findings == 0 && !is_unsigned(verified),
                "findings": findings,
                "epoch": verified.epoch,
                "size": verified.size,
                "root": verified.root,
                "digest": verified.digest,
                "compared": verified.compared,
                "signed_up_to": verified.verified_up_to,
                "replicas": evidence.replicas.len(),
            })));
        }
        let found = match findings {
            0 if is_unsigned(verified) => {
                "Nothing of this log is signed: nobody could tell if all of it was replaced. Apart from that, nothing is wrong. A \
                 replica signs with --checkpoint-key."
                    .to_owned()
            }
            0 => "Nothing is wrong.".to_owned(),
            many => format!("{} in all.", counted(many, "finding")),
        };
        let signed = match unsigned {
            _ if is_unsigned(verified) => "nothing of it".to_owned(),
            0 => "all of it".to_owned(),
            _ => {
                format!("up to {}; the last {} not yet", verified.verified_up_to, counted(unsigned, "place"))
            }
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
