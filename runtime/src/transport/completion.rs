//! What a publisher is told: once, on whichever thread learns it.

use std::fmt;

use super::TransportError;

/// What is called, once, when a publication is confirmed or has failed.
///
/// A transport that drops it unused has reported [`TransportError::Unconfirmed`].
pub struct Completion(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), TransportError>) + Send>;

impl Completion {
    /// Calls `callback` with the outcome, on whichever thread learns it: it must be
    /// short and must not block.
    pub fn new(callback: impl FnOnce(Result<(), TransportError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// A completion, and the future that it resolves.
    pub fn channel() -> (
        Self,
        impl Future<Output = Result<(), TransportError>> + Send + 'static,
    ) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let completion = Self::new(move |outcome| {
            // Whoever waited may have gone; that is its right.
            let _gone = sender.send(outcome);
        });
        (completion, async move {
            receiver.await.unwrap_or(Err(TransportError::Unconfirmed))
        })
    }

    /// Reports the outcome.
    pub fn complete(mut self, outcome: Result<(), TransportError>) {
        if let Some(callback) = self.0.take() {
            callback(outcome);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(TransportError::Unconfirmed));
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}
