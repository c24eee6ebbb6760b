//! What was published and has come back, from whatever thread tells of it.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::transport::TransportError;

/// What the completions and the relay share.
#[derive(Default)]
pub(super) struct Confirms {
    state: Mutex<State>,
    /// There is something to take.
    pub(super) landed: Notify,
}

#[derive(Default)]
struct State {
    back: Vec<Confirmed>,
    /// Of what is back, the outputs of which something was refused.
    refused: Vec<Box<str>>,
    /// Of what is back, something failed that stops all.
    failed: bool,
}

/// One message that has come back.
pub(super) struct Confirmed {
    pub(super) n: i64,
    pub(super) output: Box<str>,
    pub(super) outcome: Result<(), TransportError>,
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// This message: trying it again can't help.
    Message,
    /// Where it goes to: what else is emitted there had better wait.
    Output,
    /// Everything that is published.
    Transport,
}

impl FailureScope {
    pub(super) fn of(error: &TransportError) -> Self {
        use TransportError as E;
        match error {
            error if error.is_permanent() => Self::Message,
            E::Refused(_) | E::NoQueue(_) | E::OwnedByAnother { .. } | E::Declare { .. } => {
                Self::Output
            }
            _ => Self::Transport,
        }
    }
}

impl Confirms {
    pub(super) fn land(&self, landed: Confirmed) {
        let mut state = self.state.lock();
        if let Err(error) = &landed.outcome {
            match FailureScope::of(error) {
                FailureScope::Message => {}
                FailureScope::Output => state.refused.push(landed.output.clone()),
                FailureScope::Transport => state.failed = true,
            }
        }
        state.back.push(landed);
        drop(state);
        self.landed.notify_one();
    }

    /// Whether something is known, and not taken yet, that stands in the way of what follows
    /// on this output.
    pub(super) fn blocks(&self, output: &str) -> bool {
        let state = self.state.lock();
        state.failed || state.refused.iter().any(|refused| **refused == *output)
    }

    /// What has come back: first what failed, so that it is known where an output is held
    /// before what was taken behind that place.
    pub(super) fn take(&self) -> Vec<Confirmed> {
        let state = std::mem::take(&mut *self.state.lock());
        let mut back = state.back;
        back.sort_by_key(|landed| landed.outcome.is_ok());
        back
    }
}
