//! The state of the connection: whether it works, the problem and its start, and the number of
//! reconnects.
//!
//! Owns the transport's status and logs each change once. While the connection doesn't work,
//! sources wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brickwork::transport::{Backpressure, OutageGauge, Status, TransportError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::clock_skew::ClockSkew;

/// An outage longer than a restart of the broker.
const LONG_OUTAGE: Duration = Duration::from_secs(15);
/// A change of the clock skew of this size, in milliseconds, is logged.
const LOGGED_SKEW_MS: u64 = 1_000;
/// Maximum reasons that are logged in one outage.
const LOGGED_REASONS_MAX: usize = 5;

/// The connection state of one transport.
pub(super) struct Health {
    status: watch::Sender<Status>,
    clock_skew: Arc<ClockSkew>,
    state: Mutex<State>,
}

struct State {
    connection: ConnectionState,
    /// The broker's reason why it accepts no publications.
    alarm: Option<String>,
    /// The reason for the same, observed from missing confirms.
    stall: Option<String>,
    outage: OutageGauge,
    /// Deliveries that could not be settled so far.
    unsettled: u64,
    /// Reasons for failed reconnects that were logged in this outage.
    logged: Vec<String>,
    /// The right whose refusal ended the last session.
    missing_right: Option<String>,
}

/// A part of the transport that may fail although the connection works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Degraded {
    /// Deliveries can't be settled.
    Settlements,
    /// A delay step can't be declared.
    DelayStep,
    /// The relay of delayed messages can't work.
    Relay,
    /// Delayed messages don't arrive in time.
    Overdue,
    /// The broker refuses publications for a missing right.
    Rights,
}

#[derive(Debug, Clone)]
enum ConnectionState {
    Open,
    /// The broker accepts no publications.
    Blocked {
        since: Instant,
    },
    Lost {
        why: String,
        since: Instant,
    },
    /// Closed by this side, for good.
    Closed,
}

impl Health {
    pub(super) fn new(pressure: &Arc<Backpressure>) -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::default(),
            clock_skew: Arc::default(),
            state: Mutex::new(State {
                connection: ConnectionState::Open,
                alarm: None,
                stall: None,
                outage: pressure.outage(),
                unsettled: 0,
                logged: Vec::new(),
                missing_right: None,
            }),
        })
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Records the loss of the connection. The first reason stays.
    pub(super) fn lost(&self, why: &str) {
        let mut state = self.state.lock();
        let since = match state.connection {
            ConnectionState::Open => Instant::now(),
            ConnectionState::Blocked { since } => since,
            ConnectionState::Lost { .. } | ConnectionState::Closed => return,
        };
        let missing_right = missing_right(why);
        if missing_right.is_none() {
            warn!(error = %why, "the connection to the broker is lost, connecting again");
        }
        self.report_down(
            &state,
            format!("the connection to the broker is lost: {why}"),
        );
        let why = why.to_owned();
        state.connection = ConnectionState::Lost { why, since };
        (state.alarm, state.stall) = (None, None);
        // The next session finds out again.
        self.status.send_modify(|status| {
            status.degraded.clear();
            status.overdue_delays = 0;
        });
        if missing_right.is_some() {
            // Sessions that end for the same reason are logged once.
            let is_new = state.missing_right != missing_right;
            state.missing_right = missing_right;
            self.report_right(&state, is_new);
        }
    }

    /// Records that a session has lasted, so that no right is missing as far as it is known.
    pub(super) fn session_lasts(&self) {
        let mut state = self.state.lock();
        if state.missing_right.take().is_some() {
            drop(state);
            self.degraded(Degraded::Rights, None);
        }
    }

    /// Reports the missing right as long as no session lasts.
    fn report_right(&self, state: &State, is_new: bool) {
        let Some(right) = &state.missing_right else {
            return;
        };
        let why = format!("the broker refuses publications: {right}: rabbitmqctl set_permissions");
        if is_new {
            warn!(reason = %why, "a right is missing, publishing is tried again and again");
        }
        self.status.send_modify(|status| {
            status.degraded.insert(Degraded::Rights.name(), why);
        });
    }

    /// Records a failed reconnect. At first an absent broker isn't logged. A long outage, and a
    /// problem that waiting doesn't solve, are logged, each reason once.
    pub(super) fn reconnect_failed(&self, error: &TransportError) {
        let mut state = self.state.lock();
        let ConnectionState::Lost { why, since } = &state.connection else {
            return;
        };
        let text = error.to_string();
        let is_reportable =
            since.elapsed() >= LONG_OUTAGE || matches!(error, TransportError::Declare { .. });
        self.report_down(
            &state,
            format!("the connection to the broker is lost: {why}; last attempt: {text}"),
        );
        if is_reportable && state.logged.len() < LOGGED_REASONS_MAX && !state.logged.contains(&text)
        {
            warn!(error = %text, "still not connected to the broker, retrying");
            state.logged.push(text);
        } else {
            debug!(error = %text, "reconnect failed");
        }
    }

    /// Records that the connection works again.
    pub(super) fn restored(&self) {
        let mut state = self.state.lock();
        if let ConnectionState::Lost { since, .. } = state.connection {
            state.connection = ConnectionState::Open;
            state.logged.clear();
            let after = rounded(since.elapsed());
            match state.missing_right {
                None => info!(?after, "connected to the broker again"),
                Some(_) => debug!(?after, "connected to the broker again"),
            }
            self.report_up(&state, 1);
        }
    }

    /// Records that the broker has blocked publications (`Some(why)`) or unblocked them.
    pub(super) fn blocked(&self, why: Option<String>) {
        let mut state = self.state.lock();
        state.alarm = why;
        self.update_blocked(&mut state);
    }

    /// Records that confirms have stalled (`Some(why)`) or arrive again.
    pub(super) fn confirms_stalled(&self, why: Option<String>) {
        let mut state = self.state.lock();
        state.stall = why;
        self.update_blocked(&mut state);
    }

    fn update_blocked(&self, state: &mut State) {
        let why = state.alarm.clone().or_else(|| state.stall.clone());
        match (&state.connection, why) {
            (ConnectionState::Open, Some(why)) => {
                warn!(reason = %why, "broker accepts no publications");
                self.report_down(state, format!("the broker accepts no publications: {why}"));
                let since = Instant::now();
                state.connection = ConnectionState::Blocked { since };
            }
            (ConnectionState::Blocked { since }, None) => {
                let after = rounded(since.elapsed());
                info!(?after, "broker accepts publications again");
                self.report_up(state, 0);
                state.connection = ConnectionState::Open;
            }
            (ConnectionState::Blocked { .. }, Some(why)) => {
                self.report_down(state, format!("the broker accepts no publications: {why}"));
            }
            (ConnectionState::Open, None) => {}
            // The state of a lost or unused connection doesn't apply to the next one.
            (ConnectionState::Lost { .. } | ConnectionState::Closed, _) => {
                (state.alarm, state.stall) = (None, None)
            }
        }
    }

    /// Records the problem of a part (`Some(why)`) or that it works.
    pub(super) fn degraded(&self, part: Degraded, why: Option<String>) {
        let name = part.name();
        self.status.send_if_modified(|status| {
            let before = match why.clone() {
                Some(why) => status.degraded.insert(name, why),
                None => status.degraded.remove(name),
            };
            match (&before, &why) {
                (None, Some(why)) => warn!(part = name, reason = %why, "transport is degraded"),
                (Some(_), None) => info!(part = name, "transport is no longer degraded"),
                _ => {}
            }
            before != why
        });
    }

    /// Records the number of delays whose messages are overdue.
    pub(super) fn overdue_delays(&self, count: u64) {
        self.status.send_if_modified(|status| {
            let before = std::mem::replace(&mut status.overdue_delays, count);
            before != count
        });
    }

    /// Records by how much the broker's clock is ahead. A changed difference is logged.
    pub(super) fn set_clock_skew(&self, skew_ms: i64) {
        let before = self.clock_skew.set(skew_ms);
        if skew_ms.abs_diff(before) > LOGGED_SKEW_MS {
            warn!(
                broker_ahead_ms = skew_ms,
                "the clocks of this machine and of the broker differ, deadlines of requests are corrected"
            );
        }
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.clock_skew_ms, skew_ms) != skew_ms
        });
    }

    pub(super) fn clock_skew(&self) -> &Arc<ClockSkew> {
        &self.clock_skew
    }

    /// Returns a record of a delivery that can't be settled at first.
    pub(super) fn settlement_trouble(self: &Arc<Self>) -> SettlementTrouble {
        self.state.lock().unsettled += 1;
        SettlementTrouble(self.clone())
    }

    /// Returns whether the broker has blocked publications.
    pub(super) fn is_blocked(&self) -> bool {
        self.state.lock().alarm.is_some()
    }

    /// Records that this side has closed the transport.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.connection = ConnectionState::Closed;
        self.report_down(&state, "the transport is closed".into());
        self.status.send_modify(|status| status.ended = true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.status.borrow().ended
    }

    /// Waits until the transport is closed.
    pub(super) async fn closed(&self) {
        let mut status = self.status.subscribe();
        // `self` holds the sender, so this can't fail.
        let _open = status.wait_for(|status| status.ended).await;
    }

    /// Returns the error for operations that need the connection.
    pub(super) fn error(&self) -> TransportError {
        match &self.state.lock().connection {
            ConnectionState::Closed => TransportError::Closed,
            ConnectionState::Lost { why, .. } => TransportError::Lost(why.clone()),
            ConnectionState::Open | ConnectionState::Blocked { .. } => {
                TransportError::Lost("the transport's thread is gone".into())
            }
        }
    }

    fn report_down(&self, state: &State, why: String) {
        // Sources must wait before the first operation fails.
        state.outage.set(true);
        self.status.send_modify(|status| {
            status.down = Some(why);
            status.since.get_or_insert_with(SystemTime::now);
        });
    }

    fn report_up(&self, state: &State, reconnects: u64) {
        self.status.send_modify(|status| {
            status.down = None;
            status.since = None;
            status.reconnects += reconnects;
        });
        state.outage.set(false);
    }
}

/// Returns the right that the broker refused, if a session ended for that.
fn missing_right(why: &str) -> Option<String> {
    let (_, right) = why.split_once("ACCESS_REFUSED - ")?;
    Some(match right.strip_prefix("access to ") {
        // Some versions of RabbitMQ name the exchange only. Publishing needs this right.
        Some(rest) => format!("write access to {rest}"),
        None => right.to_owned(),
    })
}

impl Degraded {
    fn name(self) -> &'static str {
        match self {
            Self::Settlements => "settlements",
            Self::DelayStep => "delay step",
            Self::Relay => "relay",
            Self::Overdue => "delays",
            Self::Rights => "rights",
        }
    }
}

/// A delivery that can't be settled so far. The status reports it until this is dropped.
pub(super) struct SettlementTrouble(Arc<Health>);

impl SettlementTrouble {
    /// Records a failed attempt to settle the delivery.
    pub(super) fn failed(&self, error: &TransportError) {
        let health = &self.0;
        health
            .status
            .send_modify(|status| status.failed_settlements += 1);
        let why = format!("deliveries can't be settled and are tried again: {error}");
        health.degraded(Degraded::Settlements, Some(why));
    }
}

impl Drop for SettlementTrouble {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.unsettled -= 1;
        if state.unsettled == 0 {
            self.0.degraded(Degraded::Settlements, None);
        }
    }
}

/// Rounds to milliseconds for the log.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_status_keeps_the_first_reason_until_the_connection_works() {
        let pressure = Arc::<Backpressure>::default();
        let health = Health::new(&pressure);
        let status = health.status();
        let down = || status.borrow().down.clone().unwrap_or_default();
        health.blocked(Some("memory".into()));
        assert!(down().ends_with("memory") && pressure.is_high());
        let since = status.borrow().since;
        assert!(since.is_some());
        health.lost("reset by peer");
        health.lost("a consequence");
        health.blocked(None);
        assert!(down().ends_with("reset by peer"), "{}", down());
        assert_eq!(status.borrow().since, since);
        health.reconnect_failed(&TransportError::Lost("refused".into()));
        assert!(down().contains("reset by peer") && down().contains("refused"));
        assert!(matches!(health.error(), TransportError::Lost(why) if why == "reset by peer"));
        health.restored();
        assert_eq!((down(), status.borrow().since), (String::new(), None));
        assert_eq!(status.borrow().reconnects, 1);
        assert!(!pressure.is_high());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_outage_is_logged_once_per_reason() {
        let health = Health::new(&Arc::default());
        let logged = || health.state.lock().logged.len();
        let refused = TransportError::Lost("refused".into());
        health.lost("reset by peer");
        health.reconnect_failed(&refused);
        assert_eq!(logged(), 0);
        let declare = TransportError::Declare {
            what: "the queue".into(),
            why: "with other settings".into(),
        };
        // Waiting doesn't solve it.
        health.reconnect_failed(&declare);
        health.reconnect_failed(&declare);
        assert_eq!(logged(), 1);
        tokio::time::advance(LONG_OUTAGE).await;
        health.reconnect_failed(&refused);
        health.reconnect_failed(&refused);
        assert_eq!(logged(), 2);
        for number in 0..2 * LOGGED_REASONS_MAX {
            health.reconnect_failed(&TransportError::Lost(number.to_string()));
        }
        assert_eq!(logged(), LOGGED_REASONS_MAX);
        health.restored();
        assert_eq!(logged(), 0);
    }

    #[tokio::test]
    async fn a_closed_transport_stays_closed() {
        let health = Health::new(&Arc::default());
        health.close();
        health.lost("a consequence");
        health.restored();
        health.blocked(None);
        health.closed().await;
        assert!(matches!(health.error(), TransportError::Closed));
        assert!(health.is_closed() && health.status().borrow().down.is_some());
    }
}
