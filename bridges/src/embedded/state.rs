//! What the parts of one transport share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use brickwork::transport::{Backpressure, Replies};
use brickwork::{Lock, QueueId};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use super::delays::Delays;
use super::disk_space::ReserveFile;
use super::health::Health;
use super::in_flight_log::InFlightLog;
use super::routing::RoutingTable;
use super::statements::DueRow;
use super::suspects::SuspectQueue;
use super::write_queue::WriteQueue;

/// One for a transport.
pub(super) struct TransportState {
    pub(super) wires: RwLock<RoutingTable>,
    pub(super) desk: WriteQueue,
    pub(super) hand: InFlightLog,
    pub(super) ward: SuspectQueue,
    pub(super) delays: Delays,
    pub(super) replies: Arc<Replies>,
    pub(super) health: Health,
    pub(super) pressure: Arc<Backpressure>,
    /// Used by who writes: every queue that is in the file.
    pub(super) books: Mutex<QueueIndex>,
    /// Rows of messages that wait for their time, and can't be read or deleted.
    pub(super) unreadable: Mutex<HashMap<i64, DueRow>>,
    pub(super) reserve: ReserveFile,
    /// So much waits in memory for its next attempt, in bytes: there is no room to move it.
    pub(super) waiting_bytes: AtomicUsize,
    /// So many of these don't wait long.
    pub(super) waiting_soon: AtomicUsize,
    /// Where what happens later happens.
    pub(super) runtime: Handle,
    /// Held as long as the file is used.
    pub(super) lock: Mutex<Option<Lock>>,
}

/// What the file says of each queue.
#[derive(Debug, Default)]
pub(super) struct QueueIndex {
    pub(super) numbers: HashMap<QueueId, u32>,
    pub(super) pages: HashMap<u32, QueueStats>,
}

/// What the file says of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueStats {
    /// The place of the next message.
    pub(super) next_place: u64,
    /// How many messages are in it, in hand or not, suspects aside.
    pub(super) messages: u64,
    /// How many wait for their time;
    pub(super) delayed: u64,
    /// of these: for another attempt.
    pub(super) retrying: u64,
}

impl Default for QueueStats {
    fn default() -> Self {
        Self {
            next_place: 1,
            messages: 0,
            delayed: 0,
            retrying: 0,
        }
    }
}

impl TransportState {
    /// Whether anything is in the queues that is being worked off, or soon is, which makes
    /// room. What waits long for its next attempt makes none.
    pub(super) fn is_at_work(&self) -> bool {
        self.waiting_soon.load(Relaxed) > 0
            || self.wires.read().by_number.values().any(|queue| {
                let state = queue.lock();
                let is_held = state.held() > state.retrying;
                queue.letters.is_some() && is_held && state.has_consumers()
            })
    }

    /// Wakes all who wait for messages, to look again.
    pub(super) fn wake_all(&self) {
        for queue in self.wires.read().by_number.values() {
            queue.wake_all();
        }
    }
}
