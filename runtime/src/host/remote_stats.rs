//! Statistics of a service that runs in a child process, as its parent knows them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::BreakerStatus;
use super::keyed::KeysHeld;
use crate::transport::Depth;

/// The last statistics that a child process has sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteStats {
    /// Process id.
    pub(crate) process: u32,
    /// Messages in the mailbox.
    pub(crate) waiting: usize,
    /// Messages in flight.
    pub(crate) in_flight: usize,
    /// Unconfirmed publications.
    pub(crate) unconfirmed: usize,
    /// Messages in the outbox.
    pub(crate) outbox: u64,
    /// Redelivered messages that the inbox had.
    pub(crate) repeated: u64,
    /// Entities in memory.
    #[serde(default)]
    pub(crate) entities: u64,
    /// Rest of the pause that the service asked for.
    pub(crate) paused: Option<Duration>,
    /// State of the circuit breaker, if there is one.
    #[serde(default)]
    pub(crate) breaker: Option<BreakerStatus>,
    /// Messages that are held for the order by key.
    #[serde(default)]
    pub(crate) keys: Option<KeysHeld>,
    /// Depth of each input queue, if the child process knows it.
    pub(crate) depths: Vec<Option<Depth>>,
}
