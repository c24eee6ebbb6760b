//! `check`: validates a manifest without running it, and with `--connect` its transport.

use std::io::IsTerminal as _;

use super::{DONE, FAILED, ManifestArgs, OnlyArgs, block_on, print, print_json, print_report};
use crate::app::Plan;
use crate::config::HumanDuration;
use crate::log::push_visible;
use crate::manifest::Report;
use crate::redact::without_password;
use crate::service::Catalog;
use crate::settings::ServiceSettings;
use crate::stderr::{self, error_line};
use crate::transport::{Inspection, TransportError, Transports};

#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    manifest: ManifestArgs,
    #[command(flatten)]
    only: OnlyArgs,
    /// Connect to the transport, too, and check permissions and existing queues; changes nothing
    #[arg(long)]
    connect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let loaded = self
            .manifest
            .load_with_warnings(&self.only.only, catalog, transports);
        let (plan, warnings) = match loaded {
            Err(report) => return print_report(&report, self.json),
            Ok(loaded) => loaded,
        };
        let asked = self.connect.then(|| inspect(&plan, transports));
        let notes = in_flight_notes(&plan, transports);
        if self.json {
            print_json(&json_of(&plan, &warnings, &notes, asked.as_ref()));
        } else {
            let services = plan.services.len();
            let result = match warnings.problems().is_empty() {
                true => "nothing wrong".to_owned(),
                false => {
                    let color = std::io::stderr().is_terminal();
                    stderr::write(&warnings.render(color));
                    warnings.count()
                }
            };
            let mut text = format!("{}: {services} services, {result}\n", plan.name());
            for note in &notes {
                text.push_str(&format!("note: {note}\n"));
            }
            if let Some(Ok(inspection)) = &asked {
                text.push_str(&text_of(&plan, inspection));
            }
            print(&plan.redactor.clean(&text));
        }
        match asked {
            Some(Err(error)) => {
                error_line!("error: {}", plan.redactor.clean(&error.to_string()));
                FAILED
            }
            Some(Ok(inspection)) if !inspection.problems.is_empty() => FAILED,
            Some(Ok(_)) | None => DONE,
        }
    }
}

fn inspect(plan: &Plan, transports: &Transports) -> Result<Inspection, TransportError> {
    let failed = |error: std::io::Error| TransportError::Connect {
        url: without_password(&plan.transport),
        why: error.to_string(),
    };
    let connector = transports.for_url(&plan.transport);
    let connector = connector.expect("the manifest was checked");
    let topology = plan.topology();
    block_on(connector.inspect(&plan.transport, &topology)).map_err(failed)?
}

/// Returns the services whose messages may be in flight for longer than the transport waits. A
/// mailbox matters only if handlers are expected to be slower than usual.
fn in_flight_notes(plan: &Plan, transports: &Transports) -> Vec<String> {
    let connector = transports.for_url(&plan.transport);
    let Some(max) = connector.and_then(|connector| connector.in_flight_max(&plan.transport)) else {
        return Vec::new();
    };
    let usual = ServiceSettings::default().handler_timeout;
    let services = plan
        .services
        .iter()
        .filter(|service| !service.inputs.is_empty());
    let notes = services.filter_map(|service| {
        let (label, settings) = (&service.label, &service.settings);
        let timeout = settings.handler_timeout;
        let in_turn = settings.mailbox.div_ceil(settings.instances.min) as u32;
        let (waits, handler, max_text) = (
            timeout.saturating_mul(in_turn),
            HumanDuration(timeout),
            HumanDuration(max),
        );
        if timeout > max {
            Some(format!(
                "service {label}: a handler may take {handler} (handler_timeout), and the broker \
                 delivers a message again after {max_text} (consumer_timeout): raise it there, \
                 and name it in the transport's URL: ?consumer_timeout=MILLISECONDS"
            ))
        } else if timeout > usual && waits > max {
            Some(format!(
                "service {label}: {} messages may wait in its mailbox for {handler} each \
                 (handler_timeout), and the broker delivers a message again after {max_text} \
                 (consumer_timeout): they are requeued before; a smaller mailbox avoids that",
                settings.mailbox
            ))
        } else {
            None
        }
    });
    notes.collect()
}

fn json_of(
    plan: &Plan,
    warnings: &Report,
    notes: &[String],
    asked: Option<&Result<Inspection, TransportError>>,
) -> serde_json::Value {
    let mut value = serde_json::json!({
        "app": plan.name(), "problems": [], "warnings": warnings.problems(),
    });
    if !notes.is_empty() {
        value["notes"] = notes.into();
    }
    match asked {
        None => {}
        Some(Ok(inspection)) => {
            let text = serde_json::to_string(inspection).expect("an inspection is plain data");
            let clean = plan.redactor.clean(&text);
            value["transport"] = serde_json::from_str(&clean).unwrap_or_default();
        }
        Some(Err(error)) => {
            let clean = plan.redactor.clean(&error.to_string()).into_owned();
            value["transport"] = serde_json::json!({ "error": clean });
        }
    }
    value
}

fn text_of(plan: &Plan, inspection: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |indent: &str, line: &str| {
        text.push_str(indent);
        push_visible(&mut text, line);
        text.push('\n');
    };
    let url = without_password(&plan.transport);
    let version = inspection.version.as_deref().unwrap_or_default();
    match &inspection.product {
        None => line("", &url),
        Some(product) => line("", format!("{url}: {product} {version}").trim_end()),
    }
    for note in &inspection.notes {
        line("  ", note);
    }
    if !inspection.there.is_empty() {
        let there = inspection.there.len();
        let exchange = |name: &String| name.starts_with("exchange");
        let kinds = match inspection.there.iter().any(exchange) {
            true => "queues and exchanges",
            false => "queues",
        };
        line("  ", &format!("{there} {kinds} are there as they must be"));
    }
    if !inspection.missing.is_empty() {
        let missing = inspection.missing.len();
        line(
            "  ",
            &format!("{missing} are not there yet, and would be made:"),
        );
    }
    for missing in &inspection.missing {
        line("    ", missing);
    }
    if !inspection.leftovers.is_empty() {
        let left = inspection.leftovers.len();
        line(
            "  ",
            &format!("{left} are left over from earlier manifests (brickwork prune removes them):"),
        );
    }
    for leftover in &inspection.leftovers {
        line("    ", &super::prune::line_of(leftover, "can be removed"));
    }
    let problems = inspection.problems.len();
    if problems > 0 {
        let s = if problems == 1 { "" } else { "s" };
        line("", &format!("{problems} problem{s}:"));
    }
    for problem in &inspection.problems {
        let mut description = format!("{}: {}", problem.what, problem.why);
        if let (Some(theirs), Some(ours)) = (&problem.theirs, &problem.ours) {
            description.push_str(&format!("; there: {theirs}; needed: {ours}"));
        }
        line("  ", &description);
        line("    help: ", &problem.help);
    }
    text
}
