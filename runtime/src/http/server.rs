//! Accepts connections, bounds their number, and closes them at the stop.

use std::convert::Infallible;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::connection::{self, Shared, ShutdownState};
use super::io_deadline::PhaseLimits;

/// Pause after a failed accept: without file descriptors, an immediate retry fails again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of a [`Server`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum open connections; further clients wait to be accepted.
    pub connections: usize,
    /// Time for the head of a request to arrive; shorter at the maximum of connections.
    pub head: Duration,
    /// Time after which an idle connection is closed; shorter at the maximum of connections.
    pub idle: Duration,
    /// Whether a client that has closed its sending side still gets its response. If not, it
    /// counts as gone, and its request is cancelled.
    pub half_close: bool,
}

/// Serves connections by a service, on the local task set of this thread.
pub struct Server<S> {
    connections_max: usize,
    shared: Rc<Shared<S>>,
    state: watch::Sender<ShutdownState>,
    connections: JoinSet<()>,
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Creates a server without connections.
    pub fn new(service: S, limits: Limits) -> Self {
        let shared = Shared {
            service,
            limits: PhaseLimits {
                head: limits.head,
                idle: limits.idle,
            },
            half_close: limits.half_close,
        };
        Self {
            connections_max: limits.connections,
            shared: Rc::new(shared),
            state: watch::Sender::new(ShutdownState::Open),
            connections: JoinSet::new(),
        }
    }

    /// Accepts connections until `stopping` resolves.
    ///
    /// # Panics
    /// Outside of a [`LocalSet`](tokio::task::LocalSet).
    pub async fn accept(&mut self, listener: &TcpListener, stopping: impl Future<Output = ()>) {
        let mut stopping = std::pin::pin!(stopping);
        let most = self.connections_max;
        loop {
            while let Some(ended) = self.connections.try_join_next() {
                log_panic(ended);
            }
            let open = self.connections.len();
            self.state.send_if_modified(|state| {
                let next = next_state(*state, open, most);
                std::mem::replace(state, next) != next
            });
            let accepted = tokio::select! {
                biased;
                () = stopping.as_mut() => return,
                Some(ended) = self.connections.join_next(), if open >= most => {
                    log_panic(ended);
                    continue;
                }
                // At the maximum, further clients wait in the system's queue.
                accepted = listener.accept(), if open < most => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // A response is one write, so there is nothing to collect.
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%error, "connection closed before it was served");
                        continue;
                    }
                    let (shared, state) = (self.shared.clone(), self.state.subscribe());
                    let serve = connection::serve(stream, shared, state);
                    self.connections.spawn_local(serve);
                }
                Err(error) => {
                    warn!(%error, "can't accept a connection");
                    tokio::select! {
                        () = stopping.as_mut() => return,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Closes idle connections at once, waits for requests in progress, and cuts those that do
    /// not end in time. The listener should be closed before.
    pub async fn close(mut self, within: Duration) {
        self.state.send_replace(ShutdownState::Stopping);
        let all = async {
            while let Some(ended) = self.connections.join_next().await {
                log_panic(ended);
            }
        };
        if timeout(within, all).await.is_err() {
            warn!(
                connections = self.connections.len(),
                "connections cut: they did not end in time"
            );
        }
    }
}

/// Crowded at the maximum of connections, until an eighth of them is free again.
fn next_state(now: ShutdownState, open: usize, most: usize) -> ShutdownState {
    match now {
        ShutdownState::Open if open >= most => ShutdownState::Crowded,
        ShutdownState::Crowded if open <= most - most.div_ceil(8) => ShutdownState::Open,
        same => same,
    }
}

/// Logs a panic. It has ended only its own connection.
fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!("connection cut: serving it panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_crowded_at_the_maximum_until_an_eighth_is_free() {
        let mut state = ShutdownState::Open;
        let mut seen = Vec::new();
        for open in [0, 15, 16, 15, 16, 15, 14, 15, 16] {
            state = next_state(state, open, 16);
            seen.push(state == ShutdownState::Crowded);
        }
        assert_eq!(
            seen,
            [false, false, true, true, true, true, false, false, true]
        );
        assert_eq!(
            next_state(ShutdownState::Crowded, 0, 1),
            ShutdownState::Open
        );
        assert_eq!(
            next_state(ShutdownState::Open, 1, 1),
            ShutdownState::Crowded
        );
    }
}
