//! Connections: how many, and for how long.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::service_thread::StopSignal;

/// Whoever comes while so many are connected waits to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// A client must have sent the head of its next request within this time.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection lives longer: one that doesn't read its response holds no place for good.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(120);
/// A request's head is not larger.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// When accepting fails (out of file descriptors), trying again at once won't help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Responses under way get so long at the end.
const GRACE: Duration = Duration::from_secs(1);

/// Serves until told to stop.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stopping: StopSignal) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stopping.asked() => break,
            Some(_) = connections.join_next(), if connections.len() >= CONNECTIONS_MAX => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone(), stopping.clone()));
            }
            Err(error) => {
                warn!(%error, "the admin endpoint can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        debug!("admin connections were cut at the end");
    }
}

async fn connection(stream: TcpStream, router: Router, mut stopping: StopSignal) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stopping.asked() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match tokio::time::timeout(CONNECTION_AGE_MAX, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an admin connection failed"),
        Err(_) => debug!("an admin connection was cut: it was open for too long"),
    }
}
