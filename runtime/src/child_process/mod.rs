//! Child processes: the app starts itself again, to run one service apart.
//!
//! ```text
//! parent                                   child: run APP.toml --only LABEL --supervised
//! supervisors::process ── link ══ a socket ══ lifeline ── app of one service
//!                          (the child's stdin)
//! ```
//!
//! The socket is all that they share besides the transport: the parent asks over it, one
//! line for one line, and when it closes, the parent is gone and the child stops in
//! order. So nothing of it lies in a folder, and no child is left behind by a parent that
//! was killed. What a service does and what supervision decides is none of the business
//! here.

mod child_end;
mod parent_end;
mod process;
mod respawn;
mod stats;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use child_end::ParentConnection;
pub(crate) use parent_end::Link;
pub(crate) use process::{Process, ProcessExit};
pub(crate) use respawn::RespawnCommand;
pub(crate) use stats::{Stats, StatsMirror};

/// A line is not longer, in bytes.
const LINE_BYTES_MAX: usize = 4 << 20;

/// What a child takes at most to be gone, beyond the time that it was given to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// What the parent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    /// What can be seen.
    Figures,
    /// What can be seen, and whether there is nothing left to do.
    Idle,
    /// Stop in order. Answered when that is done, as the last thing.
    Stop {
        /// What is in hand is finished within this time.
        within: Duration,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// The number of the answer.
    number: u64,
    verb: Verb,
}

/// What the child answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    number: u64,
    /// What can be seen of its service; nothing before the app is open.
    pub(crate) figures: Option<Stats>,
    /// Whether there is nothing left to do, if that was asked for.
    pub(crate) idle: bool,
    /// Messages that were in hand when time ran out, if it has stopped.
    pub(crate) abandoned: Vec<String>,
}

#[cfg(test)]
mod tests;
