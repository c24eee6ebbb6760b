//! `prune`: removes queues and bindings that earlier manifests left on the transport.
//!
//! Without `--yes`, prints them and changes nothing.

use super::{DONE, FAILED, ManifestArgs, block_on, print, print_report, to_json};
use crate::app::Plan;
use crate::log::push_visible;
use crate::redact::without_password;
use crate::service::Catalog;
use crate::stderr::error_line;
use crate::transport::{self, PruneAction, Pruned, StaleResource, TransportError, Transports};

#[derive(clap::Args)]
pub(super) struct Prune {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Remove them, instead of printing them only
    #[arg(long)]
    yes: bool,
    /// Remove queues that hold messages, too, with their messages
    #[arg(long)]
    with_messages: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, self.json),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let pruned = match self.prune(&plan, transports) {
            Ok(pruned) => pruned,
            Err(error) => {
                error_line!("error: {}", plan.redactor.clean(&error.to_string()));
                return FAILED;
            }
        };
        let text = match self.json {
            true => to_json(&pruned),
            false => self.text_of(&plan, &pruned),
        };
        print(&plan.redactor.clean(&text));
        let failed = |leftover: &StaleResource| matches!(leftover.fate, PruneAction::Failed(_));
        match pruned.leftovers.iter().any(failed) {
            true => FAILED,
            false => DONE,
        }
    }

    fn prune(&self, plan: &Plan, transports: &Transports) -> Result<Pruned, TransportError> {
        let failed = |error: std::io::Error| TransportError::Connect {
            url: without_password(&plan.transport),
            why: error.to_string(),
        };
        let connector = transports.for_url(&plan.transport);
        let connector = connector.expect("the manifest was checked");
        let options = transport::Prune {
            remove: self.yes,
            with_messages: self.with_messages,
        };
        let topology = plan.topology();
        block_on(connector.prune(&plan.transport, &topology, options)).map_err(failed)?
    }

    fn text_of(&self, plan: &Plan, pruned: &Pruned) -> String {
        let left = pruned.leftovers.len();
        let url = without_password(&plan.transport);
        let mut lines = vec![format!("{}: {left} left over at {url}", plan.name())];
        for leftover in &pruned.leftovers {
            lines.push(format!("  {}", line_of(leftover, "would be removed")));
        }
        for note in &pruned.notes {
            lines.push(format!("  note: {note}"));
        }
        let removable = |leftover: &StaleResource| leftover.fate == PruneAction::Removable;
        if pruned.leftovers.iter().any(removable) {
            lines.push("nothing was changed: --yes removes them".into());
        }
        let kept = |leftover: &StaleResource| {
            matches!(leftover.fate, PruneAction::Kept(_)) && leftover.messages > Some(0)
        };
        if !self.with_messages && pruned.leftovers.iter().any(kept) {
            lines.push(
                "queues with messages are kept: --with-messages removes them, too; an earlier \
                 manifest can replay those in a dead-letter queue (brickwork dlq)"
                    .into(),
            );
        }
        let mut text = String::new();
        for line in lines {
            push_visible(&mut text, &line);
            text.push('\n');
        }
        text
    }
}

/// One leftover on a line; `removable` is the text for one that can be removed.
pub(super) fn line_of(leftover: &StaleResource, removable: &str) -> String {
    let StaleResource {
        what,
        messages,
        consumers,
        fate,
    } = leftover;
    let mut text = what.clone();
    match (messages, consumers) {
        (Some(messages), Some(consumers)) => {
            text.push_str(&format!(" ({messages} messages, {consumers} consumers)"));
        }
        (Some(messages), None) => text.push_str(&format!(" ({messages} messages)")),
        (None, _) => {}
    }
    match fate {
        PruneAction::Removable => text.push_str(&format!(": {removable}")),
        PruneAction::Removed => text.push_str(": removed"),
        PruneAction::Kept(why) => text.push_str(&format!(": kept: {why}")),
        PruneAction::Failed(why) => text.push_str(&format!(": not removed: {why}")),
    }
    text
}
