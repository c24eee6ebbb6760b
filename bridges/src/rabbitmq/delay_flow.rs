//! Policy: whether the messages of each delay step arrive in time.
//!
//! The broker does not tell whether a message is still in a delay queue after its delay is over:
//! a passive declaration counts only messages that still wait. A delay queue is first in, first
//! out. So a message that has passed it proves that all messages before it have passed, too. The
//! relay of this process sees such messages, unless the relay of another process gets them. Then a
//! probe is sent through the step. Without an answer the step is overdue.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::topology::Step;

/// Time after the end of a delay after which a probe is sent.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// Time after the end of its delay after which a probe is overdue. Longer than a backlog of due
/// messages takes.
const OVERDUE_AFTER: Duration = Duration::from_secs(20);

/// The delay steps that this process uses.
#[derive(Debug, Default)]
pub(super) struct DelayFlow(Mutex<BTreeMap<u32, Unproven>>);

/// Messages of one step whose arrival is not proven.
#[derive(Debug)]
struct Unproven {
    step: Step,
    /// Times of the first and the last publication.
    first: Instant,
    last: Instant,
    /// When the probe was sent that is not answered yet.
    probe: Option<Instant>,
}

impl DelayFlow {
    /// Records that this process published a message to a step.
    pub(super) fn used(&self, step: Step, now: Instant) {
        let mut steps = self.0.lock();
        let unproven = steps.entry(step.number).or_insert(Unproven {
            step,
            first: now,
            last: now,
            probe: None,
        });
        unproven.last = now;
    }

    /// Records that a message has passed a step, now.
    pub(super) fn passed(&self, step: Step, now: Instant) {
        if let Some(published) = now.checked_sub(step.wait) {
            self.proven(step, published);
        }
    }

    /// Records that everything that was published to a step until then has passed.
    pub(super) fn proven(&self, step: Step, published: Instant) {
        let mut steps = self.0.lock();
        let Some(unproven) = steps.get_mut(&step.number) else {
            return;
        };
        if unproven.last <= published {
            steps.remove(&step.number);
            return;
        }
        unproven.first = unproven.first.max(published);
        unproven.probe = unproven.probe.filter(|sent| *sent > published);
    }

    /// Returns the steps that need a probe, which the caller sends now.
    pub(super) fn to_probe(&self, now: Instant) -> Vec<Step> {
        let mut steps = self.0.lock();
        let due = steps.values_mut().filter(|unproven| {
            let due = unproven.first + unproven.step.wait + PROBE_AFTER;
            unproven.probe.is_none() && now >= due
        });
        due.map(|unproven| {
            unproven.probe = Some(now);
            unproven.step
        })
        .collect()
    }

    /// Records that a probe was lost.
    pub(super) fn probe_lost(&self, step: Step) {
        if let Some(unproven) = self.0.lock().get_mut(&step.number) {
            unproven.probe = None;
        }
    }

    /// Returns the delays of the steps whose probe is overdue.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Duration> {
        let steps = self.0.lock();
        let overdue = steps.values().filter(|unproven| {
            let due = |sent| sent + unproven.step.wait + OVERDUE_AFTER;
            unproven.probe.is_some_and(|sent| now >= due(sent))
        });
        overdue.map(|unproven| unproven.step.wait).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_step_whose_messages_arrive_needs_no_probe() {
        let (flow, start) = (DelayFlow::default(), Instant::now());
        let step = Step::at_least(SECOND).unwrap();
        for second in 0..60 {
            flow.used(step, start + second * SECOND);
            flow.passed(step, start + second * SECOND + step.wait);
            assert_eq!(flow.to_probe(start + second * SECOND), []);
        }
        assert!(flow.0.lock().is_empty());
    }

    #[test]
    fn a_step_without_arrivals_is_probed_and_overdue_until_something_passes() {
        let (flow, start) = (DelayFlow::default(), Instant::now());
        let step = Step::at_least(SECOND).unwrap();
        flow.used(step, start);
        let due = start + step.wait + PROBE_AFTER;
        assert_eq!(flow.to_probe(due - SECOND), []);
        assert_eq!(flow.to_probe(due), [step]);
        assert_eq!(flow.to_probe(due + SECOND), [], "one probe at a time");
        let late = due + step.wait + OVERDUE_AFTER;
        assert!(flow.overdue(late - SECOND).is_empty());
        assert_eq!(flow.overdue(late), [step.wait]);
        // A message that was published before the probe proves nothing about the probe.
        flow.passed(step, start + step.wait - SECOND);
        assert_eq!(flow.overdue(late), [step.wait]);
        flow.used(step, late);
        flow.proven(step, due);
        assert!(flow.overdue(late).is_empty());
        assert_eq!(flow.to_probe(late + step.wait + PROBE_AFTER), [step]);
        flow.probe_lost(step);
        assert_eq!(flow.to_probe(late + step.wait + PROBE_AFTER), [step]);
    }
}
