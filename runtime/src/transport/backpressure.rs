//! Backpressure: sources wait while a queue is too deep or a transport is down.
//!
//! Owns the count of reasons: queues above their high-water marks, and transports that accept
//! nothing. The transport measures: a queue itself, or a poll of the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Tells sources whether they may send. One for an app.
#[derive(Debug)]
pub struct Backpressure(watch::Sender<usize>);

impl Default for Backpressure {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Backpressure {
    /// Makes a gauge for one queue. `high_water` is its mark, in messages.
    pub fn gauge(self: &Arc<Self>, high_water: u64) -> DepthGauge {
        DepthGauge {
            pressure: self.clone(),
            high_water,
            high: AtomicBool::new(false),
        }
    }

    /// Makes a gauge for a transport: high while the transport is down.
    pub fn outage(self: &Arc<Self>) -> OutageGauge {
        OutageGauge(self.gauge(0))
    }

    /// Whether a queue is above its mark and has not halved since, or a transport is down.
    pub fn is_high(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until no queue is too deep and no transport is down.
    pub async fn clear(&self) {
        if self.is_high() {
            let mut receiver = self.0.subscribe();
            // The sender is `self`, so it is there.
            let _open = receiver.wait_for(|high| *high == 0).await;
        }
    }
}

/// Watches the depth of one queue.
#[derive(Debug)]
pub struct DepthGauge {
    pressure: Arc<Backpressure>,
    high_water: u64,
    high: AtomicBool,
}

impl DepthGauge {
    /// Records the depth of the queue, in messages. Calls for one queue must not overlap.
    pub fn update(&self, messages: u64) {
        let high = self.high.load(Ordering::Relaxed);
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
        if self.high.swap(high, Ordering::Relaxed) != high {
            self.pressure
                .0
                .send_modify(|count| if high { *count += 1 } else { *count -= 1 });
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

    #[test]
    fn sources_wait_from_the_mark_until_the_queue_has_halved() {
        let pressure = Arc::new(Backpressure::default());
        let gauge = pressure.gauge(10);
        for (messages, high) in [(10, false), (11, true), (6, true), (5, false), (10, false)] {
            gauge.update(messages);
            assert_eq!(pressure.is_high(), high, "{messages}");
        }
    }

    #[test]
    fn sources_wait_while_the_transport_is_down_at_any_depth() {
        let pressure = Arc::new(Backpressure::default());
        let (outage, queue) = (pressure.outage(), pressure.gauge(10));
        for (down, messages, high) in [
            (true, 0, true),
            (true, 11, true),
            (false, 11, true),
            (false, 0, false),
        ] {
            outage.set(down);
            queue.update(messages);
            assert_eq!(pressure.is_high(), high, "{down} {messages}");
        }
    }

    #[test]
    fn one_deep_queue_is_enough_and_a_dropped_one_no_longer_counts() {
        let pressure = Arc::new(Backpressure::default());
        let (first, second) = (pressure.gauge(1), pressure.gauge(1));
        first.update(2);
        second.update(2);
        first.update(0);
        assert!(pressure.is_high());
        drop(second);
        assert!(!pressure.is_high());
    }
}
