//! The circuit breaker of a service: one for all of its instances and runs in this process.
//!
//! [`Breaker`] decides; this module carries the decisions out. While the breaker admits no attempt,
//! the mailbox is held. While it is open, the bridges consume nothing, and give the messages of
//! the mailbox back to their queues; while it is half-open, they take one message at a time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::events::BreakerChange;
use super::service_run::ServiceRun;
use super::service_state::ServiceShared;
use super::settlement::AttemptFailure;
use crate::message::Message;
use crate::metrics::Counter;
use crate::supervision::{Breaker, BreakerPhase, BreakerPolicy, Ticket, Verdict};

/// Time beyond the handler timeout after which a probe counts as failed without a result.
const PROBE_GRACE: Duration = Duration::from_secs(5);
/// Time without a message to try after which a half-open breaker no longer counts as degraded.
/// Otherwise a load balancer that asks for readiness would keep the next message away for ever.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// A breaker that has not closed for this many times the longest pause is given up by an app that
/// runs until it is idle.
const HOPELESS_PAUSES: u32 = 5;

/// The failure of a probe without a result.
const NO_RESULT: &str = "the message that was tried had no result in time";

const CLOSED: &str = "closed";
const OPEN: &str = "open";
const HALF_OPEN: &str = "half-open";

/// The circuit breaker of one service.
pub(crate) struct ServiceBreaker {
    policy: BreakerPolicy,
    origin: Instant,
    fast: FastPath,
    state: Mutex<State>,
    changes: watch::Sender<BreakerPhase>,
}

/// The usual case without a lock: the breaker is closed and a handler succeeds.
///
/// The instances of a service share a thread, so the counters have one writer.
#[derive(Default)]
struct FastPath {
    /// One more than the generation of the closed breaker; 0 while it is not closed.
    closed: AtomicU64,
    /// Successes since the start of the process.
    successes: Counter,
    /// Time of the last one, and the end of the part of the window in which it lies, in
    /// nanoseconds since the origin.
    last_ns: AtomicU64,
    part_end_ns: AtomicU64,
}

struct State {
    breaker: Breaker,
    /// Successes of the fast path that the breaker knows.
    known: u64,
    /// Time at which the breaker opened, in milliseconds since 1970-01-01 UTC.
    since_ms: u64,
    /// The last failure that opened it.
    why: String,
    /// A message was tried since it opened.
    has_probed: bool,
}

/// The permission for one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permit(Option<Ticket>);

impl Permit {
    /// Whether a failure must not use up the last attempt of the message: the attempt is the
    /// probe of a half-open breaker.
    pub(super) fn spares_message(self) -> bool {
        self.0.is_some_and(Ticket::spares_message)
    }
}

/// The state of a circuit breaker, for operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BreakerStatus {
    /// `closed`, `open` or `half-open`.
    pub(crate) state: String,
    /// The service is considered unable to do its work.
    #[serde(default)]
    pub(crate) degraded: bool,
    /// Time at which the breaker opened, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub(crate) since_ms: Option<u64>,
    /// The reason.
    #[serde(default)]
    pub(crate) why: Option<String>,
    /// Time until the next message is tried.
    #[serde(default)]
    pub(crate) next_try: Option<Duration>,
}

impl BreakerStatus {
    /// Returns the value of the metric.
    pub(crate) fn metric(&self) -> f64 {
        match self.state.as_str() {
            OPEN => 1.0,
            HALF_OPEN => 2.0,
            _ => 0.0,
        }
    }
}

impl ServiceBreaker {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        let breaker = Breaker::new(policy);
        Self {
            policy,
            origin: Instant::now(),
            fast: FastPath {
                closed: AtomicU64::new(breaker.generation() + 1),
                ..FastPath::default()
            },
            changes: watch::Sender::new(breaker.phase()),
            state: Mutex::new(State {
                breaker,
                known: 0,
                since_ms: 0,
                why: String::new(),
                has_probed: false,
            }),
        }
    }

    fn time_of(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// Returns the state for operators.
    pub(crate) fn status(&self) -> BreakerStatus {
        let now = self.time_of(Instant::now());
        let state = self.state.lock();
        let phase = state.breaker.phase();
        let is_open = phase != BreakerPhase::Closed;
        let quiet = state.breaker.idle_since();
        let quiet = quiet.is_some_and(|since| now.saturating_sub(since) >= QUIET_AFTER);
        let due = state.breaker.due().filter(|_| phase == BreakerPhase::Open);
        BreakerStatus {
            state: match phase {
                BreakerPhase::Closed => CLOSED,
                BreakerPhase::Open => OPEN,
                BreakerPhase::HalfOpen | BreakerPhase::Probing => HALF_OPEN,
            }
            .to_owned(),
            degraded: is_open && !quiet,
            since_ms: is_open.then_some(state.since_ms),
            why: is_open.then(|| state.why.clone()),
            next_try: due.map(|due| due.saturating_sub(now)),
        }
    }

    /// Whether an app that runs until it is idle waits no longer for the breaker to close.
    pub(crate) fn is_hopeless(&self) -> bool {
        let outage = self.state.lock().breaker.outage();
        let max = self.policy.pause_max.saturating_mul(HOPELESS_PAUSES);
        outage.is_some_and(|began| self.time_of(Instant::now()).saturating_sub(began) > max)
    }

    /// Whether the breaker admits no attempt before the end of its pause.
    pub(super) fn is_open(&self) -> bool {
        *self.changes.borrow() == BreakerPhase::Open
    }

    /// Whether the breaker is closed.
    pub(super) fn is_closed(&self) -> bool {
        *self.changes.borrow() == BreakerPhase::Closed
    }
}

impl FastPath {
    /// Counts a success, if it belongs to the present closed state and to the part of the window
    /// of the successes before.
    fn count(&self, ticket: Ticket, at: Duration) -> bool {
        let at_ns = at.as_nanos() as u64;
        let is_current = self.closed.load(Relaxed) == ticket.generation() + 1
            && at_ns < self.part_end_ns.load(Relaxed);
        if is_current {
            self.successes.add(1);
            self.last_ns.store(at_ns, Relaxed);
        }
        is_current
    }

    /// Hands the counted successes over to the breaker.
    fn hand_over(&self, state: &mut State) {
        let successes = self.successes.get();
        let at = Duration::from_nanos(self.last_ns.load(Relaxed));
        state.breaker.record_successes(successes - state.known, at);
        state.known = successes;
    }

    /// Follows a change of the breaker.
    fn follow(&self, breaker: &Breaker, now: Duration) {
        let closed = match breaker.phase() {
            BreakerPhase::Closed => breaker.generation() + 1,
            BreakerPhase::Open | BreakerPhase::HalfOpen | BreakerPhase::Probing => 0,
        };
        self.closed.store(closed, Relaxed);
        self.part_end_ns
            .store(breaker.part_end(now).as_nanos() as u64, Relaxed);
    }
}

impl ServiceShared {
    /// Watches the phase of the breaker; `None` if the service has none.
    pub(super) fn breaker_changes(&self) -> Option<watch::Receiver<BreakerPhase>> {
        Some(self.breaker.as_ref()?.changes.subscribe())
    }

    /// Resolves when the breaker is not closed.
    pub(crate) async fn breaker_opened(&self) {
        match self.breaker_changes() {
            Some(mut changes) => {
                // Never an error: the service holds the sender.
                let _open = changes
                    .wait_for(|phase| *phase != BreakerPhase::Closed)
                    .await;
            }
            None => std::future::pending().await,
        }
    }

    /// Whether every message may be tried.
    pub(super) fn breaker_is_closed(&self) -> bool {
        self.breaker.as_ref().is_none_or(ServiceBreaker::is_closed)
    }
}

impl ServiceRun {
    /// Begins an attempt; `None` if the breaker doesn't admit it: the message goes back.
    pub(super) fn begin_attempt(&self, now: Instant) -> Option<Permit> {
        let closed = self.breaker.as_ref().map(|it| it.fast.closed.load(Relaxed));
        if let Some(generation) = closed.and_then(|closed| closed.checked_sub(1)) {
            return Some(Permit(Some(Ticket::of_closed(generation))));
        }
        let within = self.settings.handler_timeout.saturating_add(PROBE_GRACE);
        let admitted = self.with_breaker("", |breaker| {
            let at = self.breaker_time(now);
            breaker.admit(at, within)
        });
        match admitted {
            None => Some(Permit(None)),
            Some(ticket) => ticket.map(|ticket| Permit(Some(ticket))),
        }
    }

    /// Records an attempt that succeeded, or that proves nothing.
    pub(super) fn end_attempt(&self, permit: Permit, verdict: Verdict, now: Instant) {
        let (Some(ticket), Some(breaker)) = (permit.0, &self.breaker) else {
            return;
        };
        let at = breaker.time_of(now);
        if verdict == Verdict::Success && breaker.fast.count(ticket, at) {
            return;
        }
        self.with_breaker("", |breaker| breaker.record(ticket, 0, verdict, at));
    }

    /// Records the result of an attempt that did not succeed.
    pub(super) fn end_failed_attempt(
        &self,
        permit: Permit,
        message: &Message,
        failed: &AttemptFailure,
    ) {
        if let Some(ticket) = permit.0 {
            let at = self.breaker_time(Instant::now());
            let (message, verdict) = (hash(message), failed.verdict());
            self.with_breaker(&failed.text, |breaker| {
                breaker.record(ticket, message, verdict, at);
            });
        }
    }

    /// Records a failed attempt whose permit is lost with its thread.
    pub(crate) fn end_lost_attempt(&self, message: &Message, failed: &AttemptFailure) {
        let (message, at) = (hash(message), self.breaker_time(Instant::now()));
        self.with_breaker(&failed.text, |breaker| breaker.record_lost(message, at));
    }

    /// Prepares a new run: attempts of the run before have no results any more.
    pub(super) fn adopt_breaker(&self) {
        let at = self.breaker_time(Instant::now());
        self.with_breaker("", |breaker| breaker.release(at));
        self.hold_mailbox();
    }

    fn breaker_time(&self, now: Instant) -> Duration {
        let breaker = self.breaker.as_ref();
        breaker.map_or(Duration::ZERO, |breaker| breaker.time_of(now))
    }

    fn hold_mailbox(&self) {
        if let Some(breaker) = &self.breaker {
            let phase = *breaker.changes.borrow();
            let held = matches!(phase, BreakerPhase::Open | BreakerPhase::Probing);
            self.mailbox.hold(held);
        }
    }

    /// Calls `act` and carries out a change of the phase; `None` if there is no breaker. `text`
    /// is the failure that may cause the change.
    fn with_breaker<T>(&self, text: &str, act: impl FnOnce(&mut Breaker) -> T) -> Option<T> {
        let service_breaker = self.breaker.as_ref()?;
        let mut state = service_breaker.state.lock();
        let before = state.breaker.phase();
        let outage = state.breaker.outage();
        service_breaker.fast.hand_over(&mut state);
        let result = act(&mut state.breaker);
        let after = state.breaker.phase();
        let now = service_breaker.time_of(Instant::now());
        service_breaker.fast.follow(&state.breaker, now);
        if before == after {
            return Some(result);
        }
        service_breaker.changes.send_replace(after);
        self.hold_mailbox();
        if after == BreakerPhase::Open {
            state.why = match text {
                "" => NO_RESULT.to_owned(),
                text => self.redactor.clean(text).into_owned(),
            };
            if before == BreakerPhase::Closed {
                state.since_ms = self.clock.unix_ms();
            }
        }
        let is_first_probe = before == BreakerPhase::Open && !state.has_probed;
        state.has_probed =
            after != BreakerPhase::Closed && (state.has_probed || before == BreakerPhase::Open);
        let error = state.why.clone();
        let (failures, of) = state.breaker.counts();
        let due = state.breaker.due().unwrap_or_default();
        drop(state);
        let pause = in_tenths(due.saturating_sub(now));
        let service = &*self.label;
        match (before, after) {
            (BreakerPhase::Closed, BreakerPhase::Open) => {
                self.breaker_changed(BreakerChange::Opened(&error));
                warn!(service, failures, of, ?pause, %error, "circuit breaker opened, messages wait in their queues");
            }
            (_, BreakerPhase::Open) => {
                warn!(service, ?pause, %error, "circuit breaker stays open");
            }
            (BreakerPhase::Open, _) => {
                if is_first_probe {
                    self.breaker_changed(BreakerChange::FirstProbe);
                }
                // The result of the probe is logged.
                debug!(service, "circuit breaker half-open, trying one message");
            }
            (_, BreakerPhase::Closed) => {
                self.breaker_changed(BreakerChange::Closed);
                let after = in_tenths(now.saturating_sub(outage.unwrap_or(now)));
                info!(service, ?after, "circuit breaker closed");
            }
            (_, BreakerPhase::HalfOpen | BreakerPhase::Probing) => {}
        }
        Some(result)
    }
}

/// Rounds to tenths of a second, unless that is zero.
fn in_tenths(duration: Duration) -> Duration {
    let tenths = (duration.as_millis() + 50) / 100;
    match u64::try_from(tenths).unwrap_or(u64::MAX) {
        0 => duration,
        tenths => Duration::from_millis(tenths.saturating_mul(100)),
    }
}

/// Returns a number by which a message is known again.
fn hash(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.id.hash(&mut hasher);
    hasher.finish()
}

/// Makes the timed transitions of the breaker until the run ends.
pub(super) async fn follow(run: Arc<ServiceRun>) {
    let Some(mut changes) = run.breaker_changes() else {
        return;
    };
    loop {
        changes.borrow_and_update();
        run.hold_mailbox();
        let due = run.breaker.as_ref().and_then(|breaker| {
            let due = breaker.state.lock().breaker.due()?;
            breaker.origin.checked_add(due)
        });
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = run.closed() => return,
            // Never an error: the run holds the sender.
            _ = changes.changed() => {}
            () = is_due => {
                let at = run.breaker_time(Instant::now());
                run.with_breaker("", |breaker| breaker.advance(at));
            }
        }
    }
}
