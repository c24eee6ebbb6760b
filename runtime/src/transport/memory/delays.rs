//! Messages that wait for their time, in memory: one heap and one timer for all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::queue::Queue;
use crate::clock::{Clock, later};
use crate::message::Message;
use crate::transport::{FoundMessage, QueueSection, SearchQuery};

/// The waiting messages.
#[derive(Default)]
pub(super) struct Delays {
    waiting: Mutex<Waiting>,
    /// An earlier time came first than the timer waits for.
    earlier: Notify,
    timer: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct Waiting {
    heap: BinaryHeap<Reverse<Due>>,
    next: u64,
}

struct Due {
    at: Instant,
    place: u64,
    queue: Arc<Queue>,
    message: Message,
    attempt: u32,
    why: Delay,
}

/// Why a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delay {
    /// It was published for later.
    PendingWork,
    /// It is to be handled again.
    Retry,
}

impl Due {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.place)
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

    pub(super) fn stop(&self) {
        if let Some(timer) = self.timer.lock().take() {
            timer.abort();
        }
        // Waiting messages hold their queues, which hold this.
        self.waiting.lock().heap.clear();
    }

    pub(super) fn add(
        &self,
        queue: &Arc<Queue>,
        message: Message,
        attempt: u32,
        delay: Duration,
        why: Delay,
    ) {
        queue.add_delayed(why);
        let at = later(delay);
        let mut waiting = self.waiting.lock();
        let place = waiting.next;
        waiting.next += 1;
        let first = waiting.heap.peek().is_none_or(|Reverse(due)| at < due.at);
        waiting.heap.push(Reverse(Due {
            at,
            place,
            queue: queue.clone(),
            message,
            attempt,
            why,
        }));
        drop(waiting);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Finds what waits, and says whether it looked at everything within a time.
    pub(super) fn find(
        &self,
        wanted: &SearchQuery,
        within: Duration,
        into: &mut Vec<FoundMessage>,
    ) -> bool {
        let (now, now_ms) = (Instant::now(), Clock::SYSTEM.unix_ms());
        let began = std::time::Instant::now();
        let waiting = self.waiting.lock();
        for (number, Reverse(due)) in waiting.heap.iter().enumerate() {
            if wanted.covers(&due.message) {
                let wait = due.at.saturating_duration_since(now).as_millis();
                into.push(FoundMessage {
                    queue: due.queue.id().clone(),
                    place: QueueSection::Delayed {
                        due_ms: now_ms.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)),
                        retry: due.why == Delay::Retry,
                    },
                    attempt: due.attempt,
                    message: due.message.clone(),
                });
            }
            if number % 256 == 255 && began.elapsed() >= within {
                return false;
            }
        }
        true
    }

    /// Delivers what is due and says when to look again.
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
                due.queue.push_delayed(due.message, due.attempt, due.why);
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
