//! The app: a running manifest.

mod plan;

pub use plan::Plan;
pub(crate) use plan::{LogSettings, ServicePlan, WiredPort};
