//! The keeper: keeps one child alive for the lanes that share it.
//!
//! Decides when a child that ended is started again, and when one may be given messages.
//! A child that ended without ever having answered makes the next one prove itself: it
//! must live for a moment with nothing in hand before it is told of a message, so that a
//! program that can't run spends nobody's attempts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::supervision::{DEFAULT_RESTART, History, Restart};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::child::{Child, SpawnOptions};

/// How long a child lives with nothing in hand to prove itself.
const PROOF: Duration = Duration::from_secs(1);
/// How long a child is kept when its last lane has gone without stopping it: long enough
/// for a lane that is built anew.
const WITHOUT_LANES: Duration = Duration::from_secs(1);

/// Keeps one child.
pub(super) struct ChildManager {
    launch: Arc<SpawnOptions>,
    /// A place for each message that the child may have in hand. Who is to be alone with
    /// it takes all of them.
    pub(super) places: Semaphore,
    state: Mutex<State>,
    /// Times are counted from here.
    origin: Instant,
}

#[derive(Default)]
struct State {
    lanes: usize,
    child: Option<Arc<Child>>,
    history: History,
    /// None is started before this.
    not_before: Option<Instant>,
    /// Why there is no child at the moment.
    why: String,
    /// The next child must prove itself; this one must until then.
    prove: bool,
    proven_at: Option<Instant>,
    /// How the child ended last with nothing in hand, until somebody reports it.
    news: Option<Arc<str>>,
}

/// There is no child to be had now.
#[derive(Debug)]
pub(super) struct RestartDelay {
    pub(super) wait: Duration,
    pub(super) text: String,
}

impl ChildManager {
    pub(super) fn new(launch: Arc<SpawnOptions>, places: usize) -> Self {
        Self {
            launch,
            places: Semaphore::new(places),
            state: Mutex::default(),
            origin: Instant::now(),
        }
    }

    /// The child, started if there is none.
    ///
    /// # Errors
    /// When to ask again, and why.
    pub(super) fn child(&self) -> Result<Arc<Child>, RestartDelay> {
        let state = &mut *self.state();
        self.look(state);
        let child = match &state.child {
            Some(child) => child.clone(),
            None => self.start(state)?,
        };
        match left(state.proven_at) {
            None => Ok(child),
            Some(wait) => Err(RestartDelay {
                wait,
                text: format!("a new child has to live for {PROOF:?} first: {}", state.why),
            }),
        }
    }

    /// Starts a child, unless that is to wait.
    ///
    /// # Errors
    /// It can't be started: for the host, which tries again.
    pub(super) fn begin(&self) -> Result<(), Failure> {
        let state = &mut *self.state();
        self.look(state);
        if state.child.is_some() {
            return Ok(());
        }
        let started = self.start(state);
        started
            .map(|_| ())
            .map_err(|down| Failure::retry(down.text))
    }

    /// The thread of its lanes was given up: others begin elsewhere, with a child of their
    /// own, and these never end.
    pub(super) fn abandon(&self) {
        if let Some(child) = &self.state().child {
            child.kill();
        }
    }

    /// How the child ended with nothing in hand since the last time.
    pub(super) fn news(&self) -> Option<Arc<str>> {
        let state = &mut *self.state();
        self.look(state);
        state.news.take()
    }

    /// Notices that the child has ended.
    fn look(&self, state: &mut State) {
        let Some(child) = &state.child else { return };
        let Some(death) = child.death() else { return };
        state.child = None;
        state.proven_at = None;
        state.prove = !death.answered;
        state.why = death.text.to_string();
        if death.idle {
            state.news = Some(death.text);
        }
        if death.answered {
            state.history.success();
        }
        self.failed(state, death.at);
    }

    fn start(&self, state: &mut State) -> Result<Arc<Child>, RestartDelay> {
        if let Some(wait) = left(state.not_before) {
            let text = format!("started again in {wait:.1?}: {}", state.why);
            return Err(RestartDelay { wait, text });
        }
        match Child::start(&self.launch) {
            Ok(child) => {
                let child = Arc::new(child);
                state.child = Some(child.clone());
                state.proven_at = state.prove.then(|| Instant::now() + PROOF);
                Ok(child)
            }
            Err(failure) => {
                state.why = failure.text().to_owned();
                let now = Instant::now();
                self.failed(state, now);
                // Nothing else is to be expected a moment later, by any of the lanes.
                let wait = DEFAULT_RESTART.backoff.min;
                state.not_before = state.not_before.max(Some(now + wait));
                let text = state.why.clone();
                Err(RestartDelay { wait, text })
            }
        }
    }

    /// Decides when the next one is started.
    fn failed(&self, state: &mut State, at: Instant) {
        let since = at.duration_since(self.origin);
        let random = fastrand::f64();
        let (restart, history) = state.history.failure(&DEFAULT_RESTART, since, random);
        state.history = history;
        state.not_before = match restart {
            Restart::Now => None,
            Restart::After(wait) => Some(at + wait),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long until then.
fn left(until: Option<Instant>) -> Option<Duration> {
    let wait = until?.saturating_duration_since(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

/// A lane to a child. When the last one leaves, the child goes.
pub(super) struct ChildSlot {
    keeper: Arc<ChildManager>,
    left: bool,
}

impl ChildSlot {
    pub(super) fn new(keeper: Arc<ChildManager>) -> Self {
        keeper.state().lanes += 1;
        let left = false;
        Self { keeper, left }
    }

    pub(super) fn keeper(&self) -> &ChildManager {
        &self.keeper
    }

    /// Leaves in order: the last one stops the child, and waits until it has ended.
    pub(super) async fn leave(&mut self, stop_timeout: Duration) {
        if !std::mem::replace(&mut self.left, true) {
            let child = {
                let mut state = self.keeper.state();
                state.lanes -= 1;
                if state.lanes > 0 {
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
        if self.left {
            return;
        }
        let last = {
            let mut state = self.keeper.state();
            state.lanes -= 1;
            state.lanes == 0 && state.child.is_some()
        };
        if last {
            let abandoned = Abandoned(self.keeper.clone());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // Dropped early when the thread ends, which comes to the same.
                runtime.spawn(async move {
                    sleep(WITHOUT_LANES).await;
                    drop(abandoned);
                });
            }
        }
    }
}

/// A child without lanes. Dropping it kills the child, unless there are some again.
struct Abandoned(Arc<ChildManager>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        let child = {
            let mut state = self.0.state();
            if state.lanes > 0 {
                None
            } else {
                state.child.take()
            }
        };
        drop(child);
    }
}
