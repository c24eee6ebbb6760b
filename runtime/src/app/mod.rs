//! The app: a running manifest.

mod idle;
mod plan;
mod run;
mod summary;

pub use plan::Plan;
pub(crate) use plan::{LogSettings, ServicePlan, WiredPort};
pub use run::{App, StartError, StopReport, Workers};
pub use summary::{ServiceSummary, Summary};
