//! `dlq list`: counts letters.

use serde::Serialize;

use super::access::DlqAccess;
use super::args::OverviewArgs;
use super::{Problem, one_line};
use crate::app::Plan;
use crate::cli::DONE;
use crate::dead_letters::{DlqAction, DlqReport, DlqStats};

#[derive(clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) over: OverviewArgs,
}

#[derive(Serialize)]
struct Listed<'a> {
    app: &'a str,
    services: Vec<DlqStats>,
    /// Services whose queue is not on the transport yet.
    without_queue: Vec<String>,
}

impl List {
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let mut listed = Listed {
            app: plan.name(),
            services: Vec::new(),
            without_queue: Vec::new(),
        };
        for service in access.services(self.over.service.as_deref()) {
            let stats = DlqAction::Stats(self.over.bounds.bounds());
            match access.read(&service, stats).await {
                Ok(DlqReport::Stats(stats)) => listed.services.push(stats),
                Ok(_) => return Err(Problem::wrong_report()),
                Err(problem) if problem.no_queue => listed.without_queue.push(service),
                Err(problem) => return Err(problem),
            }
        }
        self.over.print(plan, &listed, text_of);
        Ok(DONE)
    }
}

fn text_of(listed: &Listed<'_>) -> String {
    let names = listed.services.iter().map(|stats| stats.service.len());
    let width = names.max().unwrap_or(0).max("service".len());
    let mut text = String::new();
    if !listed.services.is_empty() {
        text.push_str(&format!(
            "{:<width$}  {:>8}  {:<24}  {:<24}  reasons\n",
            "service", "letters", "first", "last"
        ));
    }
    for stats in &listed.services {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
        let reasons = stats.reasons.iter();
        let reasons: Vec<String> = reasons
            .map(|count| format!("{} {}", count.reason, count.letters))
            .collect();
        let row = format!(
            "{:<width$}  {:>8}  {:<24}  {:<24}  {}",
            stats.service,
            stats.letters,
            time(&stats.first_failed_at),
            time(&stats.last_failed_at),
            reasons.join(", ")
        );
        text.push_str(one_line(&row).trim_end());
        text.push('\n');
    }
    for stats in listed.services.iter().filter(|stats| !stats.complete) {
        text.push_str(&super::not_all(&stats.service, stats.read, stats.letters));
        text.push('\n');
    }
    for service in &listed.without_queue {
        text.push_str(&format!(
            "{service}: no queue yet: has the app run on this transport?\n"
        ));
    }
    text
}
