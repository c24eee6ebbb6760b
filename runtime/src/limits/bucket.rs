//! Token buckets by key, as a function over values: who may go now, and when the others may.
//!
//! A bucket is the generic cell rate algorithm: one number, the time at which it is full again.
//! In any time `t` at most `burst + t / interval` messages go. A message that has to wait gets
//! the next free slot, and later messages of its key get later slots: none starves, although
//! waiting messages leave the process and come back. A message that comes back late takes a
//! token as any other does, so the bound holds whatever the delays.
//!
//! Written here rather than with a rate-limiting crate: those answer yes or no, or park a task;
//! none gives slots to messages that leave and come back.

use std::collections::HashMap;

use crate::id::MessageId;
use crate::key::Key;

/// Maximum messages with a slot. Beyond it, messages wait without one.
const WAITING_MAX: usize = 100_000;
/// Farthest slot, in nanoseconds from now: an hour.
const HORIZON: u64 = 3_600_000_000_000;
/// Time after its slot at which a message that did not come back is forgotten: ten minutes.
const GRACE: u64 = 600_000_000_000;
/// Wait of a message whose key has no room: a second.
const NO_ROOM: u64 = 1_000_000_000;
/// Turns between two removals of idle keys.
const SWEEP_EVERY: u32 = 1024;

/// The size of every bucket. Times are nanoseconds since the start of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time in which a bucket gains a token; at least 1.
    pub(crate) interval: u64,
    /// Tokens of a full bucket; at least 1.
    pub(crate) burst: u32,
}

/// The turn of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// Ask again at this time.
    At(u64),
}

/// Bucket of a key.
#[derive(Debug, Default)]
struct Bucket {
    /// Time at which the bucket is full.
    full_at: u64,
    /// The last slot that a waiting message has.
    tail: u64,
    /// Messages that wait.
    waiting: usize,
}

impl Bucket {
    /// The earliest time at which a token is there.
    fn earliest(&self, rate: Rate, now: u64) -> u64 {
        let others = u64::from(rate.burst - 1).saturating_mul(rate.interval);
        self.full_at.saturating_sub(others).max(now)
    }

    fn take(&mut self, rate: Rate, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(rate.interval);
    }

    fn is_idle(&self, now: u64) -> bool {
        self.waiting == 0 && self.full_at <= now
    }
}

/// A message that waits.
#[derive(Debug)]
struct Slot {
    key: Option<Key>,
    at: u64,
}

/// The buckets of a limit.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: Rate,
    keys_max: usize,
    by_key: HashMap<Option<Key>, Bucket>,
    waiting: HashMap<MessageId, Slot>,
    turns: u32,
}

impl Buckets {
    pub(super) fn new(rate: Rate, keys_max: usize) -> Self {
        Self {
            rate,
            keys_max,
            by_key: HashMap::new(),
            waiting: HashMap::new(),
            turns: 0,
        }
    }

    /// Takes a token for a message, or tells when it may ask again.
    pub(super) fn turn(&mut self, key: Option<Key>, id: &MessageId, now: u64) -> Turn {
        self.turns += 1;
        if self.turns >= SWEEP_EVERY {
            self.sweep(now);
        }
        if !self.by_key.contains_key(&key) && self.by_key.len() >= self.keys_max {
            self.sweep(now);
            if self.by_key.len() >= self.keys_max {
                return Turn::At(now.saturating_add(NO_ROOM));
            }
        }
        let (rate, has_room) = (self.rate, self.waiting.len() < WAITING_MAX);
        let bucket = self.by_key.entry(key.clone()).or_default();
        if let Some(slot) = self.waiting.get_mut(id).filter(|slot| slot.key == key) {
            if slot.at > now {
                return Turn::At(slot.at);
            }
            let at = bucket.earliest(rate, now);
            if at > now {
                slot.at = at;
                bucket.tail = bucket.tail.max(at);
                return Turn::At(at);
            }
            bucket.take(rate, now);
            bucket.waiting -= 1;
            self.waiting.remove(id);
            return Turn::Now;
        }
        let mut at = bucket.earliest(rate, now);
        if bucket.waiting > 0 {
            at = at.max(bucket.tail.saturating_add(rate.interval));
        }
        if at <= now {
            bucket.take(rate, now);
            return Turn::Now;
        }
        let farthest = now.saturating_add(HORIZON);
        if at > farthest || !has_room {
            return Turn::At(at.min(farthest));
        }
        let slot = Slot { key, at };
        if self.waiting.insert(id.clone(), slot).is_none() {
            bucket.waiting += 1;
        }
        bucket.tail = at;
        Turn::At(at)
    }

    /// Forgets messages that did not come back, and keys whose bucket is full.
    fn sweep(&mut self, now: u64) {
        self.turns = 0;
        let by_key = &mut self.by_key;
        self.waiting.retain(|_, slot| {
            let is_kept = slot.at.saturating_add(GRACE) > now;
            if !is_kept && let Some(bucket) = by_key.get_mut(&slot.key) {
                bucket.waiting = bucket.waiting.saturating_sub(1);
            }
            is_kept
        });
        by_key.retain(|_, bucket| !bucket.is_idle(now));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> MessageId {
        format!("m-{n}").parse().unwrap()
    }

    fn key(n: usize) -> Option<Key> {
        Some(Key::new(&n.to_string()).unwrap())
    }

    #[test]
    fn a_full_bucket_lets_a_burst_go_and_then_one_message_an_interval() {
        let mut buckets = Buckets::new(
            Rate {
                interval: 10,
                burst: 3,
            },
            1,
        );
        let turns: Vec<Turn> = (0..5).map(|n| buckets.turn(None, &id(n), 100)).collect();
        let (now, at) = (Turn::Now, Turn::At);
        assert_eq!(turns, [now, now, now, at(110), at(120)]);
        assert_eq!(
            buckets.turn(None, &id(3), 105),
            at(110),
            "it keeps its slot"
        );
        assert_eq!(
            buckets.turn(None, &id(5), 110),
            at(130),
            "it waits behind them"
        );
        assert_eq!(buckets.turn(None, &id(3), 110), now);
        assert_eq!(buckets.turn(None, &id(4), 120), now);
    }

    #[test]
    fn messages_that_come_back_late_are_no_burst() {
        let mut buckets = Buckets::new(
            Rate {
                interval: 10,
                burst: 1,
            },
            1,
        );
        for n in 0..6 {
            buckets.turn(None, &id(n), 0);
        }
        let turns: Vec<Turn> = (1..6).map(|n| buckets.turn(None, &id(n), 1000)).collect();
        assert_eq!(turns[0], Turn::Now);
        assert!(
            turns[1..].iter().all(|turn| *turn == Turn::At(1010)),
            "{turns:?}"
        );
    }

    #[test]
    fn keys_are_bounded_and_idle_ones_are_forgotten() {
        let mut buckets = Buckets::new(
            Rate {
                interval: 10,
                burst: 1,
            },
            100,
        );
        for n in 0..100 {
            assert_eq!(buckets.turn(key(n), &id(n), 0), Turn::Now);
        }
        assert_eq!(buckets.turn(key(100), &id(100), 5), Turn::At(5 + NO_ROOM));
        assert_eq!(buckets.turn(key(100), &id(100), 10), Turn::Now);
        assert_eq!(buckets.by_key.len(), 1);
    }

    #[test]
    fn messages_that_never_come_back_are_forgotten() {
        let mut buckets = Buckets::new(
            Rate {
                interval: 10,
                burst: 1,
            },
            10,
        );
        for n in 0..5 {
            buckets.turn(None, &id(n), 0);
        }
        assert_eq!(buckets.waiting.len(), 4);
        buckets.sweep(40 + GRACE);
        assert!(buckets.waiting.is_empty() && buckets.by_key.is_empty());
    }

    proptest! {
        /// Arrivals of several keys, each asking again at or after its slot.
        #[test]
        fn no_window_has_more_than_its_burst_and_rate_and_none_starves(
            interval in 1u64..50,
            burst in 1u32..8,
            arrivals in prop::collection::vec((0usize..3, 0u64..20, 0u64..30), 1..120),
        ) {
            let rate = Rate { interval, burst };
            let mut buckets = Buckets::new(rate, 3);
            // Times at which messages ask, the earliest first; ties in order of arrival.
            let mut asks = BinaryHeap::new();
            let mut time = 0;
            for (n, (_, gap, _)) in arrivals.iter().enumerate() {
                time += gap;
                asks.push(std::cmp::Reverse((time, n)));
            }
            let arrived: Vec<u64> = arrivals.iter().scan(0, |at, (_, gap, _)| { *at += gap; Some(*at) }).collect();
            let mut went: [Vec<u64>; 3] = Default::default();
            let mut steps = 0;
            while let Some(std::cmp::Reverse((now, n))) = asks.pop() {
                steps += 1;
                prop_assert!(steps < 200_000, "it never ends");
                let (key_number, _, late) = arrivals[n];
                match buckets.turn(key(key_number), &id(n), now) {
                    Turn::Now => {
                        went[key_number].push(now);
                        // The message waits for those before it, and for their delays.
                        let ahead = arrivals.iter().filter(|other| other.0 == key_number).count() as u64;
                        prop_assert!(now - arrived[n] <= (ahead + 1) * (interval + 30));
                    }
                    Turn::At(at) => {
                        prop_assert!(at > now);
                        asks.push(std::cmp::Reverse((at + late, n)));
                    }
                }
            }
            for times in went {
                for (first, from) in times.iter().enumerate() {
                    for (last, to) in times.iter().enumerate().skip(first) {
                        let count = (last - first + 1) as u64;
                        prop_assert!(count <= u64::from(burst) + (to - from) / interval);
                    }
                }
            }
        }
    }
}
