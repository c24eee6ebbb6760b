//! `dlq list`: how many letters there are.

use serde::Serialize;

use super::access::DlqAccess;
use super::args::OverviewArgs;
use super::{Problem, line};
use crate::app::Plan;
use crate::cli::DONE;
use crate::dead_letters::DlqStats;

#[derive(clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) over: OverviewArgs,
}

#[derive(Serialize)]
struct Listed<'a> {
    app: &'a str,
    services: Vec<DlqStats>,
    /// Services whose queue isn't on the transport yet.
    without_queue: Vec<String>,
}

impl List {
    pub(super) async fn run(&self, bench: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let mut listed = Listed {
            app: plan.name(),
            services: Vec::new(),
            without_queue: Vec::new(),
        };
        for service in bench.services(self.over.service.as_deref()) {
            match bench.census(&service, self.over.bounds.bounds()).await {
                Ok(census) => listed.services.push(census),
                Err(problem) if problem.no_queue => listed.without_queue.push(service),
                Err(problem) => return Err(problem),
            }
        }
        self.over.print(plan, &listed, text_of);
        Ok(DONE)
    }
}

fn text_of(listed: &Listed<'_>) -> String {
    let names = listed.services.iter().map(|census| census.service.len());
    let width = names.max().unwrap_or(0).max("service".len());
    let mut text = String::new();
    if !listed.services.is_empty() {
        text.push_str(&format!(
            "{:<width$}  {:>8}  {:<24}  {:<24}  reasons\n",
            "service", "letters", "first", "last"
        ));
    }
    for census in &listed.services {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
        let reasons = census.reasons.iter();
        let reasons: Vec<String> = reasons
            .map(|count| format!("{} {}", count.reason, count.letters))
            .collect();
        let row = format!(
            "{:<width$}  {:>8}  {:<24}  {:<24}  {}",
            census.service,
            census.letters,
            time(&census.first_failed_at),
            time(&census.last_failed_at),
            reasons.join(", ")
        );
        text.push_str(line(&row).trim_end());
        text.push('\n');
    }
    for census in listed.services.iter().filter(|census| !census.complete) {
        text.push_str(&super::not_all(
            &census.service,
            census.read,
            census.letters,
        ));
        text.push('\n');
    }
    for service in &listed.without_queue {
        text.push_str(&format!(
            "{service}: no queue yet: has the app run on this transport?\n"
        ));
    }
    text
}
