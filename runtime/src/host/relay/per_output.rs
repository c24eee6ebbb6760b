//! The outputs of an outbox: which are held after a refusal, and where each continues.
//!
//! Works on numbers and times, without transport or store. An output that is not held is
//! published in the order of the outbox, together with all others. A held output continues from
//! a number of its own: at first one message at a time, so that no message overtakes a refused
//! one. When it has caught up, it joins the others again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// Messages of a held output that are published one at a time after a refusal.
const SINGLE_MESSAGES: u32 = 32;
/// Maximum messages in flight of one held output, so that others have room.
const HELD_IN_FLIGHT_MAX: usize = 64;

/// All outputs on which a message was published.
#[derive(Debug, Default)]
pub(super) struct OutputQueues(HashMap<Box<str>, OutputQueue>);

#[derive(Debug, Default)]
struct OutputQueue {
    in_flight: usize,
    hold: Option<Hold>,
}

/// The state of a held output.
#[derive(Debug)]
struct Hold {
    /// All messages up to this number are done or in flight; later ones wait.
    after: i64,
    /// Later messages that are confirmed: they were in flight when the output was held.
    confirmed: BTreeSet<i64>,
    /// Refusals in a row.
    refusals: u32,
    /// Time of the next retry; `None` if nothing was refused since the last one.
    retry_at: Option<Instant>,
    /// Messages still to be published one at a time.
    singles_left: u32,
}

/// The messages that a held output may publish now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PublishQuota {
    pub(super) output: Box<str>,
    /// Number of the last message that is done or in flight.
    pub(super) after: i64,
    pub(super) at_most: usize,
}

impl OutputQueues {
    /// Returns whether the output is held.
    pub(super) fn is_held(&self, output: &str) -> bool {
        self.0.get(output).is_some_and(|queue| queue.hold.is_some())
    }

    /// Records that a message is in flight now.
    pub(super) fn published(&mut self, output: &str, n: i64) {
        let queue = match self.0.get_mut(output) {
            Some(queue) => queue,
            None => self.0.entry(output.into()).or_default(),
        };
        queue.in_flight += 1;
        if let Some(hold) = &mut queue.hold {
            hold.after = n;
            hold.confirmed = hold.confirmed.split_off(&n);
        }
    }

    /// Skips a message of a held output that is confirmed already. Returns whether it is.
    pub(super) fn skip_confirmed(&mut self, output: &str, n: i64) -> bool {
        let Some(hold) = self.hold(output) else {
            return false;
        };
        let is_confirmed = hold.confirmed.remove(&n);
        if is_confirmed {
            hold.after = n;
        }
        is_confirmed
    }

    /// Records that the transport confirmed a message.
    pub(super) fn confirmed(&mut self, output: &str, n: i64) {
        let Some(queue) = self.0.get_mut(output) else {
            return;
        };
        queue.in_flight -= 1;
        if let Some(hold) = &mut queue.hold {
            if n > hold.after {
                hold.confirmed.insert(n);
            } else if hold.retry_at.is_none() {
                hold.refusals = 0;
                hold.singles_left = hold.singles_left.saturating_sub(1);
            }
        }
    }

    /// Records a failure that does not hold the output.
    pub(super) fn failed(&mut self, output: &str) {
        if let Some(queue) = self.0.get_mut(output) {
            queue.in_flight -= 1;
        }
    }

    /// Records a refusal: the output is held from this message on. `wait` returns the time
    /// until the retry, from the number of refusals in a row before. Returns that time, or
    /// `None` if a refusal of a message in flight together with this one has set it.
    pub(super) fn refused(
        &mut self,
        output: &str,
        n: i64,
        wait: impl FnOnce(u32) -> Duration,
    ) -> Option<Duration> {
        let queue = self.0.get_mut(output)?;
        queue.in_flight -= 1;
        let hold = queue.hold.get_or_insert_with(|| Hold {
            after: n - 1,
            confirmed: BTreeSet::new(),
            refusals: 0,
            retry_at: None,
            singles_left: SINGLE_MESSAGES,
        });
        hold.after = hold.after.min(n - 1);
        hold.singles_left = SINGLE_MESSAGES;
        if hold.retry_at.is_some() {
            return None;
        }
        let wait = wait(hold.refusals);
        hold.retry_at = Some(Instant::now() + wait);
        hold.refusals = hold.refusals.saturating_add(1);
        Some(wait)
    }

    /// Returns the held outputs that may publish messages now.
    pub(super) fn due(&self, now: Instant) -> Vec<PublishQuota> {
        let due = self.0.iter().filter_map(|(output, queue)| {
            let hold = queue.hold.as_ref()?;
            if hold.retry_at.is_some_and(|retry_at| retry_at > now) {
                return None;
            }
            // No singles are left only if nothing was refused since the retry. Messages that
            // were in flight when the output was held have come back before it continues.
            let window = match hold.singles_left {
                0 => HELD_IN_FLIGHT_MAX,
                _ => 1,
            };
            let at_most = window.saturating_sub(queue.in_flight);
            (at_most > 0).then(|| PublishQuota {
                output: output.clone(),
                after: hold.after,
                at_most,
            })
        });
        due.collect()
    }

    /// Records that a held output is retried now.
    pub(super) fn retrying(&mut self, output: &str) {
        if let Some(hold) = self.hold(output) {
            hold.retry_at = None;
        }
    }

    /// Records that no message of a held output waits: it joins the others again.
    pub(super) fn caught_up(&mut self, output: &str) {
        if let Some(queue) = self.0.get_mut(output) {
            queue.hold = None;
        }
    }

    /// Returns the time of the next retry of an output without messages in flight.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let idle = self.0.values().filter(|queue| queue.in_flight == 0);
        idle.filter_map(|queue| queue.hold.as_ref()?.retry_at).min()
    }

    /// Makes every held output due now, because the relay has to finish.
    pub(super) fn retry_now(&mut self) {
        let now = Instant::now();
        for hold in self.0.values_mut().filter_map(|queue| queue.hold.as_mut()) {
            hold.retry_at = hold.retry_at.map(|retry_at| retry_at.min(now));
        }
    }

    fn hold(&mut self, output: &str) -> Option<&mut Hold> {
        self.0.get_mut(output)?.hold.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    /// Returns outputs with a refusal at `at`, while the messages up to `until` were in flight
    /// and then confirmed.
    fn held(at: i64, until: i64) -> OutputQueues {
        let mut outputs = OutputQueues::default();
        for n in at..=until {
            outputs.published("out", n);
        }
        assert_eq!(outputs.refused("out", at, |_| WAIT), Some(WAIT));
        for n in at + 1..=until {
            outputs.confirmed("out", n);
        }
        outputs
    }

    fn quota(after: i64, at_most: usize) -> Vec<PublishQuota> {
        vec![PublishQuota {
            output: "out".into(),
            after,
            at_most,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_message_is_retried_alone_after_its_wait() {
        let mut outputs = held(7, 7);
        outputs.published("other", 8);
        assert!(outputs.is_held("out") && !outputs.is_held("other"));
        assert_eq!(outputs.due(Instant::now()), []);
        let retry_at = outputs.retry_at().expect("it is retried");
        assert_eq!(retry_at, Instant::now() + WAIT);
        assert_eq!(outputs.due(retry_at), quota(6, 1));
        outputs.retrying("out");
        outputs.published("out", 7);
        assert_eq!(outputs.due(retry_at), [], "one at a time");
        assert_eq!(
            outputs.refused("out", 7, |before| WAIT * before),
            Some(WAIT)
        );
        assert_eq!(outputs.due(Instant::now()), []);
        outputs.retry_now();
        assert_eq!(outputs.due(Instant::now()), quota(6, 1));
        outputs.caught_up("out");
        assert!(!outputs.is_held("out"));
        assert_eq!(outputs.retry_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_confirmed_behind_the_refused_one_are_not_published_again() {
        let mut outputs = held(7, 9);
        outputs.retrying("out");
        assert!(!outputs.skip_confirmed("out", 7));
        outputs.published("out", 7);
        outputs.confirmed("out", 7);
        assert!(outputs.skip_confirmed("out", 8) && outputs.skip_confirmed("out", 9));
        assert_eq!(outputs.due(Instant::now()), quota(9, 1));
        assert!(!outputs.skip_confirmed("out", 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_output_continues_only_when_no_message_is_in_flight() {
        let mut outputs = OutputQueues::default();
        for n in 1..=3 {
            outputs.published("out", n);
        }
        assert_eq!(outputs.refused("out", 3, |_| WAIT), Some(WAIT));
        let later = Instant::now() + 2 * WAIT;
        assert_eq!(outputs.due(later), []);
        let again = outputs.refused("out", 2, |_| unreachable!("the wait is set already"));
        assert_eq!(again, None);
        assert_eq!((outputs.due(later), outputs.retry_at()), (vec![], None));
        outputs.confirmed("out", 1);
        assert_eq!(
            outputs.due(later),
            quota(1, 1),
            "from the first that is left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_messages_are_in_flight_again_after_enough_confirms_in_a_row() {
        let mut outputs = held(1, 1);
        outputs.retrying("out");
        for n in 1..=i64::from(SINGLE_MESSAGES) {
            assert_eq!(outputs.due(Instant::now()), quota(n - 1, 1));
            outputs.published("out", n);
            outputs.confirmed("out", n);
        }
        let after = i64::from(SINGLE_MESSAGES);
        assert_eq!(
            outputs.due(Instant::now()),
            quota(after, HELD_IN_FLIGHT_MAX)
        );
        outputs.published("out", after + 1);
        assert_eq!(
            outputs.due(Instant::now()),
            quota(after + 1, HELD_IN_FLIGHT_MAX - 1)
        );
        assert!(outputs.refused("out", after + 1, |_| WAIT).is_some());
        let later = Instant::now() + WAIT;
        assert_eq!(outputs.due(later), quota(after, 1), "one at a time again");
    }
}
