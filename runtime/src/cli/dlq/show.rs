//! `dlq show`: prints letters.

use std::fmt::Write;

use serde::Serialize;

use super::access::DlqAccess;
use super::args::{BoundArgs, PickArgs, not_found};
use super::{Problem, one_line, print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letter::Reason;
use crate::dead_letters::{DlqAction, DlqReport, Encoding, LetterView, Selection};

#[derive(clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pick: PickArgs,
    /// Show at most this many letters of a service
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// Show at most this many bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    payload_max: usize,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    app: &'a str,
    letters: Vec<LetterView>,
    /// Services that may have more letters.
    more: Vec<String>,
}

impl Show {
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        let selection = self.pick.selection();
        let mut shown = Shown {
            app: plan.name(),
            letters: Vec::new(),
            more: Vec::new(),
        };
        let find = DlqAction::Find {
            selection: selection.clone(),
            limit: self.limit,
            payload_bytes_max: self.payload_max,
            bounds: self.bounds.bounds(),
        };
        for (service, report) in access.read_each(self.service.as_deref(), &find).await? {
            let DlqReport::Found(found) = report else {
                return Err(Problem::wrong_report());
            };
            shown.letters.extend(found.letters);
            if found.more {
                shown.more.push(service);
            }
        }
        if self.json {
            print_clean_json(plan, &shown);
        } else {
            print_clean(plan, &text_of(&shown, &selection));
        }
        let is_missing = shown.letters.is_empty() && not_found(&selection).is_some();
        Ok(if is_missing { FAILED } else { DONE })
    }
}

fn text_of(shown: &Shown<'_>, selection: &Selection) -> String {
    let letters: Vec<String> = shown.letters.iter().map(letter_text).collect();
    let mut text = letters.join("\n");
    if letters.is_empty() {
        text.push_str(not_found(selection).unwrap_or("no letters"));
        text.push('\n');
    }
    for service in &shown.more {
        text.push_str(&format!(
            "\n{service}: there may be more: see --limit and --scan\n"
        ));
    }
    text
}

fn letter_text(view: &LetterView) -> String {
    let mut text = format!("{}\n", one_line(&view.id));
    let mut field = |name: &str, value: &str| {
        writeln!(text, "  {name:<12} {}", one_line(value)).expect("writing to a string succeeds");
    };
    let input = view.input.as_deref().unwrap_or("?");
    field("given up by", &format!("{}.{input}", view.service));
    field(
        "reason",
        view.reason.map_or(
            "unknown: another program put it in the queue",
            Reason::as_str,
        ),
    );
    if let Some(error) = &view.error {
        field("error", error);
    }
    if let Some(attempts) = view.attempts {
        field("attempts", &attempts.to_string());
    }
    if let Some(failed_at) = &view.failed_at {
        field("failed at", failed_at);
    }
    field("replays", &view.replays.to_string());
    field("topic", &view.topic);
    field("type", &view.kind);
    field("source", &view.source);
    field("time", &view.time);
    field("trace", &view.trace_id);
    field("group", &view.fingerprint);
    for (name, value) in [
        ("subject", &view.subject),
        ("content type", &view.content_type),
        ("tenant", &view.tenant),
        ("parent", &view.parent),
    ] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    for (name, value) in &view.headers {
        field("header", &format!("{name}: {value}"));
    }
    let how = match (view.truncated, view.encoding) {
        (true, _) => ", cut",
        (false, Encoding::Base64) => ", in base64",
        (false, Encoding::Json | Encoding::Text) => "",
    };
    field("payload", &format!("{} bytes{how}", view.payload_bytes));
    for payload_line in view.payload_text().lines() {
        text.push_str(&format!("    {}\n", one_line(payload_line)));
    }
    text
}
