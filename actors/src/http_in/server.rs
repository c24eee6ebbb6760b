//! Listening: how many connections there are, and how they all end.

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

/// When accepting fails (out of file descriptors), trying again at once won't help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When the source is to stop, requests under way get so long.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Serves until the source is to stop.
pub(super) async fn serve(config: &HttpInConfig, out: &SourceContext) -> Result<(), Failure> {
    let listen = config.listen;
    // On Unix a port that was let go can be taken again at once.
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::retry(format!(
            "can't listen on {listen}: {error}; free it or set config.listen to another address"
        ))
    })?;
    let address = listener.local_addr()?;
    // Should the thread be given up, the next life needs the port.
    let held = listener.as_fd().try_clone_to_owned()?;
    let hook = out.on_abandoned(move || {
        if let Err(error) = shutdown(&held, Shutdown::Both) {
            warn!(%address, %error, "the port stays taken by a blocked thread");
        }
    });
    info!(%address, path = config.path, "listening");
    if config.secret.is_none() && !address.ip().is_loopback() {
        warn!(%address, "everybody who reaches this address can send: set config.secret");
    }
    let rules = Rc::new(ConnectionLimits {
        door: RequestHandler::new(config, out)?,
        limits: Limits {
            head: config.header_timeout.0,
            idle: config.idle_timeout.0,
        },
        half_close: !config.reply,
    });
    let (mood, _) = watch::channel(ShutdownState::Open);
    let mut connections = JoinSet::new();
    accept(
        &listener,
        config.connections,
        out,
        &rules,
        &mood,
        &mut connections,
    )
    .await;
    // Both hold the port.
    drop((listener, hook));
    mood.send_replace(ShutdownState::Stopping);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    if timeout(STOP_WITHIN, all).await.is_err() {
        warn!(
            connections = connections.len(),
            "connections are cut: they didn't end in time"
        );
    }
    Ok(())
}

/// Accepts connections until the source is to stop.
async fn accept(
    listener: &TcpListener,
    most: usize,
    out: &SourceContext,
    rules: &Rc<ConnectionLimits>,
    mood: &watch::Sender<ShutdownState>,
    connections: &mut JoinSet<()>,
) {
    let mut stopping = std::pin::pin!(out.stopping());
    loop {
        while let Some(ended) = connections.try_join_next() {
            note(ended);
        }
        let open = connections.len();
        mood.send_if_modified(|mood| {
            let next = mood_of(*mood, open, most);
            std::mem::replace(mood, next) != next
        });
        let accepted = tokio::select! {
            biased;
            () = stopping.as_mut() => return,
            Some(ended) = connections.join_next(), if open >= most => {
                note(ended);
                continue;
            }
            // Whoever comes while all places are taken waits in the system's queue, and
            // is accepted as soon as one is free.
            accepted = listener.accept(), if open < most => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // An answer is one write: there is nothing to wait for.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "a connection was gone before it was served");
                    continue;
                }
                let serve = connection::serve(stream, rules.clone(), mood.subscribe());
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

/// Crowded when the last place is taken, until an eighth of them is free.
fn mood_of(now: ShutdownState, open: usize, most: usize) -> ShutdownState {
    match now {
        ShutdownState::Open if open >= most => ShutdownState::Crowded,
        ShutdownState::Crowded if open <= most - most.div_ceil(8) => ShutdownState::Open,
        same => same,
    }
}

/// A panic ends its connection only.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!("a connection was cut: serving it panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_told_once_when_places_are_rare() {
        let mut mood = ShutdownState::Open;
        let mut seen = Vec::new();
        for open in [0, 15, 16, 15, 16, 15, 14, 15, 16] {
            mood = mood_of(mood, open, 16);
            seen.push(mood == ShutdownState::Crowded);
        }
        assert_eq!(
            seen,
            [false, false, true, true, true, true, false, false, true]
        );
        assert_eq!(mood_of(ShutdownState::Crowded, 0, 1), ShutdownState::Open);
        assert_eq!(mood_of(ShutdownState::Open, 1, 1), ShutdownState::Crowded);
    }
}
