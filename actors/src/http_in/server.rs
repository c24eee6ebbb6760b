//! Listens, and serves requests until the source stops.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use brickwork::http::{Limits, Server};
use brickwork::prelude::*;
use hyper::service::service_fn;
use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::HttpInConfig;
use super::request::RequestHandler;

/// Time for requests in progress when the source stops.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(4);

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
    info!(%address, paths = config.path_list(), "listening");
    if config.secret.is_none() && !address.ip().is_loopback() {
        warn!(%address, "anyone who can reach this address can send: set config.secret");
    }
    let handler = Rc::new(RequestHandler::new(config, out)?);
    let cleaner = handler.clone();
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.answer(request).await) }
    });
    let limits = Limits {
        connections: config.connections,
        head: config.header_timeout.0,
        idle: config.idle_timeout.0,
        half_close: !config.replies(),
    };
    let mut server = Server::new(service, limits);
    tokio::select! {
        () = server.accept(&listener, out.stopping()) => {}
        _never = cleaner.clean_uploads() => {}
    }
    // Both keep the port open.
    drop((listener, hook));
    server.close(STOP_WITHIN).await;
    Ok(())
}
