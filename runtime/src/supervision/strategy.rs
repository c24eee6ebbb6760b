//! The decision of a supervisor after one of its children has ended.
//!
//! The rules are those of OTP's `supervisor`. The caller carries a decision out, including the
//! wait. While it stops and starts several children, it must keep further exits waiting, as
//! exit signals wait in the mailbox of a supervisor.

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
    /// Never started again: a temporary child that ended or was stopped with its siblings.
    gone: bool,
    history: History,
}

/// A supervisor's settings and the state of its children. Children are numbered from 0.
///
/// ```
/// use std::time::Duration;
/// use brickwork::supervision::{
///     ChildSpec, DEFAULT_RESTART, Decision, Exit, Intensity, RestartType, Strategy, Supervisor,
/// };
///
/// let child = ChildSpec { restart: RestartType::Permanent, policy: DEFAULT_RESTART };
/// let intensity = Intensity { max_restarts: 3, within: Duration::from_secs(10) };
/// let mut supervisor = Supervisor::new(Strategy::RestForOne, intensity, vec![child; 3]);
/// let decision = supervisor.ended(1, Exit::Failed, Duration::ZERO, 0.0);
/// let expected = Decision::Restart { stop: vec![2], wait: Duration::ZERO, start: vec![1, 2] };
/// assert_eq!(decision, expected);
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
    /// Some children are stopped; after a wait, some are started.
    Restart {
        /// Children to stop, in this order: the last one first.
        stop: Vec<usize>,
        /// Wait between stop and start.
        wait: Duration,
        /// Children to start, in this order.
        start: Vec<usize>,
    },
    /// Too many restarts: the supervisor itself has failed.
    GiveUp {
        /// Children to stop, in this order: the last one first.
        stop: Vec<usize>,
    },
}

impl Supervisor {
    /// A supervisor of running children, in the manifest's order.
    pub fn new(strategy: Strategy, intensity: Intensity, children: Vec<ChildSpec>) -> Self {
        let children = children.into_iter().map(|spec| Child {
            spec,
            running: true,
            gone: false,
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
    /// The supervisor assumes that the decision is carried out: children in `start` count as
    /// running afterwards.
    ///
    /// # Panics
    /// If there is no child with this number.
    pub fn ended(&mut self, child: usize, exit: Exit, now: Duration, random: f64) -> Decision {
        self.children[child].running = false;
        let again = match (self.children[child].spec.restart, exit) {
            (RestartType::Temporary, _) => {
                self.children[child].gone = true;
                false
            }
            (RestartType::Transient, Exit::Normal) => false,
            (RestartType::Permanent, _) | (RestartType::Transient, Exit::Failed) => true,
        };
        if !again {
            return Decision::Leave;
        }
        if !self.window.restart(&self.intensity, now) {
            let stop = self.running(0..self.children.len());
            for child in &mut self.children {
                child.running = false;
            }
            return Decision::GiveUp { stop };
        }
        let scope = match self.strategy {
            Strategy::OneForOne => child..child + 1,
            Strategy::OneForAll => 0..self.children.len(),
            Strategy::RestForOne => child..self.children.len(),
        };
        let stop = self.running(scope.clone());
        for index in scope.clone() {
            let child = &mut self.children[index];
            child.gone |= child.spec.restart == RestartType::Temporary;
            child.running = !child.gone;
        }
        let start = scope.filter(|index| !self.children[*index].gone).collect();
        let Child { spec, history, .. } = &mut self.children[child];
        let (restart, next) = history.failure(&spec.policy, now, random);
        *history = next;
        let wait = restart.wait();
        Decision::Restart { stop, wait, start }
    }

    /// Resets everything: the supervisor's own parent restarts it. Returns the children to
    /// start, in order.
    ///
    /// As in OTP, a restarted supervisor starts all children, including temporary ones.
    pub fn restarted(&mut self) -> Vec<usize> {
        self.window = RestartWindow::default();
        for child in &mut self.children {
            *child = Child {
                spec: child.spec,
                running: true,
                gone: false,
                history: History::default(),
            };
        }
        (0..self.children.len()).collect()
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

    fn restart(stop: &[usize], start: &[usize]) -> Decision {
        Decision::Restart {
            stop: stop.to_vec(),
            wait: Duration::ZERO,
            start: start.to_vec(),
        }
    }

    use RestartType::{Permanent, Temporary, Transient};

    #[test]
    fn each_strategy_stops_in_reverse_order_and_starts_in_order() {
        let three = [Permanent; 3];
        for (strategy, expected) in [
            (Strategy::OneForOne, restart(&[], &[1])),
            (Strategy::OneForAll, restart(&[2, 0], &[0, 1, 2])),
            (Strategy::RestForOne, restart(&[2], &[1, 2])),
        ] {
            let decision = supervisor(strategy, &three).ended(1, Exit::Failed, Duration::ZERO, 0.0);
            assert_eq!(decision, expected, "{strategy:?}");
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
        let decision = all.ended(0, Exit::Failed, Duration::ZERO, 0.0);
        assert_eq!(decision, restart(&[2, 1], &[0, 2]));
        assert_eq!(
            all.restarted(),
            [0, 1, 2],
            "a restarted supervisor starts it again"
        );
    }

    #[test]
    fn too_many_restarts_stop_all_children_and_fail_the_supervisor() {
        let mut one = supervisor(Strategy::OneForOne, &[Permanent, Permanent]);
        for second in 0..2 {
            let now = Duration::from_secs(second);
            assert!(matches!(
                one.ended(0, Exit::Failed, now, 0.0),
                Decision::Restart { .. }
            ));
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
                Decision::Restart { wait, .. } => waits.push(wait),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits, [Duration::ZERO, Duration::from_millis(100)]);
    }
}
