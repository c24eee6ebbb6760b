//! A service in a child process: the app starts its own program again, for one service.
//!
//! ```text
//! parent                                child: run APP.toml --only LABEL --supervised
//! supervisors::process ── parent_end ══ socket ══ child_end ── app with one service
//!                                (the child's stdin)
//! ```
//!
//! Parent and child share this socket and the transport, nothing else. The parent sends one
//! line per request, the child answers with one line. When the socket closes, the parent is
//! gone and the child stops gracefully. So the link leaves no file behind, and a killed parent
//! leaves no child behind. This module only carries the requests.

mod child_end;
mod parent_end;
mod respawn;
mod stats;

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) use child_end::ParentConnection;
pub(crate) use parent_end::Link;
pub(crate) use respawn::RespawnCommand;
pub(crate) use stats::{Stats, StatsMirror};

/// Maximum bytes per line.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Time for a child to exit, beyond its time to stop within.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    /// Statistics.
    Stats,
    /// Statistics, and whether the service is idle.
    Idle,
    /// Stop gracefully. The answer comes after the stop and is the last one.
    Stop {
        /// Time for the messages in flight.
        within: Duration,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// The answer has the same number.
    number: u64,
    verb: Verb,
}

/// The answer of the child to one request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    number: u64,
    /// Statistics of the child's service; `None` before the app is open.
    pub(crate) stats: Option<Stats>,
    /// Whether the service is idle; false unless the request was [`Verb::Idle`].
    pub(crate) idle: bool,
    /// Messages that were in flight when the time to stop was over.
    pub(crate) abandoned: Vec<String>,
}

/// The app of a child process, as the link reports it.
pub(crate) trait LinkedApp: Send + Sync {
    /// Statistics of the app's only service; `None` if it has several.
    fn stats(&self) -> Option<Stats>;

    /// Whether the service is idle.
    fn is_idle(&self) -> LocalBoxFuture<'_, bool>;
}

#[cfg(test)]
mod tests;
