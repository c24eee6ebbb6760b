//! `dlq groups`: letters that failed alike, together.

use std::fmt::Write;

use serde::Serialize;

use super::access::DlqAccess;
use super::args::OverviewArgs;
use super::{Problem, line};
use crate::app::Plan;
use crate::cli::DONE;
use crate::dead_letters::{Group, Groups};

/// An error is cut to so many characters for people.
const ERROR_CHARS_MAX: usize = 200;

#[derive(clap::Args)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    pub(super) over: OverviewArgs,
}

#[derive(Serialize)]
struct Grouped<'a> {
    app: &'a str,
    services: Vec<Groups>,
}

impl GroupsArgs {
    pub(super) async fn run(&self, bench: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let mut grouped = Grouped {
            app: plan.name(),
            services: Vec::new(),
        };
        for service in bench.services(self.over.service.as_deref()) {
            match bench.groups(&service, self.over.bounds.bounds()).await {
                Ok(groups) => grouped.services.push(groups),
                // Nothing was ever given up there.
                Err(problem) if problem.no_queue && self.over.service.is_none() => {}
                Err(problem) => return Err(problem),
            }
        }
        self.over.print(plan, &grouped, text_of);
        Ok(DONE)
    }
}

fn text_of(grouped: &Grouped<'_>) -> String {
    let services = &grouped.services;
    let mut groups: Vec<&Group> = services.iter().flat_map(|it| &it.groups).collect();
    // Each service's are in this order already.
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters));
    let names = groups.iter().map(|group| group.service.len());
    let width = names.max().unwrap_or(0).max("service".len());
    let mut text = String::new();
    let mut put = |row: String| {
        writeln!(text, "{}", row.trim_end()).expect("writing to a string succeeds");
    };
    if groups.is_empty() {
        put("no letters".into());
    } else {
        put(format!(
            "{:<16}  {:<width$}  {:<8}  {:>8}  {:<24}  last",
            "group", "service", "reason", "letters", "first"
        ));
    }
    for group in groups {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
        put(format!(
            "{:<16}  {:<width$}  {:<8}  {:>8}  {:<24}  {}",
            group.fingerprint,
            group.service,
            group.reason,
            group.letters,
            time(&group.first_failed_at),
            time(&group.last_failed_at)
        ));
        if let Some(error) = &group.error {
            let cut: String = error.chars().take(ERROR_CHARS_MAX).collect();
            let more = if cut.len() < error.len() { "…" } else { "" };
            put(format!("    {}{more}", line(&cut)));
        }
        put(format!("    message {}", line(&group.example)));
    }
    for it in services {
        if it.others > 0 {
            put(format!(
                "{}: {} letters are in further groups",
                it.service, it.others
            ));
        }
        if !it.complete {
            put(super::not_all(&it.service, it.read, it.letters));
        }
    }
    text
}
