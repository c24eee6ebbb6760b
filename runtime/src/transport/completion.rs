//! Completions: report the outcome of a publication, once, from any thread.

use std::fmt;

use super::TransportError;

/// Callback for the outcome of a publication.
///
/// A transport that drops it without calling it reports [`TransportError::Unconfirmed`].
pub struct Completion(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), TransportError>) + Send>;

impl Completion {
    /// Creates a completion that calls `callback` once, on any thread. The callback must be short
    /// and must not block.
    pub fn new(callback: impl FnOnce(Result<(), TransportError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// Creates a completion and the future that it resolves.
    pub fn channel() -> (
        Self,
        impl Future<Output = Result<(), TransportError>> + Send + 'static,
    ) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let completion = Self::new(move |outcome| {
            // The receiver may be dropped.
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
