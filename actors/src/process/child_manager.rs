//! Keeps one child running for the slots that share it.
//!
//! Decides when the next child starts after an exit, and when a child may get messages. If a
//! child exits without having answered anything, the next one is on probation: it gets no
//! message until it has run for a moment. So a program that can't run costs no message an
//! attempt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::supervision::{DEFAULT_RESTART, History};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::child::Child;
use super::command::SpawnOptions;
use super::protocol::ChildPorts;

/// Time that a child on probation runs without a message.
const PROBATION: Duration = Duration::from_secs(1);
/// Time for which a child without slots is kept, if no slot stopped it: a slot that restarts
/// takes less.
const KEPT_WITHOUT_SLOTS: Duration = Duration::from_secs(1);

/// Starts and restarts one child.
pub(super) struct ChildManager {
    options: Arc<SpawnOptions>,
    ports: Arc<ChildPorts>,
    /// One permit for each message that the child may have in flight. A message that is
    /// handled alone takes all of them.
    pub(super) permits: Semaphore,
    state: Mutex<State>,
    /// Zero of the times in `State::history`.
    origin: Instant,
}

#[derive(Default)]
struct State {
    slots: usize,
    child: Option<Arc<Child>>,
    history: History,
    /// Earliest start of the next child.
    not_before: Option<Instant>,
    /// Why the last child exited or did not start.
    last_failure: String,
    /// Whether the next child starts on probation.
    probation: bool,
    /// End of the running child's probation.
    probation_until: Option<Instant>,
    /// An exit with no message in flight that was not reported yet.
    idle_exit: Option<Arc<str>>,
}

/// The child can't get messages now.
#[derive(Debug)]
pub(super) struct RestartDelay {
    pub(super) wait: Duration,
    pub(super) text: String,
}

impl ChildManager {
    pub(super) fn new(options: SpawnOptions, ports: ChildPorts, permits: usize) -> Self {
        Self {
            options: Arc::new(options),
            ports: Arc::new(ports),
            permits: Semaphore::new(permits),
            state: Mutex::default(),
            origin: Instant::now(),
        }
    }

    /// Returns the child. Starts one if none runs.
    ///
    /// # Errors
    /// No child can get messages now; when to ask again, and why.
    pub(super) fn child(&self) -> Result<Arc<Child>, RestartDelay> {
        let state = &mut *self.state();
        self.check_exit(state);
        let child = match &state.child {
            Some(child) => child.clone(),
            None => self.start(state)?,
        };
        match remaining(state.probation_until) {
            None => Ok(child),
            Some(wait) => Err(RestartDelay {
                wait,
                text: format!(
                    "a new child has to live for {PROBATION:?} first: {}",
                    state.last_failure
                ),
            }),
        }
    }

    /// Starts a child if none runs.
    ///
    /// # Errors
    /// The child can't be started yet. The host tries again.
    pub(super) fn ensure_started(&self) -> Result<(), Failure> {
        let state = &mut *self.state();
        self.check_exit(state);
        if state.child.is_some() {
            return Ok(());
        }
        let started = self.start(state);
        started
            .map(|_| ())
            .map_err(|delay| Failure::retry(delay.text))
    }

    /// Kills the child: the thread of its slots is blocked and was replaced. New slots on
    /// another thread start a child of their own.
    pub(super) fn abandon(&self) {
        if let Some(child) = &self.state().child {
            child.kill();
        }
    }

    /// The last exit with no message in flight, if it was not reported yet.
    pub(super) fn take_idle_exit(&self) -> Option<Arc<str>> {
        let state = &mut *self.state();
        self.check_exit(state);
        state.idle_exit.take()
    }

    /// Records the exit of the child, if it has exited.
    fn check_exit(&self, state: &mut State) {
        let Some(child) = &state.child else { return };
        let Some(exit) = child.exit() else { return };
        state.child = None;
        state.probation_until = None;
        state.probation = !exit.answered;
        state.last_failure = exit.text.to_string();
        if exit.idle {
            state.idle_exit = Some(exit.text);
        }
        if exit.answered {
            state.history.success();
        }
        self.on_failure(state, exit.at);
    }

    fn start(&self, state: &mut State) -> Result<Arc<Child>, RestartDelay> {
        if let Some(wait) = remaining(state.not_before) {
            let text = format!("started again in {wait:.1?}: {}", state.last_failure);
            return Err(RestartDelay { wait, text });
        }
        match Child::start(&self.options, &self.ports) {
            Ok(child) => {
                let child = Arc::new(child);
                state.child = Some(child.clone());
                state.probation_until = state.probation.then(|| Instant::now() + PROBATION);
                Ok(child)
            }
            Err(failure) => {
                state.last_failure = failure.text().to_owned();
                let now = Instant::now();
                self.on_failure(state, now);
                // An immediate second try, from another slot, would fail as well.
                let wait = DEFAULT_RESTART.backoff.min;
                state.not_before = state.not_before.max(Some(now + wait));
                let text = state.last_failure.clone();
                Err(RestartDelay { wait, text })
            }
        }
    }

    /// Schedules the next start.
    fn on_failure(&self, state: &mut State, at: Instant) {
        let since = at.duration_since(self.origin);
        let (restart, history) = state
            .history
            .failure(&DEFAULT_RESTART, since, fastrand::f64());
        state.history = history;
        state.not_before = Some(at + restart.wait());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time until then; `None` if it has come.
fn remaining(until: Option<Instant>) -> Option<Duration> {
    let wait = until?.saturating_duration_since(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

/// A share of a child: one message in flight. The child stops with its last slot.
pub(super) struct ChildSlot {
    manager: Arc<ChildManager>,
    released: bool,
}

impl ChildSlot {
    pub(super) fn new(manager: Arc<ChildManager>) -> Self {
        manager.state().slots += 1;
        let released = false;
        Self { manager, released }
    }

    pub(super) fn manager(&self) -> &ChildManager {
        &self.manager
    }

    /// Gives the slot up. With the last slot, stops the child and waits for its exit.
    pub(super) async fn release(&mut self, stop_timeout: Duration) {
        if !std::mem::replace(&mut self.released, true) {
            let child = {
                let mut state = self.manager.state();
                state.slots -= 1;
                if state.slots > 0 {
                    None
                } else {
                    state.child.take()
                }
            };
            if let Some(child) = child {
                child.stop(stop_timeout).await;
            }
        }
    }
}

impl Drop for ChildSlot {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let last = {
            let mut state = self.manager.state();
            state.slots -= 1;
            state.slots == 0 && state.child.is_some()
        };
        if last {
            let unused = UnusedChild(self.manager.clone());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // The end of the thread drops the task, which kills the child at once.
                runtime.spawn(async move {
                    sleep(KEPT_WITHOUT_SLOTS).await;
                    drop(unused);
                });
            }
        }
    }
}

/// A child without slots. Dropping this kills the child, unless there are slots again.
struct UnusedChild(Arc<ChildManager>);

impl Drop for UnusedChild {
    fn drop(&mut self) {
        let child = {
            let mut state = self.0.state();
            if state.slots > 0 {
                None
            } else {
                state.child.take()
            }
        };
        drop(child);
    }
}
