//! The app: a running manifest.

mod plan;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
mod view;

pub use plan::Plan;
pub(crate) use plan::{LogSettings, ServicePlan, WiredPort};
pub(crate) use snapshot::{ServiceSnapshot, Snapshot};
pub(crate) use view::{AppView, Phase, SOURCE, ServiceView, State};
