//! The decision of a supervisor after one of its children has ended.
//!
//! The rules are those of OTP's `supervisor`, with a back-off before a restart. The caller
//! carries a decision out, including the wait. The siblings of the failed child run on during
//! the wait. While the caller stops and starts several children, it must keep further exits
//! waiting, as exit signals wait in the mailbox of a supervisor.

use std::time::Duration;

use super::{Backoff, History, Intensity, RestartPolicy, RestartType, RestartWindow, Strategy};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It reached its end.
    Normal,
    /// It failed.
    Failed,
}

/// The settings of a child.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChildSpec {
    /// Whether the child is restarted.
    pub restart: RestartType,
    /// Delays before its restarts.
    pub policy: RestartPolicy,
}

#[derive(Debug, Clone)]
struct Child {
    spec: ChildSpec,
    running: bool,
    /// Not started again with its siblings: a temporary child that ended or was stopped with
    /// them.
    gone: bool,
    /// Never started again: a child that reached its end.
    done: bool,
    /// The child ended and waits for its restart.
    waiting: bool,
    history: History,
}

/// A supervisor's settings and the state of its children. Children are numbered from 0.
///
/// ```
/// use std::time::Duration;
/// use brickwork::supervision::{
///     ChildSpec, DEFAULT_RESTART, Decision, Exit, Intensity, RestartType, Steps, Strategy,
///     Supervisor,
/// };
///
/// let child = ChildSpec { restart: RestartType::Permanent, policy: DEFAULT_RESTART };
/// let intensity = Intensity { max_restarts: 3, within: Duration::from_secs(10) };
/// let mut supervisor = Supervisor::new(Strategy::RestForOne, intensity, vec![child; 3]);
/// let decision = supervisor.ended(1, Exit::Failed, Duration::ZERO, 0.0);
/// assert_eq!(decision, Decision::Restart { wait: Duration::ZERO });
/// assert_eq!(supervisor.restart(1), Steps { stop: vec![2], start: vec![1, 2] });
/// ```
#[derive(Debug, Clone)]
pub struct Supervisor {
    strategy: Strategy,
    intensity: Intensity,
    children: Vec<Child>,
    window: RestartWindow,
}

/// The decision after a child has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The child stays down; the others continue.
    Leave,
    /// The child is restarted together with a sibling that waits for its restart. This does not
    /// count as a restart.
    Join,
    /// The child is restarted after a wait: see [`Supervisor::restart`].
    Restart {
        /// Time in which the siblings run on.
        wait: Duration,
    },
    /// Too many restarts: the supervisor itself has failed.
    GiveUp {
        /// Children to stop, in this order: the last one first.
        stop: Vec<usize>,
    },
}

/// The steps of a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// Children to stop, in this order: the last one first.
    pub stop: Vec<usize>,
    /// Children to start then, in this order.
    pub start: Vec<usize>,
}

impl Supervisor {
    /// A supervisor of running children, in the group's order.
    pub fn new(strategy: Strategy, intensity: Intensity, children: Vec<ChildSpec>) -> Self {
        let children = children.into_iter().map(|spec| Child {
            spec,
            running: true,
            gone: false,
            done: false,
            waiting: false,
            history: History::default(),
        });
        Self {
            strategy,
            intensity,
            children: children.collect(),
            window: RestartWindow::default(),
        }
    }

    /// Decides about a child that ended at `now`, counted from any fixed point. `random` is
    /// between 0 and 1.
    ///
    /// # Panics
    /// If there is no child with this number.
    pub fn ended(&mut self, child: usize, exit: Exit, now: Duration, random: f64) -> Decision {
        let ended = &mut self.children[child];
        ended.running = false;
        let again = match (ended.spec.restart, exit) {
            (RestartType::Temporary, _) => {
                ended.gone = true;
                false
            }
            (RestartType::Transient, Exit::Normal) => false,
            (RestartType::Permanent, _) | (RestartType::Transient, Exit::Failed) => true,
        };
        if !again {
            ended.done = exit == Exit::Normal;
            return Decision::Leave;
        }
        let waits =
            |sibling: usize| self.children[sibling].waiting && self.scope(sibling).contains(&child);
        if (0..self.children.len()).any(waits) {
            return Decision::Join;
        }
        if !self.window.restart(&self.intensity, now) {
            let stop = self.running(0..self.children.len());
            for child in &mut self.children {
                (child.running, child.waiting) = (false, false);
            }
            return Decision::GiveUp { stop };
        }
        let child = &mut self.children[child];
        let (restart, next) = child.history.failure(&child.spec.policy, now, random);
        (child.history, child.waiting) = (next, true);
        Decision::Restart {
            wait: restart.wait(),
        }
    }

    /// Returns the steps by which a child that ended is restarted. The supervisor assumes that
    /// they are carried out.
    ///
    /// # Panics
    /// If there is no child with this number.
    pub fn restart(&mut self, child: usize) -> Steps {
        let scope = self.scope(child);
        let stop = self.running(scope.clone());
        for index in scope.clone() {
            let child = &mut self.children[index];
            child.gone |= child.spec.restart == RestartType::Temporary;
            child.running = !child.gone && !child.done;
            child.waiting = false;
        }
        let start = scope.filter(|index| self.children[*index].running);
        Steps {
            stop,
            start: start.collect(),
        }
    }

    /// Returns the children that a restart of a child concerns.
    pub fn scope(&self, child: usize) -> std::ops::Range<usize> {
        match self.strategy {
            Strategy::OneForOne => child..child + 1,
            Strategy::OneForAll => 0..self.children.len(),
            Strategy::RestForOne => child..self.children.len(),
        }
    }

    /// Resets everything: the supervisor's own parent restarts it. Returns the children to
    /// start, in order.
    ///
    /// As in OTP, a restarted supervisor starts all children, including temporary ones that
    /// failed. A child that reached its end stays there.
    pub fn restarted(&mut self) -> Vec<usize> {
        self.window = RestartWindow::default();
        for child in &mut self.children {
            *child = Child {
                spec: child.spec,
                running: !child.done,
                gone: false,
                done: child.done,
                waiting: false,
                history: History::default(),
            };
        }
        let mut start = self.running(0..self.children.len());
        start.reverse();
        start
    }

    /// Returns the children to stop, in this order, when the supervisor's own parent stops it.
    /// A child that reached its end stays as it is.
    pub fn to_stop(&self) -> Vec<usize> {
        let all = (0..self.children.len()).rev();
        let stop = all.filter(|child| !self.children[*child].done);
        stop.collect()
    }

    /// The running children of a range, the last one first.
    fn running(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        range
            .rev()
            .filter(|index| self.children[*index].running)
            .collect()
    }

    /// The number of restarts in the window, and the intensity that limits it.
    pub fn restarts(&self) -> (usize, Intensity) {
        (self.window.len(), self.intensity)
    }
}

/// Restart delays of children without a back-off of their own.
pub const DEFAULT_RESTART: RestartPolicy = RestartPolicy {
    backoff: Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
        jitter: 0.2,
    },
    reset_after: Duration::from_secs(60),
};

#[cfg(test)]
mod tests {
    use super::*;

    const INTENSITY: Intensity = Intensity {
        max_restarts: 2,
        within: Duration::from_secs(10),
    };

    fn supervisor(strategy: Strategy, children: &[RestartType]) -> Supervisor {
        let spec = |restart| ChildSpec {
            restart,
            policy: DEFAULT_RESTART,
        };
        let children = children.iter().copied().map(spec).collect();
        Supervisor::new(strategy, INTENSITY, children)
    }

    const NOW: Decision = Decision::Restart {
        wait: Duration::ZERO,
    };

    /// Lets a child fail that is restarted at once, and returns the steps.
    fn fail(supervisor: &mut Supervisor, child: usize) -> (Vec<usize>, Vec<usize>) {
        let decision = supervisor.ended(child, Exit::Failed, Duration::ZERO, 0.0);
        assert_eq!(decision, NOW);
        let Steps { stop, start } = supervisor.restart(child);
        (stop, start)
    }

    use RestartType::{Permanent, Temporary, Transient};

    #[test]
    fn each_strategy_stops_in_reverse_order_and_starts_in_order() {
        for (strategy, stop, start) in [
            (Strategy::OneForOne, vec![], vec![1]),
            (Strategy::OneForAll, vec![2, 0], vec![0, 1, 2]),
            (Strategy::RestForOne, vec![2], vec![1, 2]),
        ] {
            let steps = fail(&mut supervisor(strategy, &[Permanent; 3]), 1);
            assert_eq!(steps, (stop, start), "{strategy:?}");
        }
    }

    #[test]
    fn restart_types_follow_otp() {
        for (restart_type, exit, again) in [
            (Permanent, Exit::Normal, true),
            (Permanent, Exit::Failed, true),
            (Transient, Exit::Normal, false),
            (Transient, Exit::Failed, true),
            (Temporary, Exit::Normal, false),
            (Temporary, Exit::Failed, false),
        ] {
            let mut one = supervisor(Strategy::OneForOne, &[restart_type]);
            let decision = one.ended(0, exit, Duration::ZERO, 0.0);
            assert_eq!(
                decision != Decision::Leave,
                again,
                "{restart_type:?} {exit:?}"
            );
        }
    }

    #[test]
    fn a_temporary_child_that_is_stopped_with_its_siblings_does_not_come_back() {
        let mut all = supervisor(Strategy::OneForAll, &[Permanent, Temporary, Permanent]);
        assert_eq!(fail(&mut all, 0), (vec![2, 1], vec![0, 2]));
        assert_eq!(
            all.restarted(),
            [0, 1, 2],
            "a restarted supervisor starts it again"
        );
    }

    #[test]
    fn a_child_that_ends_while_its_group_waits_for_a_restart_joins_it() {
        let mut rest = supervisor(Strategy::RestForOne, &[Permanent; 3]);
        let wait = Decision::Restart {
            wait: Duration::from_millis(100),
        };
        assert_eq!(fail(&mut rest, 1), (vec![2], vec![1, 2]));
        assert_eq!(rest.ended(1, Exit::Failed, Duration::ZERO, 0.0), wait);
        let joins = rest.ended(2, Exit::Failed, Duration::ZERO, 0.0);
        assert_eq!((joins, rest.restarts().0), (Decision::Join, 2));
        let Steps { stop, start } = rest.restart(1);
        assert_eq!((stop, start), (vec![], vec![1, 2]));
    }

    #[test]
    fn a_child_that_reached_its_end_is_neither_stopped_nor_started_with_its_siblings() {
        let mut all = supervisor(Strategy::OneForAll, &[Permanent, Transient, Temporary]);
        for child in [1, 2] {
            let decision = all.ended(child, Exit::Normal, Duration::ZERO, 0.0);
            assert_eq!(decision, Decision::Leave);
        }
        assert_eq!(fail(&mut all, 0), (vec![], vec![0]));
        assert_eq!(all.to_stop(), [0]);
        assert_eq!(all.restarted(), [0]);
    }

    #[test]
    fn too_many_restarts_stop_all_children_and_fail_the_supervisor() {
        let mut one = supervisor(Strategy::OneForOne, &[Permanent, Permanent]);
        for second in 0..2 {
            let now = Duration::from_secs(second);
            let decision = one.ended(0, Exit::Failed, now, 0.0);
            assert!(matches!(decision, Decision::Restart { .. }));
            one.restart(0);
        }
        let decision = one.ended(0, Exit::Failed, Duration::from_secs(2), 0.0);
        assert_eq!(decision, Decision::GiveUp { stop: vec![1] });
    }

    #[test]
    fn the_first_restart_of_a_child_is_immediate_and_the_second_in_a_row_waits() {
        let mut one = supervisor(Strategy::OneForOne, &[Permanent]);
        let mut waits = Vec::new();
        for second in 0..2 {
            match one.ended(0, Exit::Failed, Duration::from_secs(second), 0.0) {
                Decision::Restart { wait } => waits.push(wait),
                other => panic!("{other:?}"),
            }
            one.restart(0);
        }
        assert_eq!(waits, [Duration::ZERO, Duration::from_millis(100)]);
    }
}
