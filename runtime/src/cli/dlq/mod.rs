//! `dlq`: lists, shows, exports, replays and discards dead letters.
//!
//! The verbs build requests and print the reports of [`crate::dead_letters`]. Declares nothing on
//! a broker.

use super::{FAILED, ManifestArgs, WRONG, block_on, one_line, print, print_report, to_json};
use crate::app::Plan;
use crate::manifest::suggest;
use crate::service::Catalog;
use crate::stderr::error_line;
use crate::transport::Transports;

mod access;
mod args;
mod atomic_file;
mod export;
mod groups;
mod list;
mod remove;
mod show;

use access::DlqAccess;

/// Arguments of `dlq`.
#[derive(clap::Args)]
pub(super) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Count dead letters by service and reason
    List(list::List),
    /// Group dead letters with the same failure, with an example of each group
    ///
    /// A group has letters of one service with one reason, whose errors differ only in numbers,
    /// ids, quoted values, paths and addresses. Use the group's fingerprint as --group of the
    /// other verbs.
    Groups(groups::GroupsArgs),
    /// Show dead letters: reason, attempts, headers, payload
    Show(show::Show),
    /// Replay dead letters: publish their messages again, under the same ids
    ///
    /// A message goes to the input that gave it up, or to the one of --to. Its letter is removed
    /// after the publisher confirm, so a crash in between loses no message. Ctrl-C stops in
    /// order and prints the number of replayed letters.
    ///
    /// Example: brickwork dlq replay app.toml --service stock --reason timeout --rate 50/s
    Replay(remove::Replay),
    /// Remove dead letters for good
    ///
    /// Example: brickwork dlq discard app.toml --group 0f3c5a7e9b1d2f40 --dry-run
    Discard(remove::Discard),
    /// Export dead letters as lines of JSON, or as test cases
    ///
    /// The letters stay in their queues. Secrets of the manifest are removed from the output.
    ///
    /// Example: brickwork dlq export app.toml --service stock --as-test --out cases.toml
    Export(export::Export),
}

impl Verb {
    fn manifest(&self) -> &ManifestArgs {
        match self {
            Self::List(list) => &list.over.manifest,
            Self::Groups(groups) => &groups.over.manifest,
            Self::Show(show) => &show.manifest,
            Self::Replay(replay) => &replay.remove.manifest,
            Self::Discard(discard) => &discard.remove.manifest,
            Self::Export(export) => &export.manifest,
        }
    }

    fn service(&self) -> Option<&str> {
        match self {
            Self::List(list) => list.over.service.as_deref(),
            Self::Groups(groups) => groups.over.service.as_deref(),
            Self::Show(show) => show.service.as_deref(),
            Self::Replay(replay) => replay.remove.service.as_deref(),
            Self::Discard(discard) => discard.remove.service.as_deref(),
            Self::Export(export) => export.service.as_deref(),
        }
    }
}

/// Why a verb failed.
#[derive(Debug)]
struct Problem {
    /// The exit code.
    code: u8,
    text: String,
    /// Whether the reason is that a queue does not exist.
    no_queue: bool,
}

impl Problem {
    fn wrong(text: impl Into<String>) -> Self {
        Self {
            code: WRONG,
            text: text.into(),
            no_queue: false,
        }
    }

    fn failed(text: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            ..Self::wrong(text)
        }
    }

    fn no_queue(text: impl Into<String>) -> Self {
        Self {
            no_queue: true,
            ..Self::failed(text)
        }
    }

    /// The report does not belong to the request.
    fn wrong_report() -> Self {
        Self::failed("the app's answer does not fit the command: is it another version?")
    }
}

impl Dlq {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.verb.manifest().load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let outcome = block_on(self.run(&plan, transports));
        match outcome.unwrap_or_else(|error| Err(Problem::failed(error.to_string()))) {
            Ok(code) => code,
            Err(problem) => {
                error_line!("error: {}", plan.redactor.clean(&problem.text));
                problem.code
            }
        }
    }

    async fn run(&self, plan: &Plan, transports: &Transports) -> Result<u8, Problem> {
        self.check_names(plan)?;
        let access = DlqAccess::open(plan, transports).await?;
        let outcome = match &self.verb {
            Verb::List(list) => list.run(&access, plan).await,
            Verb::Groups(groups) => groups.run(&access, plan).await,
            Verb::Show(show) => show.run(&access, plan).await,
            Verb::Replay(replay) => replay.run(&access, plan).await,
            Verb::Discard(discard) => discard.run(&access, plan).await,
            Verb::Export(export) => export.run(&access, plan).await,
        };
        access.close().await;
        outcome
    }

    /// Checks, before connecting, that the named service has dead letters and that the named
    /// input exists.
    fn check_names(&self, plan: &Plan) -> Result<(), Problem> {
        if let Verb::Replay(replay) = &self.verb {
            replay.check_input(plan)?;
        }
        let Some(named) = self.verb.service() else {
            return Ok(());
        };
        let topology = plan.topology();
        if topology.services().any(|service| service == named) {
            return Ok(());
        }
        let labels = plan.services.iter().map(|service| &*service.label);
        if labels.clone().any(|label| label == named) {
            return Err(Problem::wrong(format!(
                "`{named}` has no inputs, so it has no dead letters"
            )));
        }
        let services: Vec<&str> = topology.services().collect();
        Err(unknown("service has the label", named, services))
    }
}

/// The problem of an unknown name, with suggestions.
fn unknown(kind: &str, named: &str, names: Vec<&str>) -> Problem {
    let help = suggest::help(named, names, "there are");
    let help = help.map_or(String::new(), |help| format!("; {help}"));
    Problem::wrong(format!("no {kind} {}{help}", suggest::quote(named)))
}

/// The note that a limit of reading was reached.
fn not_all(service: &str, read: u64, letters: u64) -> String {
    format!("{service}: only the first {read} of {letters} letters were read: see --scan")
}

/// Prints a text without secrets.
fn print_clean(plan: &Plan, text: &str) {
    print(&plan.redactor.clean(text));
}

fn print_clean_json(plan: &Plan, value: &impl serde::Serialize) {
    print_clean(plan, &to_json(value));
}
