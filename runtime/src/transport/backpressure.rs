//! Backpressure: a source waits while a queue that its messages can reach is too deep, or the
//! transport is down.
//!
//! Owns the reasons: queues above their high-water marks, and transports that accept nothing. The
//! transport measures: a queue itself, or a poll of the broker.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::names::QueueId;

/// The reasons why sources wait. One for an app.
#[derive(Debug)]
pub struct Backpressure {
    /// The reasons that hold now, by number of the gauge.
    reasons: Mutex<BTreeMap<usize, Reason>>,
    /// Number of reasons, for a look without the lock.
    count: watch::Sender<usize>,
    gauges: AtomicUsize,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self {
            reasons: Mutex::default(),
            count: watch::Sender::new(0),
            gauges: AtomicUsize::new(0),
        }
    }
}

/// A reason that holds.
#[derive(Debug)]
struct Reason {
    /// `None`: the transport is down.
    queue: Option<QueueId>,
    messages: Arc<AtomicU64>,
    high_water: u64,
    since: Instant,
}

/// A queue above its high-water mark, or a transport that is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// The transport accepts nothing.
    TransportDown {
        /// The start of the outage.
        since: Instant,
    },
    /// A queue is above its mark and has not halved since.
    QueueFull {
        /// The queue; `dlq` and `outbox` name a service's dead letters and its outbox.
        queue: QueueId,
        /// Depth of the queue at the last look, in messages.
        messages: u64,
        /// The mark, in messages.
        high_water: u64,
        /// The time at which the queue rose above its mark.
        since: Instant,
    },
}

impl WaitReason {
    /// Returns the time since which the reason holds.
    pub fn since(&self) -> Instant {
        match self {
            Self::TransportDown { since } | Self::QueueFull { since, .. } => *since,
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransportDown { .. } => f.write_str("the transport is down")?,
            Self::QueueFull {
                queue,
                messages,
                high_water,
                ..
            } => write!(
                f,
                "the queue {queue} has {messages} messages, its high-water mark is {high_water}"
            )?,
        }
        write!(f, ", since {} s", self.since().elapsed().as_secs())
    }
}

impl Backpressure {
    /// Makes a gauge for one queue. `high_water` is its mark, in messages.
    pub fn gauge(self: &Arc<Self>, queue: &QueueId, high_water: u64) -> DepthGauge {
        self.gauge_of(Some(queue.clone()), high_water)
    }

    /// Makes a gauge for a transport: high while the transport is down.
    pub fn outage(self: &Arc<Self>) -> OutageGauge {
        OutageGauge(self.gauge_of(None, 0))
    }

    fn gauge_of(self: &Arc<Self>, queue: Option<QueueId>, high_water: u64) -> DepthGauge {
        DepthGauge {
            pressure: self.clone(),
            number: self.gauges.fetch_add(1, Relaxed),
            queue,
            high_water,
            messages: Arc::default(),
            high: AtomicBool::new(false),
        }
    }

    /// Whether a queue is above its mark and has not halved since, or a transport is down.
    pub fn is_high(&self) -> bool {
        *self.count.borrow() > 0
    }

    /// Returns the reasons for which a source waits that can reach these services.
    fn reasons(&self, reach: &HashSet<Box<str>>) -> Vec<WaitReason> {
        if !self.is_high() {
            return Vec::new();
        }
        let reasons = self.reasons.lock();
        let apply = reasons.values().filter(|reason| reason.applies(reach));
        apply.map(Reason::shown).collect()
    }

    fn set(&self, gauge: &DepthGauge, high: bool) {
        let mut reasons = self.reasons.lock();
        if high {
            let reason = Reason {
                queue: gauge.queue.clone(),
                messages: gauge.messages.clone(),
                high_water: gauge.high_water,
                since: Instant::now(),
            };
            reasons.insert(gauge.number, reason);
        } else {
            reasons.remove(&gauge.number);
        }
        self.count.send_replace(reasons.len());
    }
}

impl Reason {
    fn applies(&self, reach: &HashSet<Box<str>>) -> bool {
        let queue = self.queue.as_ref();
        queue.is_none_or(|queue| reach.contains(&queue.service))
    }

    fn shown(&self) -> WaitReason {
        match &self.queue {
            None => WaitReason::TransportDown { since: self.since },
            Some(queue) => WaitReason::QueueFull {
                queue: queue.clone(),
                messages: self.messages.load(Relaxed),
                high_water: self.high_water,
                since: self.since,
            },
        }
    }
}

/// The backpressure on one source: queues of services that its messages can reach.
#[derive(Debug, Clone)]
pub(crate) struct SourcePressure {
    all: Arc<Backpressure>,
    reach: Arc<HashSet<Box<str>>>,
}

impl SourcePressure {
    pub(crate) fn new(all: Arc<Backpressure>, reach: HashSet<Box<str>>) -> Self {
        let reach = Arc::new(reach);
        Self { all, reach }
    }

    /// Returns the backpressure of the app.
    pub(crate) fn all(&self) -> &Arc<Backpressure> {
        &self.all
    }

    /// Returns the reasons why the source waits.
    pub(crate) fn reasons(&self) -> Vec<WaitReason> {
        self.all.reasons(&self.reach)
    }

    /// Whether the source waits.
    pub(crate) fn is_high(&self) -> bool {
        if !self.all.is_high() {
            return false;
        }
        let reasons = self.all.reasons.lock();
        reasons.values().any(|reason| reason.applies(&self.reach))
    }

    /// Waits until no reason is left.
    pub(crate) async fn clear(&self) {
        let mut changes = self.all.count.subscribe();
        // The sender is in `all`, so it is there.
        let _open = changes.wait_for(|_| !self.is_high()).await;
    }
}

/// Watches the depth of one queue.
#[derive(Debug)]
pub struct DepthGauge {
    pressure: Arc<Backpressure>,
    number: usize,
    queue: Option<QueueId>,
    high_water: u64,
    messages: Arc<AtomicU64>,
    high: AtomicBool,
}

impl DepthGauge {
    /// Records the depth of the queue, in messages. Calls for one queue must not overlap.
    pub fn update(&self, messages: u64) {
        self.messages.store(messages, Relaxed);
        let high = self.high.load(Relaxed);
        let next = if high {
            messages > self.high_water / 2
        } else {
            messages > self.high_water
        };
        if next != high {
            self.set(next);
        }
    }

    fn set(&self, high: bool) {
        if self.high.swap(high, Relaxed) != high {
            self.pressure.set(self, high);
        }
    }
}

impl Drop for DepthGauge {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Makes sources wait while a transport is down.
#[derive(Debug)]
pub struct OutageGauge(DepthGauge);

impl OutageGauge {
    /// Records whether the transport is down. Calls must not overlap.
    pub fn set(&self, down: bool) {
        self.0.set(down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(service: &str) -> QueueId {
        QueueId::new(service, "in")
    }

    /// The backpressure on a source that reaches the service `stock` alone.
    fn source(all: &Arc<Backpressure>) -> SourcePressure {
        SourcePressure::new(all.clone(), HashSet::from(["stock".into()]))
    }

    #[test]
    fn sources_wait_from_the_mark_until_the_queue_has_halved() {
        let pressure = Arc::new(Backpressure::default());
        let source = source(&pressure);
        let gauge = pressure.gauge(&queue("stock"), 10);
        for (messages, high) in [(10, false), (11, true), (6, true), (5, false), (10, false)] {
            gauge.update(messages);
            assert_eq!(source.is_high(), high, "{messages}");
        }
    }

    #[test]
    fn sources_wait_while_the_transport_is_down_at_any_depth() {
        let pressure = Arc::new(Backpressure::default());
        let source = source(&pressure);
        let (outage, queue) = (pressure.outage(), pressure.gauge(&queue("stock"), 10));
        for (down, messages, high) in [
            (true, 0, true),
            (true, 11, true),
            (false, 11, true),
            (false, 0, false),
        ] {
            outage.set(down);
            queue.update(messages);
            assert_eq!(source.is_high(), high, "{down} {messages}");
        }
    }

    #[test]
    fn one_deep_queue_is_enough_and_a_dropped_one_no_longer_counts() {
        let pressure = Arc::new(Backpressure::default());
        let source = source(&pressure);
        let dead_letters = QueueId::dead_letters("stock");
        let (first, second) = (
            pressure.gauge(&queue("stock"), 1),
            pressure.gauge(&dead_letters, 1),
        );
        first.update(2);
        second.update(2);
        first.update(0);
        assert!(source.is_high());
        drop(second);
        assert!(!source.is_high());
    }

    #[test]
    fn a_source_waits_for_the_queues_that_its_messages_can_reach_and_says_which() {
        let pressure = Arc::new(Backpressure::default());
        let source = source(&pressure);
        let other = pressure.gauge(&queue("billing"), 1);
        other.update(9);
        assert!(!source.is_high());
        assert_eq!(source.reasons(), []);
        let own = pressure.gauge(&queue("stock"), 1);
        own.update(2);
        own.update(3);
        let reasons = source.reasons().into_iter();
        let texts: Vec<String> = reasons.map(|reason| reason.to_string()).collect();
        let text = "the queue stock.in has 3 messages, its high-water mark is 1, since 0 s";
        assert_eq!(texts, [text]);
    }
}
