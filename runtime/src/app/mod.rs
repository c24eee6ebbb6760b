//! The app: a running manifest.

mod plan;
mod snapshot;
mod view;

pub use plan::Plan;
pub(crate) use plan::{LogSettings, ServicePlan, WiredPort};
pub(crate) use snapshot::ServiceSnapshot;
pub(crate) use view::{AppView, Phase, SOURCE, ServiceView, State};
