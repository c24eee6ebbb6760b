//! Serves connections, limited in number and time.

use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::http::{Limits, Server};
use crate::service_thread::StopSignal;

/// Maximum connections. Further clients wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Time for a client to send the head of its next request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for responses in progress when the endpoint stops.
const GRACE: Duration = Duration::from_secs(1);

/// Serves until stopped.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stopping: StopSignal) {
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        head: HEAD_TIMEOUT,
        idle: HEAD_TIMEOUT,
        half_close: true,
    };
    let serve = async {
        let mut server = Server::new(TowerToHyperService::new(router), limits);
        server.accept(&listener, stopping.asked()).await;
        drop(listener);
        server.close(GRACE).await;
    };
    LocalSet::new().run_until(serve).await;
}
