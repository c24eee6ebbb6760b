//! Messages that wait in memory for their time: one heap and one timer for all queues.
//!
//! Without a journal, every delayed message waits here. With one, a message waits here only
//! while disk space is low.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::journal::Entry;
use crate::clock::{Clock, later};
use crate::names::QueueId;
use crate::transport::{FoundMessage, QueueSection, SearchQuery};

/// Maximum bytes of messages that wait in memory while disk space is low.
const IN_PLACE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Estimated overhead of such a message, in bytes.
const IN_PLACE_OVERHEAD_BYTES: usize = 1024;
/// A wait up to this length counts as work in progress.
const SOON: Duration = Duration::from_secs(10);

/// The queue of a delayed message.
pub(super) trait DelayTarget: Send + Sync {
    fn id(&self) -> &QueueId;

    /// Takes back a message whose time has come.
    fn delay_elapsed(&self, entry: Entry, wait: Wait);
}

/// The delayed messages.
#[derive(Default)]
pub(super) struct Delays {
    waiting: Mutex<Waiting>,
    /// Notified when a message is due earlier than all others.
    earlier: Notify,
    timer: Mutex<Option<AbortHandle>>,
    in_place_bytes: AtomicUsize,
    /// Number of messages that wait in place, and not for long.
    in_place_soon: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    heap: BinaryHeap<Reverse<Due>>,
    next: u64,
}

struct Due {
    at: Instant,
    order: u64,
    queue: Arc<dyn DelayTarget>,
    entry: Entry,
    wait: Wait,
}

/// Reason why a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// It was published for later.
    Scheduled,
    /// It waits for another attempt, and then arrives at the end of its queue.
    Retry,
    /// It waits for another attempt and keeps its position, since it stays on disk.
    RetryInPlace {
        /// Number of the consumer that still counts it as unsettled. This bounds the memory:
        /// such a consumer gets less.
        consumer: Option<usize>,
        bytes: usize,
        soon: bool,
    },
}

impl Due {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.order)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Delays {
    /// Starts the timer on the current tokio runtime.
    pub(super) fn start() -> Arc<Self> {
        let delays = Arc::new(Self::default());
        let timer = tokio::spawn(run(Arc::downgrade(&delays)));
        *delays.timer.lock() = Some(timer.abort_handle());
        delays
    }

    /// Stops the timer and drops the messages: they hold their queues, which hold this.
    pub(super) fn stop(&self) {
        if let Some(timer) = self.timer.lock().take() {
            timer.abort();
        }
        let heap = std::mem::take(&mut self.waiting.lock().heap);
        drop(heap);
    }

    /// Adds a message. The queue counts it already.
    pub(super) fn add(
        &self,
        queue: Arc<dyn DelayTarget>,
        entry: Entry,
        delay: Duration,
        wait: Wait,
    ) {
        let at = later(delay);
        let mut waiting = self.waiting.lock();
        let order = waiting.next;
        waiting.next += 1;
        let first = waiting.heap.peek().is_none_or(|Reverse(due)| at < due.at);
        waiting.heap.push(Reverse(Due {
            at,
            order,
            queue,
            entry,
            wait,
        }));
        drop(waiting);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Decides how a message of `bytes` waits in place: if too many bytes wait already, its
    /// consumer goes on counting it.
    pub(super) fn in_place(&self, bytes: usize, delay: Duration, consumer: usize) -> Wait {
        let bytes = bytes + IN_PLACE_OVERHEAD_BYTES;
        let soon = delay <= SOON;
        self.in_place_soon.fetch_add(usize::from(soon), Relaxed);
        let waiting = self.in_place_bytes.fetch_add(bytes, Relaxed) + bytes;
        Wait::RetryInPlace {
            consumer: (waiting > IN_PLACE_BYTES_MAX).then_some(consumer),
            bytes,
            soon,
        }
    }

    /// Whether a message waits in place, and not for long.
    pub(super) fn are_due_soon(&self) -> bool {
        self.in_place_soon.load(Relaxed) > 0
    }

    /// Adds every message that the query covers to `into`. Returns `false` if the time was
    /// too short for all.
    pub(super) fn find(
        &self,
        query: &SearchQuery,
        within: Duration,
        into: &mut Vec<FoundMessage>,
    ) -> bool {
        let (now, now_ms) = (Instant::now(), Clock::SYSTEM.unix_ms());
        let started = std::time::Instant::now();
        let waiting = self.waiting.lock();
        for (number, Reverse(due)) in waiting.heap.iter().enumerate() {
            if query.covers(&due.entry.message) {
                let wait = due.at.saturating_duration_since(now).as_millis();
                into.push(FoundMessage {
                    queue: due.queue.id().clone(),
                    place: QueueSection::Delayed {
                        due_ms: now_ms.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)),
                        retry: due.wait != Wait::Scheduled,
                    },
                    attempt: due.entry.attempt,
                    message: due.entry.message.clone(),
                });
            }
            if number % 256 == 255 && started.elapsed() >= within {
                return false;
            }
        }
        true
    }

    /// Delivers the messages that are due, and returns when the next one is.
    fn deliver(&self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let due = {
                let mut waiting = self.waiting.lock();
                match waiting.heap.peek() {
                    None => return None,
                    Some(Reverse(due)) if due.at > now => return Some(due.at),
                    Some(_) => waiting.heap.pop(),
                }
            };
            if let Some(Reverse(due)) = due {
                if let Wait::RetryInPlace { bytes, soon, .. } = due.wait {
                    self.in_place_bytes.fetch_sub(bytes, Relaxed);
                    self.in_place_soon.fetch_sub(usize::from(soon), Relaxed);
                }
                due.queue.delay_elapsed(due.entry, due.wait);
            }
        }
    }
}

async fn run(delays: Weak<Delays>) {
    while let Some(delays) = delays.upgrade() {
        let next = delays.deliver();
        tokio::select! {
            () = delays.earlier.notified() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}
