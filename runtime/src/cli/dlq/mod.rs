//! `dlq`: dead letters, looked at, kept and taken out.
//!
//! Prints what [`crate::dead_letters`] finds and does: over the manifest's transport, or,
//! where only the app reaches its letters, in the running app. Makes nothing on a broker.

use super::{FAILED, ManifestArgs, WRONG, print, print_report};
use crate::app::Plan;
use crate::manifest::suggest;
use crate::service::Catalog;
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

/// What is to be done with dead letters.
#[derive(clap::Args)]
pub(super) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// How many letters each service has, why, and since when
    List(list::List),
    /// Letters that failed alike, together: how many, since when, with an example
    ///
    /// Alike are letters of one service with one reason, whose errors are the same but for
    /// numbers, ids, quoted values, paths and addresses. The fingerprint of a group selects
    /// its letters in the other verbs.
    Groups(groups::GroupsArgs),
    /// Show letters: why, after how many attempts, headers, payload
    Show(show::Show),
    /// Have messages handled again, under the same ids
    ///
    /// A message is published to the input that gave it up, or to another one, and its
    /// letter goes once that is confirmed: whatever dies in between, the message is there at
    /// least once. Ctrl-C stops in order; what was replayed until then is said.
    Replay(remove::Replay),
    /// Remove letters for good
    Discard(remove::Discard),
    /// Write letters down: as lines of JSON, or as test cases
    ///
    /// The letters stay in their queues. Secrets of the manifest are cut out.
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

/// Why a verb didn't do what it was to do, with the exit code.
#[derive(Debug)]
struct Problem {
    code: u8,
    text: String,
    /// A queue isn't there.
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

    /// The app answered something else than it was asked.
    fn odd() -> Self {
        Self::failed("the app's answer is none to this question: is it another version?")
    }
}

impl Dlq {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.verb.manifest().load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let outcome = match runtime {
            Err(error) => Err(Problem::failed(format!("no runtime: {error}"))),
            Ok(runtime) => runtime.block_on(self.run(&plan, transports)),
        };
        match outcome {
            Ok(code) => code,
            Err(problem) => {
                eprintln!("error: {}", plan.redactor.clean(&problem.text));
                problem.code
            }
        }
    }

    async fn run(&self, plan: &Plan, transports: &Transports) -> Result<u8, Problem> {
        self.check_names(plan)?;
        let bench = DlqAccess::open(plan, transports).await?;
        let outcome = match &self.verb {
            Verb::List(list) => list.run(&bench, plan).await,
            Verb::Groups(groups) => groups.run(&bench, plan).await,
            Verb::Show(show) => show.run(&bench, plan).await,
            Verb::Replay(replay) => replay.run(&bench, plan).await,
            Verb::Discard(discard) => discard.run(&bench, plan).await,
            Verb::Export(export) => export.run(&bench, plan).await,
        };
        bench.close().await;
        outcome
    }

    /// Before anything is connected: the service that is named has dead letters, and the
    /// input is there.
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
                "`{named}` has no inputs, and so no dead letters"
            )));
        }
        let services: Vec<&str> = topology.services().collect();
        Err(unknown("service has the label", named, services))
    }
}

/// Nothing is called so; what may have been meant.
fn unknown(what: &str, named: &str, names: Vec<&str>) -> Problem {
    let help = suggest::help(named, names, "there are");
    let help = help.map_or(String::new(), |help| format!("; {help}"));
    Problem::wrong(format!("no {what} {}{help}", suggest::quote(named)))
}

/// What is said when a bound was reached.
fn not_all(service: &str, read: u64, letters: u64) -> String {
    format!("{service}: only the first {read} of {letters} letters were read: see --scan")
}

/// Prints without secrets.
fn print_clean(plan: &Plan, text: &str) {
    print(&plan.redactor.clean(text));
}

fn print_clean_json(plan: &Plan, value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("what is printed is plain data");
    print_clean(plan, &format!("{text}\n"));
}

/// A text as one line that does nothing to a terminal.
fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    crate::log::push_visible(&mut out, text);
    out
}
