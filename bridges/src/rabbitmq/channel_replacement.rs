//! When a channel that publishes is to be replaced by a new one.
//!
//! A RabbitMQ before 3.12 finds out which node leads a quorum queue when a channel first
//! publishes to it. If that node has just died, the channel refuses everything to that
//! queue for as long as it lives, though the queue has had another leader for long
//! (rabbitmq-server, pull request 9241). So a channel by which nothing goes to some
//! address for a while is replaced; where that doesn't help, less and less often.

use std::collections::HashMap;
use std::time::Duration;

use lapin::types::ShortString;
use tokio::time::Instant;

/// Refused for so long is refused for a reason that lasts: to find another leader takes
/// a fraction of this.
pub(super) const LASTING: Duration = Duration::from_secs(1);
/// Between renewals that don't help, at most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// An app has fewer addresses.
const ADDRESSES_MAX: usize = 4096;

/// Knows by which addresses nothing goes, and since when.
#[derive(Debug)]
pub(super) struct ReplacementPolicy {
    refused: HashMap<(ShortString, ShortString), Instant>,
    first: Duration,
    wait: Duration,
    last: Option<Instant>,
}

impl ReplacementPolicy {
    /// `first` is for how long nothing goes before the first one.
    pub(super) fn new(first: Duration) -> Self {
        Self {
            refused: HashMap::new(),
            first,
            wait: first,
            last: None,
        }
    }

    /// The broker has refused something to this exchange and key. Returns whether the
    /// channel is to be replaced.
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
        if self.last.is_some_and(|last| now - last >= 2 * WAIT_MAX) {
            self.wait = self.first;
        }
        let due = now - since >= self.wait;
        if due {
            self.refused.clear();
            self.wait = (2 * self.wait).min(WAIT_MAX);
            self.last = Some(now);
        }
        due
    }

    /// The broker has taken something to this exchange and key.
    pub(super) fn taken(&mut self, exchange: &ShortString, key: &ShortString) {
        // Nearly always.
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
    fn what_is_refused_for_long_asks_for_a_new_channel_and_less_and_less_often() {
        let origin = Instant::now();
        let (exchange, key) = ("app".into(), "topic".into());
        let mut renewal = ReplacementPolicy::new(LASTING);
        let asked: Vec<u64> = (0..16_000)
            .step_by(100)
            .filter(|ms| renewal.refused(&exchange, &key, at(origin, *ms)))
            .collect();
        assert_eq!(asked, [1000, 3100, 7200, 15_300]);
        // Long after that it is the first time again.
        renewal.taken(&exchange, &key);
        let later = 15_300 + 2 * WAIT_MAX.as_millis() as u64;
        assert!(!renewal.refused(&exchange, &key, at(origin, later)));
        assert!(renewal.refused(&exchange, &key, at(origin, later + 1000)));
    }

    #[test]
    fn what_is_taken_now_and_then_asks_for_nothing() {
        let origin = Instant::now();
        let (exchange, key, other) = ("app".into(), "topic".into(), "other".into());
        let mut renewal = ReplacementPolicy::new(LASTING);
        for ms in (0..10_000).step_by(100) {
            assert!(!renewal.refused(&exchange, &key, at(origin, ms)));
            if ms % 900 == 0 {
                renewal.taken(&exchange, &key);
            }
        }
        // That others go doesn't help this one.
        assert!(!renewal.refused(&exchange, &key, at(origin, 10_000)));
        renewal.taken(&exchange, &other);
        assert!(renewal.refused(&exchange, &key, at(origin, 11_000)));
    }
}
