//! Connections: resolves a name, checks its addresses, connects, passes a proxy, speaks TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::address::AllowList;
use super::proxy::Proxy;
use super::tcp::connect_first;

/// Makes the connections of a client.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) allow: Arc<AllowList>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) connect_timeout: Duration,
}

/// The reason for which there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// Resolution, connect, proxy or TLS failed.
    Failed(String),
    /// Only addresses that may not be called.
    Refused(String),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Failed(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ConnectError {}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let within = connector.connect_timeout;
            // Boxed: the future of a TLS handshake is large.
            let connecting = Box::pin(connector.connect(&uri));
            match tokio::time::timeout(within, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectError::Failed(format!(
                    "{host} has not accepted a connection within connect_timeout ({within:?})"
                ))),
            }
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let host = uri.host().unwrap_or_default();
        let bare_host = host.trim_matches(['[', ']']);
        let https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let tcp = match &self.proxy {
            None => {
                let addresses = self.resolve(bare_host, port).await?;
                connect_first(&addresses, self.connect_timeout)
                    .await
                    .map_err(|error| ConnectError::Failed(format!("{host}: {error}")))?
            }
            Some(proxy) => {
                self.check_behind_proxy(bare_host, port).await?;
                let failed =
                    |error| ConnectError::Failed(format!("{host}, over the proxy: {error}"));
                let connecting = proxy.connect(host, port, self.connect_timeout);
                connecting.await.map_err(failed)?
            }
        };
        let io: Box<dyn Io> = if https {
            let name = ServerName::try_from(bare_host.to_owned())
                .map_err(|error| ConnectError::Failed(format!("{host}: {error}")))?;
            let handshake = TlsConnector::from(self.tls.clone()).connect(name, tcp);
            Box::new(handshake.await.map_err(|error| {
                ConnectError::Failed(format!("{host}: TLS: {}", tls_error(&error)))
            })?)
        } else {
            Box::new(tcp)
        };
        Ok(Stream {
            io: TokioIo::new(io),
            opened: Instant::now(),
        })
    }

    /// Returns the addresses of a host that may be called.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let mut addresses = look_up(host, port)
            .await
            .map_err(|error| ConnectError::Failed(format!("{host} can't be resolved: {error}")))?;
        let found = addresses.len();
        addresses.retain(|address| self.allow.admits_address(address.ip()));
        match (addresses.is_empty(), found) {
            (false, _) => Ok(addresses),
            (true, 0) => Err(ConnectError::Failed(format!("{host} has no address"))),
            (true, _) => Err(ConnectError::Refused(format!(
                "{host} has only private addresses: name the address or its network in allow if it may be called"
            ))),
        }
    }

    /// Checks a host that the proxy will resolve. A name that can't be resolved here passes if
    /// the list names it: networks with a proxy often have no names of the outside.
    async fn check_behind_proxy(&self, host: &str, port: u16) -> Result<(), ConnectError> {
        match self.resolve(host, port).await {
            Err(ConnectError::Failed(_)) if !self.allow.is_open() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Describes an error of the handshake, with the limit of rustls that old endpoints meet.
fn tls_error(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("HandshakeFailure") || text.contains("ProtocolVersion") {
        return format!(
            "{text}; TLS before 1.2 and ciphers without forward secrecy are not spoken"
        );
    }
    text
}

/// Bytes of a connection.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open connection.
pub(crate) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    opened: Instant,
}

/// The time at which a connection was opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenedAt(pub(crate) Instant);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(OpenedAt(self.opened))
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        hyper::rt::Write::is_write_vectored(&self.io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
