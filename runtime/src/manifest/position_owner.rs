//! Checks that the positions in the data folder belong to this app. An app must not
//! continue from the position of another app.

use super::codes;
use super::report::Problems;
use super::required_guarantees::RequiredGuarantees;
use super::source::Span;
use super::table_reader::Section;
use crate::app::Plan;
use crate::host::position::Positions;
use crate::service::Kind;

/// Reports positions of another app in the data folder, if this app keeps positions.
pub(super) fn check(
    top: &Section<'_>,
    plan: &Plan,
    needs: &RequiredGuarantees<'_>,
    out: &mut Problems,
) {
    let mut here = plan.services.iter().filter(|service| service.runs_here);
    let has_sources = here.any(|service| matches!(service.blueprint.role(), Kind::Source(_)));
    if !has_sources || !needs.is_durable() {
        return;
    }
    let positions = Positions::of(&plan.data, &plan.name);
    match positions.others() {
        Ok(None) => {}
        Ok(Some(owner)) => {
            let (refusal, help) = positions.refusal(&owner);
            out.add(codes::OTHER_APPS_DATA, place(top), refusal, Some(help));
        }
        Err(error) => out.add(codes::UNREADABLE, place(top), error.to_string(), None),
    }
}

/// Returns the place of `app.data`, or of `app.name` if the folder is the default.
fn place(top: &Section<'_>) -> Span {
    let app = top.table.get("app").map(|entry| &entry.node);
    let key = |key: &str| match &app?.value {
        super::Value::Table(app) => Some(app.get(key)?.node.span),
        _ => None,
    };
    key("data").or_else(|| key("name")).unwrap_or(top.place)
}
