//! The admin endpoint: the state, health and metrics of an app, over HTTP.
//!
//! It is read-only; commands go over the control socket. It has its own thread, so that a
//! blocked worker thread does not block it. Connections, request sizes and times are limited by
//! [`crate::http`].

mod page;
mod routes;
mod server;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use prometheus::Registry;

use crate::service_thread::ServiceThread;
use crate::status::AppStatus;

/// Maximum clients that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The running endpoint. Dropping it stops the endpoint.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    thread: ServiceThread,
}

impl Admin {
    /// Starts the endpoint.
    ///
    /// # Errors
    /// The address can't be used. The text names it and the key to change.
    pub(crate) fn start(
        listen: SocketAddr,
        view: Arc<AppStatus>,
        registry: Registry,
    ) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let text = format!(
                "can't listen on {listen} for the admin endpoint: {error}; \
                 set admin.listen to another address, or to \"off\""
            );
            io::Error::new(error.kind(), text)
        };
        let listener = TcpListener::bind(listen).map_err(explain)?;
        // The standard library's queue of waiting clients is short, and without room in it
        // clients wait for seconds.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let router = routes::router(view, registry, address.ip().is_loopback());
        let thread = ServiceThread::start("brickwork-admin", move |stopping| {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(server::serve(listener, router, stopping))
        })?;
        Ok(Self { address, thread })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the endpoint and joins its thread: about a second, if a client is slow.
    pub(crate) fn stop(self) {
        self.thread.stop();
    }
}

#[cfg(test)]
mod tests;
