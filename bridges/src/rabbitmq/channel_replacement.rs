//! Policy: when to replace a publishing channel.
//!
//! RabbitMQ before 3.12 looks up the leader of a quorum queue when a channel first publishes to
//! the queue. If that node has just died, the channel refuses every message to the queue for
//! the rest of its life, although another node leads the queue (rabbitmq-server, pull request
//! 9241). So a channel that keeps refusing messages to one address is replaced. If the
//! replacement doesn't help, the intervals grow.

use std::collections::HashMap;
use std::time::Duration;

use lapin::types::ShortString;
use tokio::time::Instant;

/// Refusals that last this long lead to a new channel: a leader election takes a fraction of
/// this time.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Maximum interval between replacements that don't help.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Maximum addresses that are tracked. An app has fewer.
const ADDRESSES_MAX: usize = 4096;

/// Tracks the addresses that refuse messages, and since when.
#[derive(Debug)]
pub(super) struct ReplacementPolicy {
    refused: HashMap<(ShortString, ShortString), Instant>,
    first: Duration,
    wait: Duration,
    last: Option<Instant>,
}

impl ReplacementPolicy {
    /// `first` is the time of lasting refusal before the first replacement.
    pub(super) fn new(first: Duration) -> Self {
        Self {
            refused: HashMap::new(),
            first,
            wait: first,
            last: None,
        }
    }

    /// Records a refusal by this exchange and key. Returns whether to replace the channel.
    pub(super) fn refused(
        &mut self,
        exchange: &ShortString,
        key: &ShortString,
        now: Instant,
    ) -> bool {
        if self.refused.len() >= ADDRESSES_MAX {
            self.refused.clear();
        }
        let address = (exchange.clone(), key.clone());
        let since = *self.refused.entry(address).or_insert(now);
        if self.last.is_some_and(|last| now - last >= 2 * INTERVAL_MAX) {
            self.wait = self.first;
        }
        let due = now - since >= self.wait;
        if due {
            self.refused.clear();
            self.wait = (2 * self.wait).min(INTERVAL_MAX);
            self.last = Some(now);
        }
        due
    }

    /// Records an accepted message for this exchange and key.
    pub(super) fn accepted(&mut self, exchange: &ShortString, key: &ShortString) {
        // Nearly always empty.
        if !self.refused.is_empty() {
            self.refused.remove(&(exchange.clone(), key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(origin: Instant, ms: u64) -> Instant {
        origin + Duration::from_millis(ms)
    }

    #[test]
    fn a_lasting_refusal_replaces_the_channel_at_growing_intervals() {
        let origin = Instant::now();
        let (exchange, key) = ("app".into(), "topic".into());
        let mut policy = ReplacementPolicy::new(REFUSED_FOR);
        let asked: Vec<u64> = (0..16_000)
            .step_by(100)
            .filter(|ms| policy.refused(&exchange, &key, at(origin, *ms)))
            .collect();
        assert_eq!(asked, [1000, 3100, 7200, 15_300]);
        // After a long time the interval starts over.
        policy.accepted(&exchange, &key);
        let later = 15_300 + 2 * INTERVAL_MAX.as_millis() as u64;
        assert!(!policy.refused(&exchange, &key, at(origin, later)));
        assert!(policy.refused(&exchange, &key, at(origin, later + 1000)));
    }

    #[test]
    fn an_address_that_accepts_now_and_then_needs_no_new_channel() {
        let origin = Instant::now();
        let (exchange, key, other) = ("app".into(), "topic".into(), "other".into());
        let mut policy = ReplacementPolicy::new(REFUSED_FOR);
        for ms in (0..10_000).step_by(100) {
            assert!(!policy.refused(&exchange, &key, at(origin, ms)));
            if ms % 900 == 0 {
                policy.accepted(&exchange, &key);
            }
        }
        // Messages that other addresses accept don't count.
        assert!(!policy.refused(&exchange, &key, at(origin, 10_000)));
        policy.accepted(&exchange, &other);
        assert!(policy.refused(&exchange, &key, at(origin, 11_000)));
    }
}
