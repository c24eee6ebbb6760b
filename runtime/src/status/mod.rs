//! The status of a running app: the data behind its page, its metrics and its answers to other programs.

mod app_status;
mod collector;
mod family;
#[cfg(test)]
pub(crate) mod fixtures;
mod snapshot;
mod stranded;

pub(crate) use app_status::{AppStatus, GroupStatus, Phase, SOURCE, ServiceStatus};
pub(crate) use collector::register;
pub(crate) use snapshot::{GroupSnapshot, ServiceSnapshot, Snapshot};
