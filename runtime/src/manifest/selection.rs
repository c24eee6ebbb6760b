//! Applies `--only`, which selects the services of this process.
//!
//! The plan keeps all services, since every process declares the whole topology.

use std::path::PathBuf;

use super::report::Problems;
use super::required_guarantees::RequiredGuarantees;
use super::source::{SourceFile, Span};
use super::supervision::is_service;
use crate::app::Plan;

/// Name of the option in a report.
const OPTION: &str = "--only";

/// Marks the services that run here. Adds the value of the option to `files` for reports.
pub(super) fn apply(
    only: &[String],
    labels: &[&str],
    plan: &mut Plan,
    needs: &RequiredGuarantees<'_>,
    files: &mut Vec<SourceFile>,
    out: &mut Problems,
) {
    if only.is_empty() {
        return;
    }
    let file = files.len();
    let mut text = String::new();
    let mut known = true;
    for label in only {
        if !text.is_empty() {
            text.push(',');
        }
        let start = text.len();
        text.push_str(label);
        let end = text.len();
        known &= is_service(label, Span { file, start, end }, labels, out);
    }
    let named = |label: &str| only.iter().any(|only| only == label);
    for service in &mut plan.services {
        service.runs_here = named(&service.label);
    }
    if known && !labels.iter().all(|label| named(label)) {
        let end = text.len();
        let place = Span {
            file,
            start: 0,
            end,
        };
        needs.crossing("`--only` with a part of the services", place, out);
    }
    files.push(SourceFile {
        name: OPTION.into(),
        folder: PathBuf::new(),
        text,
    });
}
