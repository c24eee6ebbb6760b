//! The app: a running manifest.

mod build_service;
mod child_stats;
mod evict;
mod idle;
mod plan;
mod port_graph;
mod reach;
mod run;
mod stop;
mod summary;
mod tree_builder;

pub use plan::Plan;
pub(crate) use plan::{GroupPlan, ServicePlan, SupervisorPlan};
pub use run::{App, StartError, Workers};
pub use stop::StopReport;
pub use summary::{ServiceSummary, Summary};
