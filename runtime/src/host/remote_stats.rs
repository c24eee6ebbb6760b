//! What a child process shows of the service that it runs, as its parent has it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::transport::Depth;

/// A service in another process, at the last look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteStats {
    /// The process.
    pub(crate) process: u32,
    /// Messages in the mailbox.
    pub(crate) waiting: usize,
    /// Messages in the hands of instances.
    pub(crate) in_flight: usize,
    /// Publications that wait for their confirms.
    pub(crate) unconfirmed: usize,
    /// Messages in its outbox, and those that came again after they were done.
    pub(crate) outbox: u64,
    pub(crate) repeated: u64,
    /// What is left of the pause that the service asked for.
    pub(crate) paused: Option<Duration>,
    /// How much is in each of its queues, as far as it is known there.
    pub(crate) depths: Vec<Option<Depth>>,
}
