//! Arguments that several verbs share: which letters, how many to read, what to print.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::{print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::ManifestArgs;
use crate::config::parse_size;
use crate::dead_letter::Reason;
use crate::dead_letters::{Bounds, Selection};
use crate::id::MessageId;

/// Limits of reading a queue.
#[derive(clap::Args)]
pub(super) struct BoundArgs {
    /// Read at most this many letters of a service (not counting those removed)
    #[arg(long, value_name = "N", default_value_t = Bounds::default().letters)]
    scan: usize,
    /// Read at most this much of a service's letters, such as 64MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "64MiB")]
    scan_bytes: usize,
}

impl BoundArgs {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            letters: self.scan,
            bytes: self.scan_bytes,
        }
    }
}

/// Arguments of verbs about all letters.
#[derive(clap::Args)]
pub(super) struct OverviewArgs {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pub(super) bounds: BoundArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OverviewArgs {
    pub(super) fn print<T: Serialize>(
        &self,
        plan: &Plan,
        found: &T,
        text: impl FnOnce(&T) -> String,
    ) {
        match self.json {
            true => print_clean_json(plan, found),
            false => print_clean(plan, &text(found)),
        }
    }
}

/// Selects letters; by default all.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(super) struct PickArgs {
    /// Only the letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// Only the letters of this group: its fingerprint, as printed by `dlq groups`
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    group: Option<String>,
    /// Only the letters with this reason
    #[arg(long, value_parser = reason())]
    reason: Option<Reason>,
}

impl PickArgs {
    pub(super) fn selection(&self) -> Selection {
        selection(&self.id, self.group.as_ref(), self.reason)
    }
}

/// Selects letters; all only with `--all`.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct SelectionArgs {
    /// The letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// The letters of this group: its fingerprint, as printed by `dlq groups`
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    group: Option<String>,
    /// The letters with this reason
    #[arg(long, value_parser = reason())]
    reason: Option<Reason>,
    /// All letters of the service
    #[arg(long)]
    all: bool,
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        selection(&self.id, self.group.as_ref(), self.reason)
    }
}

fn selection(ids: &[MessageId], group: Option<&String>, reason: Option<Reason>) -> Selection {
    match (ids, group, reason) {
        (_, Some(group), _) => Selection::Group(group.clone()),
        (_, _, Some(reason)) => Selection::Reason(reason),
        ([], None, None) => Selection::All,
        (ids, None, None) => Selection::Ids(ids.to_vec()),
    }
}

/// The error text when no letter was found, for a selection that names letters.
pub(super) fn not_found(selection: &Selection) -> Option<&'static str> {
    match selection {
        Selection::Ids(_) => Some("no letter of this message was found"),
        Selection::Group(_) => Some("no letter of this group was found"),
        Selection::All | Selection::Reason(_) => None,
    }
}

fn reason() -> impl TypedValueParser<Value = Reason> {
    let names = Reason::ALL.map(Reason::as_str);
    PossibleValuesParser::new(names).map(|name| {
        let mut reasons = Reason::ALL.into_iter();
        let reason = reasons.find(|reason| reason.as_str() == name);
        reason.expect("the parser accepts these names only")
    })
}

fn fingerprint(text: &str) -> Result<String, String> {
    let is_one = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
    match is_one {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a fingerprint has 16 hexadecimal digits: see `dlq groups`".into()),
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text)?;
    usize::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}
