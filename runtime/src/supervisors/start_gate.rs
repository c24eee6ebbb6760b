//! Holds a source back until the services that its messages reach consume.
//!
//! So a slow start delays the sources that lead to it, and nothing else.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tracing::warn;

use crate::host::ServiceHandle;

/// A source starts after this time even if not every input is consumed.
const CONSUMING_WITHIN: Duration = Duration::from_secs(30);

/// The condition for the first start of a source.
pub(crate) struct StartGate {
    source: Arc<str>,
    reached: Vec<Arc<ServiceHandle>>,
    passed: Cell<bool>,
}

impl StartGate {
    /// A gate for a source whose messages reach these services.
    pub(crate) fn new(source: Arc<str>, reached: Vec<Arc<ServiceHandle>>) -> Self {
        Self {
            source,
            passed: Cell::new(reached.is_empty()),
            reached,
        }
    }

    pub(super) fn is_passed(&self) -> bool {
        self.passed.get()
    }

    /// Resolves when the first start of each service has ended and its inputs are consumed.
    pub(super) async fn pass(&self) {
        join_all(self.reached.iter().map(|it| it.first_start_ended())).await;
        let consuming = join_all(self.reached.iter().map(|it| consuming(it)));
        if timeout(CONSUMING_WITHIN, consuming).await.is_err() {
            warn!(service = %self.source, "starting the source although not every input that it leads to is consumed");
        }
        self.passed.set(true);
    }
}

/// Resolves when every input of a service is consumed, or its supervisor has to decide first.
async fn consuming(service: &ServiceHandle) {
    let env = service.env();
    let mut consuming = env.liveness.consuming.subscribe();
    let inputs = env.inputs.len();
    // `env` holds the sender, so it is not gone. The supervisor handles a service that has given
    // up. A service whose messages of the last run fail consumes nothing.
    tokio::select! {
        _ = consuming.wait_for(|count| *count >= inputs) => {}
        () = env.breaker_opened() => {}
        _ = env.given_up() => {}
        () = env.closed() => {}
    }
}
