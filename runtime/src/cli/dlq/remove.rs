//! `dlq replay` and `dlq discard`: letters are taken out.

use tokio::signal::unix::{SignalKind, signal};

use super::{BoundArgs, Problem, SelectionArgs, line, print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letters::{DeadLetters, Outcome, Pace, Removal, Selection};

/// Ids that a dry run names for people.
const NAMED_MAX: usize = 20;

#[derive(clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    pub(super) remove: Remove,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = per_second)]
    rate: Option<Pace>,
}

#[derive(clap::Args)]
pub(super) struct Discard {
    #[command(flatten)]
    pub(super) remove: Remove,
}

#[derive(clap::Args)]
pub(super) struct Remove {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// The service whose letters these are
    #[arg(long, value_name = "LABEL")]
    pub(super) service: String,
    #[command(flatten)]
    selection: SelectionArgs,
    /// At most so many letters
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

fn per_second(text: &str) -> Result<Pace, String> {
    let number = text.parse().ok().and_then(Pace::per_second);
    number.ok_or_else(|| "not a positive number of letters a second".into())
}

impl Replay {
    pub(super) async fn run(&self, letters: &DeadLetters, plan: &Plan) -> Result<u8, Problem> {
        let removal = self.remove.removal(self.rate.unwrap_or_default());
        let stop = asked_to_stop()?;
        let outcome = letters.replay(&self.remove.service, &removal, stop).await?;
        Ok(self.remove.report(plan, "replayed", &outcome))
    }
}

impl Discard {
    pub(super) async fn run(&self, letters: &DeadLetters, plan: &Plan) -> Result<u8, Problem> {
        let removal = self.remove.removal(Pace::default());
        let stop = asked_to_stop()?;
        let outcome = letters
            .discard(&self.remove.service, &removal, stop)
            .await?;
        Ok(self.remove.report(plan, "discarded", &outcome))
    }
}

impl Remove {
    fn removal(&self, pace: Pace) -> Removal {
        Removal {
            selection: self.selection.selection(),
            limit: self.limit.unwrap_or(u64::MAX),
            dry_run: self.dry_run,
            pace,
            bounds: self.bounds.bounds(),
        }
    }

    /// Says what was done; the exit code.
    fn report(&self, plan: &Plan, done: &str, outcome: &Outcome) -> u8 {
        if self.json {
            print_clean_json(plan, outcome);
        } else {
            print_clean(plan, &self.text_of(done, outcome));
        }
        if let Some(error) = &outcome.error {
            eprintln!(
                "error: {}; its letter and those after it stay",
                plan.redactor.clean(error)
            );
        }
        if outcome.stopped {
            eprintln!("stopped: the other letters stay");
        }
        let by_id = matches!(self.selection.selection(), Selection::Ids(_));
        let missing = by_id && outcome.selected == 0 && outcome.error.is_none();
        if missing {
            eprintln!("error: no letter of this message was found");
        }
        let failed = outcome.error.is_some() || outcome.stopped || outcome.without_input > 0;
        if failed || missing { FAILED } else { DONE }
    }

    fn text_of(&self, done: &str, outcome: &Outcome) -> String {
        let Outcome {
            letters, removed, ..
        } = outcome;
        let would = if self.dry_run { "would be " } else { "" };
        let service = &self.service;
        let mut text = format!("{service}: {removed} of {letters} letters {would}{done}\n");
        for id in outcome.ids.iter().take(NAMED_MAX) {
            text.push_str(&format!("  {}\n", line(id)));
        }
        if outcome.ids.len() > NAMED_MAX {
            text.push_str(&format!("  and {} more\n", outcome.ids.len() - NAMED_MAX));
        }
        if outcome.without_input > 0 {
            text.push_str(&format!(
                "{service}: {} can't be replayed, since no input of the manifest is the one \
                 that gave them up\n",
                outcome.without_input
            ));
        }
        if outcome.more && self.limit.is_none_or(|limit| outcome.selected < limit) {
            text.push_str(&format!(
                "{service}: not all letters were looked at: see --scan\n"
            ));
        }
        text
    }
}

/// Resolves at Ctrl-C or SIGTERM: what is under way is finished then.
fn asked_to_stop() -> Result<impl Future<Output = ()>, Problem> {
    let listen = |kind| {
        let failed = |error| Problem::failed(format!("can't listen for signals: {error}"));
        signal(kind).map_err(failed)
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move { crate::cli::run::either(&mut terminate, &mut interrupt).await })
}
