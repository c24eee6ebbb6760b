//! `dlq replay` and `dlq discard`: remove letters.

use std::pin::pin;

use super::access::DlqAccess;
use super::args::{BoundArgs, SelectionArgs, not_found};
use super::{Problem, one_line, print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::signals::StopSignals;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letters::{Destination, DlqAction, DlqReport, Outcome, RateLimit, RemoveOptions};
use crate::names::QueueId;
use crate::stderr::error_line;
use serde::Serialize;

/// Maximum ids that a dry run prints.
const NAMED_MAX: usize = 20;

#[derive(clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    pub(super) remove: Remove,
    /// Replay to this input [default: the input that gave the message up]
    #[arg(long, value_name = "SERVICE.INPUT", value_parser = input)]
    to: Option<QueueId>,
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
    /// The service whose letters to remove. Optional with --id and --group, which then search
    /// all services
    #[arg(long, value_name = "LABEL", required_unless_present_any = ["id", "group"])]
    pub(super) service: Option<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Remove at most this many letters [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Remove at most this many letters per second, such as 50 or 50/s [default: no limit]
    #[arg(long, value_name = "N", value_parser = per_second)]
    rate: Option<RateLimit>,
    /// Print what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The verb.
enum Verb {
    Replay(Destination),
    Discard,
}

/// The outcome for all services.
#[derive(Default, Serialize)]
struct Removed {
    #[serde(flatten)]
    total: Outcome,
    services: Vec<ServiceResult>,
}

#[derive(Serialize)]
struct ServiceResult {
    service: String,
    letters: u64,
    selected: u64,
    removed: u64,
    without_input: u64,
    more: bool,
}

fn per_second(text: &str) -> Result<RateLimit, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let number = number.parse().ok().and_then(RateLimit::per_second);
    number.ok_or_else(|| "not a positive number of letters per second, such as 50 or 50/s".into())
}

fn input(text: &str) -> Result<QueueId, String> {
    let parts = text.split_once('.').filter(|(service, input)| {
        !service.is_empty() && !input.is_empty() && !input.contains('.')
    });
    let (service, input) = parts.ok_or("not a service and its input, such as stock.requests")?;
    Ok(QueueId::new(service, input))
}

impl Replay {
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let to = self.to.clone();
        let to = to.map_or(Destination::Original, Destination::Input);
        self.remove.run(access, plan, &Verb::Replay(to)).await
    }

    /// Checks that the input of `--to` exists.
    pub(super) fn check_input(&self, plan: &Plan) -> Result<(), Problem> {
        let topology = plan.topology();
        let mut inputs = topology.queues.iter().map(|queue| &queue.id);
        let Some(to) = &self.to else {
            return Ok(());
        };
        if inputs.any(|input| input == to) {
            return Ok(());
        }
        let names: Vec<String> = topology.queues.iter().map(|it| it.id.to_string()).collect();
        let names = names.iter().map(String::as_str).collect();
        Err(super::unknown("input is called", &to.to_string(), names))
    }
}

impl Discard {
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        self.remove.run(access, plan, &Verb::Discard).await
    }
}

impl Remove {
    async fn run(&self, access: &DlqAccess, plan: &Plan, verb: &Verb) -> Result<u8, Problem> {
        let mut signals = StopSignals::listen()
            .map_err(|error| Problem::failed(format!("can't listen for signals: {error}")))?;
        let mut stop = pin!(signals.next());
        let mut removed = Removed::default();
        for service in access.services(self.service.as_deref()) {
            let action = verb.action(self.options(removed.total.selected));
            let outcome = match access.perform(&service, action, stop.as_mut()).await {
                Ok(DlqReport::Removed(outcome)) => outcome,
                Ok(_) => return Err(Problem::wrong_report()),
                // The service has never given up a message.
                Err(problem) if problem.no_queue && self.service.is_none() => continue,
                Err(problem) if removed.total.removed == 0 => return Err(problem),
                Err(problem) => {
                    // Report the letters of other services that were removed.
                    removed.total.error = Some(problem.text);
                    break;
                }
            };
            removed.add(service, outcome);
            let total = &removed.total;
            if total.stopped || total.error.is_some() || self.limit_is_reached(total.selected) {
                break;
            }
        }
        Ok(self.report(plan, verb, &removed))
    }

    fn limit_is_reached(&self, selected: u64) -> bool {
        self.limit.is_some_and(|limit| selected >= limit)
    }

    /// The options for the next service, after this many letters were selected.
    fn options(&self, selected: u64) -> RemoveOptions {
        RemoveOptions {
            selection: self.selection.selection(),
            limit: self.limit.unwrap_or(u64::MAX).saturating_sub(selected),
            dry_run: self.dry_run,
            rate: self.rate.unwrap_or_default(),
            bounds: self.bounds.bounds(),
        }
    }

    /// Prints the outcome and returns the exit code.
    fn report(&self, plan: &Plan, verb: &Verb, removed: &Removed) -> u8 {
        let total = &removed.total;
        if self.json {
            print_clean_json(plan, removed);
        } else {
            print_clean(plan, &self.text_of(verb.done(), removed));
        }
        if let Some(error) = &total.error {
            error_line!(
                "error: {}; the other letters stay",
                plan.redactor.clean(error)
            );
        }
        if total.stopped {
            error_line!("stopped: the other letters stay");
        }
        let missing = not_found(&self.selection.selection())
            .filter(|_| total.selected == 0 && total.error.is_none() && !total.stopped);
        if let Some(missing) = missing {
            error_line!("error: {missing}");
        }
        let failed = total.error.is_some() || total.stopped || total.without_input > 0;
        if failed || missing.is_some() {
            FAILED
        } else {
            DONE
        }
    }

    fn text_of(&self, done: &str, removed: &Removed) -> String {
        let would = if self.dry_run { "would be " } else { "" };
        let mut text = String::new();
        // Services without selected letters are not listed, except a named one.
        let is_listed = |it: &&ServiceResult| self.service.is_some() || it.selected > 0;
        for of in removed.services.iter().filter(is_listed) {
            let ServiceResult {
                service,
                letters,
                removed,
                ..
            } = of;
            text.push_str(&format!(
                "{service}: {removed} of {letters} letters {would}{done}\n"
            ));
        }
        let ids = &removed.total.ids;
        for id in ids.iter().take(NAMED_MAX) {
            text.push_str(&format!("  {}\n", one_line(id)));
        }
        if ids.len() > NAMED_MAX {
            text.push_str(&format!("  and {} more\n", ids.len() - NAMED_MAX));
        }
        let mut selected = 0;
        for of in &removed.services {
            let service = &of.service;
            if of.without_input > 0 {
                text.push_str(&format!(
                    "{service}: {} can't be replayed, since the input that gave them up is not in \
                     the manifest: --to replays them to another one\n",
                    of.without_input
                ));
            }
            selected += of.selected;
            if of.more && !self.limit_is_reached(selected) {
                text.push_str(&format!(
                    "{service}: not all letters were read: see --scan\n"
                ));
            }
        }
        text
    }
}

impl Verb {
    fn action(&self, options: RemoveOptions) -> DlqAction {
        match self {
            Self::Replay(to) => DlqAction::Replay {
                to: to.clone(),
                options,
            },
            Self::Discard => DlqAction::Discard(options),
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Replay(_) => "replayed",
            Self::Discard => "discarded",
        }
    }
}

impl Removed {
    fn add(&mut self, service: String, outcome: Outcome) {
        self.services.push(ServiceResult {
            service,
            letters: outcome.letters,
            selected: outcome.selected,
            removed: outcome.removed,
            without_input: outcome.without_input,
            more: outcome.more,
        });
        self.total.add(outcome);
    }
}
