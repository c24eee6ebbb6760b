//! `dlq show`: letters, with everything that is known of them.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::{BoundArgs, Problem, line, print_clean, print_clean_json, services};
use crate::app::Plan;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letters::{DeadLetters, LetterView, Selection};
use crate::id::MessageId;
use crate::transport::TransportError;

#[derive(clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service's
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    /// Only the letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// At most so many letters of a service
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// At most so many bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    payload_max: usize,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    app: &'a str,
    letters: Vec<LetterView>,
    /// Services that may have more.
    more: Vec<String>,
}

impl Show {
    pub(super) async fn run(&self, letters: &DeadLetters, plan: &Plan) -> Result<u8, Problem> {
        let selection = match &self.id[..] {
            [] => Selection::All,
            ids => Selection::Ids(ids.to_vec()),
        };
        let mut shown = Shown {
            app: plan.name(),
            letters: Vec::new(),
            more: Vec::new(),
        };
        for service in services(letters, self.service.as_deref()) {
            let bounds = self.bounds.bounds();
            let found = match letters.find(&service, &selection, self.limit, bounds).await {
                Ok(found) => found,
                // Nothing was ever given up there.
                Err(TransportError::NoQueue(_)) if self.service.is_none() => continue,
                Err(error) => return Err(error.into()),
            };
            let views = found.letters.iter();
            let views = views.map(|letter| letter.view(&service, self.payload_max));
            shown.letters.extend(views);
            if found.more {
                shown.more.push(service);
            }
        }
        if self.json {
            print_clean_json(plan, &shown);
        } else {
            print_clean(plan, &self.text_of(&shown));
        }
        let missing = shown.letters.is_empty() && !self.id.is_empty();
        Ok(if missing { FAILED } else { DONE })
    }

    fn text_of(&self, shown: &Shown<'_>) -> String {
        let letters: Vec<String> = shown.letters.iter().map(text_of).collect();
        let mut text = letters.join("\n");
        if letters.is_empty() {
            text.push_str(match &self.id[..] {
                [] => "no letters\n",
                _ => "no letter of this message was found\n",
            });
        }
        for service in &shown.more {
            text.push_str(&format!(
                "\n{service}: there may be more: see --limit and --scan\n"
            ));
        }
        text
    }
}

fn text_of(view: &LetterView) -> String {
    let mut text = format!("{}\n", line(&view.id));
    let mut field = |name: &str, value: &str| {
        writeln!(text, "  {name:<12} {}", line(value)).expect("writing to a string succeeds");
    };
    let input = view.input.as_deref().unwrap_or("?");
    field("given up by", &format!("{}.{input}", view.service));
    field(
        "reason",
        view.reason
            .unwrap_or("unknown: the runtime didn't write this letter"),
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
    if view.replays > 0 {
        field("replays", &view.replays.to_string());
    }
    field("topic", &view.topic);
    field("type", &view.kind);
    field("source", &view.source);
    field("time", &view.time);
    field("trace", &view.trace_id);
    if let Some(fingerprint) = &view.fingerprint {
        field("fingerprint", fingerprint);
    }
    for (name, value) in &view.headers {
        field("header", &format!("{name}: {value}"));
    }
    let cut = if view.truncated {
        ", the beginning"
    } else {
        ""
    };
    field("payload", &format!("{} bytes{cut}", view.payload_bytes));
    let payload = match &view.payload {
        Value::String(raw) if view.truncated => raw.clone(),
        json => serde_json::to_string_pretty(json).expect("JSON prints"),
    };
    for payload_line in payload.lines() {
        text.push_str(&format!("    {}\n", line(payload_line)));
    }
    text
}
