//! Which letters are meant, and how far is looked for them: arguments that verbs share.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::{print_clean, print_clean_json};
use crate::app::Plan;
use crate::cli::ManifestArgs;
use crate::config::parse_size;
use crate::dead_letter::Reason;
use crate::dead_letters::{Bounds, Selection};
use crate::id::MessageId;

/// How far to look.
#[derive(clap::Args)]
pub(super) struct BoundArgs {
    /// Hold no more than so many letters of a service while looking through its queue
    #[arg(long, value_name = "N", default_value_t = Bounds::default().letters)]
    scan: usize,
    /// Nor more than so many bytes of them
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

/// What to look over, all letters of it.
#[derive(clap::Args)]
pub(super) struct OverviewArgs {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service's
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pub(super) bounds: BoundArgs,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

impl OverviewArgs {
    /// Prints what was found, for whom it is.
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

/// Which letters, if not all.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(super) struct PickArgs {
    /// Only the letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// Only the letters of this group: its fingerprint, as `dlq groups` shows it
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    group: Option<String>,
    /// Only the letters that were given up for this reason
    #[arg(long, value_parser = reason())]
    reason: Option<Reason>,
}

impl PickArgs {
    pub(super) fn selection(&self) -> Selection {
        selection(&self.id, self.group.as_ref(), self.reason)
    }
}

/// Which letters; all of them only if that is said.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct SelectionArgs {
    /// The letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// The letters of this group: its fingerprint, as `dlq groups` shows it
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    group: Option<String>,
    /// The letters that were given up for this reason
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

/// What was looked for and isn't there, if it should be.
pub(super) fn missing(selection: &Selection) -> Option<&'static str> {
    match selection {
        Selection::Ids(_) => Some("no letter of this message was found"),
        Selection::Group(_) => Some("no letter of this group was found"),
        Selection::All | Selection::Reason(_) => None,
    }
}

fn reason() -> impl TypedValueParser<Value = Reason> {
    let names = Reason::ALL.map(Reason::as_str);
    PossibleValuesParser::new(names).map(|name| {
        let named = Reason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name);
        named.expect("only these names are let in")
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
