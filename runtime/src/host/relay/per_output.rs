//! The lanes of an outbox, one an output: which of them are held since something was refused
//! there, and from where each goes on.
//!
//! Knows places and times, and nothing of the transport or the store. An output that isn't held
//! goes with all others, in the outbox's order. One that is has a place of its own and goes on
//! from there: at first with one message at a time, so that none comes before another that is
//! refused, and when it has caught up, with the others again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// So many are taken one at a time before many are under way again.
const SINGLY: u32 = 32;
/// So many of one held output are under way at most, that others have room beside it.
const LANE_MAX: usize = 64;

/// All outputs of which something was published.
#[derive(Debug, Default)]
pub(super) struct OutputQueues(HashMap<Box<str>, OutputQueue>);

#[derive(Debug, Default)]
struct OutputQueue {
    under_way: usize,
    hold: Option<Hold>,
}

/// An output that doesn't go with the others.
#[derive(Debug)]
struct Hold {
    /// All up to here is done or under way; what is behind waits.
    after: i64,
    /// Behind that place, and taken all the same: it was under way when it was held.
    taken: BTreeSet<i64>,
    /// How often something was refused in a row.
    refusals: u32,
    /// When it is tried again; `None` if nothing was refused since it was.
    again: Option<Instant>,
    /// So many are still to be published singly.
    singly: u32,
}

/// What a held output may publish now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PublishQuota {
    pub(super) output: Box<str>,
    /// From behind this place.
    pub(super) after: i64,
    pub(super) at_most: usize,
}

impl OutputQueues {
    /// Whether it doesn't go with the others.
    pub(super) fn is_held(&self, output: &str) -> bool {
        self.0.get(output).is_some_and(|lane| lane.hold.is_some())
    }

    /// This one is under way.
    pub(super) fn publishes(&mut self, output: &str, n: i64) {
        let lane = match self.0.get_mut(output) {
            Some(lane) => lane,
            None => self.0.entry(output.into()).or_default(),
        };
        lane.under_way += 1;
        if let Some(hold) = &mut lane.hold {
            hold.after = n;
            hold.taken = hold.taken.split_off(&n);
        }
    }

    /// Whether this one, which is behind the place of its lane, is done already; then it is
    /// passed.
    pub(super) fn passes(&mut self, output: &str, n: i64) -> bool {
        let hold = self.0.get_mut(output).and_then(|lane| lane.hold.as_mut());
        let Some(hold) = hold else { return false };
        let passes = hold.taken.remove(&n);
        if passes {
            hold.after = n;
        }
        passes
    }

    /// The transport has taken it over.
    pub(super) fn taken(&mut self, output: &str, n: i64) {
        let Some(lane) = self.0.get_mut(output) else {
            return;
        };
        lane.under_way -= 1;
        if let Some(hold) = &mut lane.hold {
            if n > hold.after {
                hold.taken.insert(n);
            } else if hold.again.is_none() {
                hold.refusals = 0;
                hold.singly = hold.singly.saturating_sub(1);
            }
        }
    }

    /// It has come back, and is dealt with in another way.
    pub(super) fn back(&mut self, output: &str) {
        if let Some(lane) = self.0.get_mut(output) {
            lane.under_way -= 1;
        }
    }

    /// It was refused: the output is held, from it on, for as long as `wait` says of so many
    /// refusals in a row before. Says how long, unless it was said of others that were under
    /// way with it.
    pub(super) fn refused(
        &mut self,
        output: &str,
        n: i64,
        wait: impl FnOnce(u32) -> Duration,
    ) -> Option<Duration> {
        let lane = self.0.get_mut(output)?;
        lane.under_way -= 1;
        let hold = lane.hold.get_or_insert_with(|| Hold {
            after: n - 1,
            taken: BTreeSet::new(),
            refusals: 0,
            again: None,
            singly: SINGLY,
        });
        hold.after = hold.after.min(n - 1);
        hold.singly = SINGLY;
        if hold.again.is_some() {
            return None;
        }
        let wait = wait(hold.refusals);
        hold.again = Some(Instant::now() + wait);
        hold.refusals = hold.refusals.saturating_add(1);
        Some(wait)
    }

    /// The held outputs that may publish something now.
    pub(super) fn turns(&self, now: Instant) -> Vec<PublishQuota> {
        let turns = self.0.iter().filter_map(|(output, lane)| {
            let hold = lane.hold.as_ref()?;
            if hold.again.is_some_and(|again| again > now) {
                return None;
            }
            // `singly` is 0 only if nothing was refused since: what was under way when the
            // output was held has come back before it goes on.
            let window = if hold.singly > 0 { 1 } else { LANE_MAX };
            let at_most = window.saturating_sub(lane.under_way);
            (at_most > 0).then(|| PublishQuota {
                output: output.clone(),
                after: hold.after,
                at_most,
            })
        });
        turns.collect()
    }

    /// It is tried now.
    pub(super) fn tries(&mut self, output: &str) {
        let hold = self.0.get_mut(output).and_then(|lane| lane.hold.as_mut());
        if let Some(hold) = hold {
            hold.again = None;
        }
    }

    /// Nothing of it waits that the others are past: it goes with them again.
    pub(super) fn caught_up(&mut self, output: &str) {
        if let Some(lane) = self.0.get_mut(output) {
            lane.hold = None;
        }
    }

    /// When the next held output is to be tried, if there is one that nothing else wakes.
    pub(super) fn again(&self) -> Option<Instant> {
        let lanes = self.0.values().filter(|lane| lane.under_way == 0);
        lanes.filter_map(|lane| lane.hold.as_ref()?.again).min()
    }

    /// All that are held are tried now: there isn't much time left.
    pub(super) fn hasten(&mut self) {
        let now = Instant::now();
        for hold in self.0.values_mut().filter_map(|lane| lane.hold.as_mut()) {
            hold.again = hold.again.map(|again| again.min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    /// Refused at a place, when those up to another were under way; the rest was taken.
    fn held(at: i64, until: i64) -> OutputQueues {
        let mut lanes = OutputQueues::default();
        for n in at..=until {
            lanes.publishes("out", n);
        }
        assert_eq!(lanes.refused("out", at, |_| WAIT), Some(WAIT));
        for n in at + 1..=until {
            lanes.taken("out", n);
        }
        lanes
    }

    fn turn(after: i64, at_most: usize) -> Vec<PublishQuota> {
        vec![PublishQuota {
            output: "out".into(),
            after,
            at_most,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_again_by_itself_when_its_time_has_come() {
        let mut lanes = held(7, 7);
        lanes.publishes("other", 8);
        assert!(lanes.is_held("out") && !lanes.is_held("other"));
        assert_eq!(lanes.turns(Instant::now()), []);
        let again = lanes.again().expect("it is tried again");
        assert_eq!(again, Instant::now() + WAIT);
        assert_eq!(lanes.turns(again), turn(6, 1));
        lanes.tries("out");
        lanes.publishes("out", 7);
        assert_eq!(lanes.turns(again), [], "one at a time");
        assert_eq!(lanes.refused("out", 7, |before| WAIT * before), Some(WAIT));
        assert_eq!(lanes.turns(Instant::now()), []);
        lanes.hasten();
        assert_eq!(lanes.turns(Instant::now()), turn(6, 1));
        lanes.caught_up("out");
        assert!(!lanes.is_held("out"));
        assert_eq!(lanes.again(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_behind_it_is_not_published_again() {
        let mut lanes = held(7, 9);
        lanes.tries("out");
        assert!(!lanes.passes("out", 7));
        lanes.publishes("out", 7);
        lanes.taken("out", 7);
        assert!(lanes.passes("out", 8) && lanes.passes("out", 9));
        assert_eq!(lanes.turns(Instant::now()), turn(9, 1));
        assert!(!lanes.passes("out", 10));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_on_before_all_that_was_under_way_is_back() {
        let mut lanes = OutputQueues::default();
        for n in 1..=3 {
            lanes.publishes("out", n);
        }
        assert_eq!(lanes.refused("out", 3, |_| WAIT), Some(WAIT));
        let later = Instant::now() + 2 * WAIT;
        assert_eq!(lanes.turns(later), []);
        let said = lanes.refused("out", 2, |_| unreachable!("no try of its own"));
        assert_eq!(said, None);
        assert_eq!((lanes.turns(later), lanes.again()), (vec![], None));
        lanes.taken("out", 1);
        assert_eq!(
            lanes.turns(later),
            turn(1, 1),
            "from the first that is left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_under_way_again_when_some_were_taken_in_a_row() {
        let mut lanes = held(1, 1);
        lanes.tries("out");
        for n in 1..=i64::from(SINGLY) {
            assert_eq!(lanes.turns(Instant::now()), turn(n - 1, 1));
            lanes.publishes("out", n);
            lanes.taken("out", n);
        }
        let after = i64::from(SINGLY);
        assert_eq!(lanes.turns(Instant::now()), turn(after, LANE_MAX));
        lanes.publishes("out", after + 1);
        assert_eq!(lanes.turns(Instant::now()), turn(after + 1, LANE_MAX - 1));
        assert!(lanes.refused("out", after + 1, |_| WAIT).is_some());
        let later = Instant::now() + WAIT;
        assert_eq!(lanes.turns(later), turn(after, 1), "and singly again");
    }
}
