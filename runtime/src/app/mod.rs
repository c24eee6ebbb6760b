//! The app: a running manifest.

mod idle;
mod plan;
mod run;
mod setup;
mod shape;
mod snapshot;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
mod view;

pub(crate) use crate::supervision::Instances;
pub use plan::Plan;
pub(crate) use plan::{GroupPlan, Isolation, LogSettings, ServicePlan, SupervisorPlan, WiredPort};
pub use run::{App, StartError, StopReport, Workers};
pub(crate) use snapshot::{ServiceSnapshot, Snapshot};
pub use summary::{ServiceSummary, Summary};
pub(crate) use view::{AppView, Phase, ServiceView, State};
