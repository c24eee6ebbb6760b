//! Confirms and failures of published messages, reported from any thread.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::transport::TransportError;

/// Shared by the completions of publications and the relay.
#[derive(Default)]
pub(super) struct Confirms {
    state: Mutex<State>,
    /// Notified when a confirm or failure has arrived.
    pub(super) arrived: Notify,
}

#[derive(Default)]
struct State {
    arrived: Vec<Confirmed>,
    /// Outputs with a refusal in `arrived`.
    refused: Vec<Box<str>>,
    /// `arrived` has a failure that concerns every output.
    transport_failed: bool,
}

/// The outcome of one publication.
pub(super) struct Confirmed {
    /// Number of the message in the outbox.
    pub(super) n: i64,
    pub(super) output: Box<str>,
    pub(super) outcome: Result<(), TransportError>,
}

/// The messages that a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// Only this message, which can never be published.
    Message,
    /// Every message of the same output.
    Output,
    /// Every message.
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
    pub(super) fn add(&self, confirmed: Confirmed) {
        let mut state = self.state.lock();
        if let Err(error) = &confirmed.outcome {
            match FailureScope::of(error) {
                FailureScope::Message => {}
                FailureScope::Output => state.refused.push(confirmed.output.clone()),
                FailureScope::Transport => state.transport_failed = true,
            }
        }
        state.arrived.push(confirmed);
        drop(state);
        self.arrived.notify_one();
    }

    /// Returns whether a failure has arrived, and is not taken yet, after which this output
    /// must not be published.
    pub(super) fn blocks(&self, output: &str) -> bool {
        let state = self.state.lock();
        state.transport_failed || state.refused.iter().any(|refused| **refused == *output)
    }

    /// Takes the outcomes that have arrived. Failures come first: the relay must know the
    /// number at which an output is held before it processes later confirms of that output.
    pub(super) fn take(&self) -> Vec<Confirmed> {
        let state = std::mem::take(&mut *self.state.lock());
        let mut arrived = state.arrived;
        arrived.sort_by_key(|confirmed| confirmed.outcome.is_ok());
        arrived
    }
}
