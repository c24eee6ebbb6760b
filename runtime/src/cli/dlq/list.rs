//! `dlq list`: how many letters there are.

use serde::Serialize;

use super::bench::Bench;
use super::select::BoundArgs;
use super::{Problem, line, print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::{DONE, ManifestArgs};
use crate::dead_letters::Census;

#[derive(clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service's
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    app: &'a str,
    services: Vec<Census>,
    /// Services whose queue isn't on the transport yet.
    without_queue: Vec<String>,
}

impl List {
    pub(super) async fn run(&self, bench: &Bench, plan: &Plan) -> Result<u8, Problem> {
        let mut listed = Listed {
            app: plan.name(),
            services: Vec::new(),
            without_queue: Vec::new(),
        };
        for service in bench.services(self.service.as_deref()) {
            match bench.census(&service, self.bounds.bounds()).await {
                Ok(census) => listed.services.push(census),
                Err(problem) if problem.no_queue => listed.without_queue.push(service),
                Err(problem) => return Err(problem),
            }
        }
        if self.json {
            print_clean_json(plan, &listed);
        } else {
            print_clean(plan, &text_of(&listed));
        }
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
