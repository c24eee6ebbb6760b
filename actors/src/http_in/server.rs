//! Listens, bounds the number of connections, and closes them at the stop.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use brickwork::prelude::*;
use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::HttpInConfig;
use super::connection::{self, ConnectionLimits, ShutdownState};
use super::io_deadline::Limits;
use super::request::RequestHandler;

/// Pause after a failed accept: without file descriptors, an immediate retry fails again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests in progress when the source stops.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Serves until the source stops.
pub(super) async fn serve(config: &HttpInConfig, out: &SourceContext) -> Result<(), Failure> {
    let listen = config.listen;
    // On Unix a port that was released can be bound again at once.
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::retry(format!(
            "can't listen on {listen}: {error}; free it or set config.listen to another address"
        ))
    })?;
    let address = listener.local_addr()?;
    // If a handler blocks this thread, the next run on another thread needs the port.
    let held = listener.as_fd().try_clone_to_owned()?;
    let hook = out.on_abandoned(move || {
        if let Err(error) = shutdown(&held, Shutdown::Both) {
            warn!(%address, %error, "a blocked thread keeps the port");
        }
    });
    info!(%address, path = config.path, "listening");
    if config.secret.is_none() && !address.ip().is_loopback() {
        warn!(%address, "anyone who can reach this address can send: set config.secret");
    }
    let shared = Rc::new(ConnectionLimits {
        handler: RequestHandler::new(config, out)?,
        limits: Limits {
            head: config.header_timeout.0,
            idle: config.idle_timeout.0,
        },
        half_close: !config.reply,
    });
    let (state, _) = watch::channel(ShutdownState::Open);
    let mut connections = JoinSet::new();
    accept(
        &listener,
        config.connections,
        out,
        &shared,
        &state,
        &mut connections,
    )
    .await;
    // Both keep the port open.
    drop((listener, hook));
    state.send_replace(ShutdownState::Stopping);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if timeout(STOP_WITHIN, all).await.is_err() {
        warn!(
            connections = connections.len(),
            "connections cut: they did not end in time"
        );
    }
    Ok(())
}

/// Accepts connections until the source stops.
async fn accept(
    listener: &TcpListener,
    most: usize,
    out: &SourceContext,
    shared: &Rc<ConnectionLimits>,
    state: &watch::Sender<ShutdownState>,
    connections: &mut JoinSet<()>,
) {
    let mut stopping = std::pin::pin!(out.stopping());
    loop {
        while let Some(ended) = connections.try_join_next() {
            log_panic(ended);
        }
        let open = connections.len();
        state.send_if_modified(|state| {
            let next = next_state(*state, open, most);
            std::mem::replace(state, next) != next
        });
        let accepted = tokio::select! {
            biased;
            () = stopping.as_mut() => return,
            Some(ended) = connections.join_next(), if open >= most => {
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
                let serve = connection::serve(stream, shared.clone(), state.subscribe());
                connections.spawn_local(serve);
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
