//! Serves connections, limited in number and time.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::service_thread::StopSignal;

/// Maximum connections. Further clients wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Time for a client to send the head of its next request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum age of a connection. A client that does not read its response is disconnected then.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(120);
/// Maximum size of a request's head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failed accept, such as without file descriptors: a retry at once would fail.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for responses in progress when the endpoint stops.
const GRACE: Duration = Duration::from_secs(1);

/// Serves until stopped.
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
                warn!(%error, "admin endpoint can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        debug!("closed admin connections with responses in progress");
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
        Ok(Err(error)) => debug!(%error, "admin connection failed"),
        Err(_) => debug!("closed an admin connection that was open for too long"),
    }
}
