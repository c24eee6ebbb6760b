//! The app: a running manifest.

mod build_service;
mod child_stats;
mod evict;
#[cfg(test)]
pub(crate) mod fixtures;
mod idle;
mod plan;
mod port_graph;
mod reach;
mod run;
mod snapshot;
mod status;
mod stop;
mod stranded;
mod summary;
mod tree_builder;

pub use plan::Plan;
pub(crate) use plan::{GroupPlan, LogSettings, ServicePlan, SupervisorPlan, WiredPort};
pub use run::{App, StartError, Workers};
pub(crate) use snapshot::{GroupSnapshot, ServiceSnapshot, Snapshot};
pub(crate) use status::{AppStatus, Phase, ServiceStatus, State};
pub use stop::StopReport;
pub use summary::{ServiceSummary, Summary};
