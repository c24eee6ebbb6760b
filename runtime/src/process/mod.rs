//! Child processes: started as the leader of a process group, watched, and stopped.
//!
//! Two supervisors use this module: the one that runs a service of the app in a process of
//! its own, and the `process` service type, which runs a program in any language. Each adds
//! its protocol. The delay before a restart is [`History`](crate::supervision::History)'s
//! decision.

mod group;
mod lines;

pub use group::{ChildPipes, ProcessExit, ProcessGroup};
pub use lines::{BoundedLine, BoundedLines};
