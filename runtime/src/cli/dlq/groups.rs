//! `dlq groups`: groups letters with the same failure.

use std::fmt::Write;

use serde::Serialize;

use super::access::DlqAccess;
use super::args::OverviewArgs;
use super::{Problem, one_line};
use crate::app::Plan;
use crate::cli::DONE;
use crate::dead_letters::{DlqAction, DlqReport, Group, Groups};

/// Maximum length of a printed error, in characters.
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
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let mut grouped = Grouped {
            app: plan.name(),
            services: Vec::new(),
        };
        let action = DlqAction::Groups(self.over.bounds.bounds());
        let named = self.over.service.as_deref();
        for (_, report) in access.read_each(named, &action).await? {
            let DlqReport::Groups(groups) = report else {
                return Err(Problem::wrong_report());
            };
            grouped.services.push(groups);
        }
        self.over.print(plan, &grouped, text_of);
        Ok(DONE)
    }
}

fn text_of(grouped: &Grouped<'_>) -> String {
    let services = &grouped.services;
    let mut groups: Vec<&Group> = services.iter().flat_map(|it| &it.groups).collect();
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
            put(format!("    {}{more}", one_line(&cut)));
        }
        put(format!("    message {}", one_line(&group.example)));
    }
    for it in services {
        if it.others > 0 {
            put(format!(
                "{}: {} letters are in groups that are not listed",
                it.service, it.others
            ));
        }
        if !it.complete {
            put(super::not_all(&it.service, it.read, it.letters));
        }
    }
    text
}
