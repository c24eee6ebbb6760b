//! What everybody may know of the way to the broker: whether it works, what is wrong and
//! since when, how often it came back.
//!
//! Owns the transport's status, and says each change once in the log. While it doesn't
//! work, sources wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brickwork::transport::{Backpressure, OutageGauge, Status, TransportError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// An outage longer than a broker's restart.
const LONG_OUTAGE: Duration = Duration::from_secs(15);
/// So many reasons are said in one outage.
const LOGGED_REASONS_MAX: usize = 5;

/// One for a transport.
pub(super) struct Health {
    status: watch::Sender<Status>,
    state: Mutex<State>,
}

struct State {
    connection: ConnectionState,
    /// What the broker says of why it takes nothing.
    alarm: Option<String>,
    /// What is seen of that though it says nothing.
    stall: Option<String>,
    outage: OutageGauge,
    /// What was said of why it isn't had again, in this outage.
    logged: Vec<String>,
}

#[derive(Debug, Clone)]
enum ConnectionState {
    Open,
    /// The broker takes no publications.
    Blocked {
        since: Instant,
    },
    Lost {
        why: String,
        since: Instant,
    },
    /// By this side, for good.
    Closed,
}

impl Health {
    pub(super) fn new(pressure: &Arc<Backpressure>) -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::default(),
            state: Mutex::new(State {
                connection: ConnectionState::Open,
                alarm: None,
                stall: None,
                outage: pressure.outage(),
                logged: Vec::new(),
            }),
        })
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The connection is lost. The first reason stays.
    pub(super) fn lost(&self, why: &str) {
        let mut state = self.state.lock();
        let since = match state.connection {
            ConnectionState::Open => Instant::now(),
            ConnectionState::Blocked { since } => since,
            ConnectionState::Lost { .. } | ConnectionState::Closed => return,
        };
        warn!(error = %why, "the connection to the broker is lost, connecting again");
        self.report_down(
            &state,
            format!("the connection to the broker is lost: {why}"),
        );
        let why = why.to_owned();
        state.connection = ConnectionState::Lost { why, since };
        (state.alarm, state.stall) = (None, None);
    }

    /// It could not be had again, for now. That a broker is away needs no words at first;
    /// what waiting doesn't mend, and what lasts, is said: each reason once.
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
            format!("the connection to the broker is lost: {why}; now: {text}"),
        );
        if is_reportable && state.logged.len() < LOGGED_REASONS_MAX && !state.logged.contains(&text)
        {
            warn!(error = %text, "still not connected to the broker, trying on");
            state.logged.push(text);
        } else {
            debug!(error = %text, "not connected again");
        }
    }

    /// There is a connection again, and all is set up on it.
    pub(super) fn restored(&self) {
        let mut state = self.state.lock();
        if let ConnectionState::Lost { since, .. } = state.connection {
            state.connection = ConnectionState::Open;
            state.logged.clear();
            let after = rounded(since.elapsed());
            info!(?after, "connected to the broker again");
            self.report_up(&state, 1);
        }
    }

    /// The broker says that it takes nothing for now (`Some(why)`), or does so again.
    pub(super) fn blocked(&self, why: Option<String>) {
        let mut state = self.state.lock();
        state.alarm = why;
        self.update_blocked(&mut state);
    }

    /// The broker takes nothing for now, as it seems (`Some(why)`), or does so again.
    pub(super) fn confirms_stalled(&self, why: Option<String>) {
        let mut state = self.state.lock();
        state.stall = why;
        self.update_blocked(&mut state);
    }

    fn update_blocked(&self, state: &mut State) {
        let why = state.alarm.clone().or_else(|| state.stall.clone());
        match (&state.connection, why) {
            (ConnectionState::Open, Some(why)) => {
                warn!(reason = %why, "the broker takes nothing for now");
                self.report_down(state, format!("the broker takes nothing for now: {why}"));
                let since = Instant::now();
                state.connection = ConnectionState::Blocked { since };
            }
            (ConnectionState::Blocked { since }, None) => {
                let after = rounded(since.elapsed());
                info!(?after, "the broker takes publications again");
                self.report_up(state, 0);
                state.connection = ConnectionState::Open;
            }
            (ConnectionState::Blocked { .. }, Some(why)) => {
                self.report_down(state, format!("the broker takes nothing for now: {why}"));
            }
            (ConnectionState::Open, None) => {}
            // What a connection was in that is lost, or not yet in use, says nothing of
            // the next one.
            (ConnectionState::Lost { .. } | ConnectionState::Closed, _) => {
                (state.alarm, state.stall) = (None, None)
            }
        }
    }

    /// Whether the broker has said that it takes nothing for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.state.lock().alarm.is_some()
    }

    /// It was closed by this side: it stays so.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.connection = ConnectionState::Closed;
        self.report_down(&state, "the transport is closed".into());
        self.status.send_modify(|status| status.ended = true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.status.borrow().ended
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        let mut status = self.status.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = status.wait_for(|status| status.ended).await;
    }

    /// Why nothing can be done over it now.
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
        // Sources wait before anybody learns that something fails.
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

/// To milliseconds, for people.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_told_with_its_first_reason_until_it_works() {
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
    async fn what_lasts_is_said_and_each_reason_once() {
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
        // It doesn't mend itself.
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
    async fn what_was_closed_stays_closed() {
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
