//! The runtime that the client library runs on: tokio's, with connections whose incoming
//! texts are mended ([`super::mending`]).
//!
//! The library takes such a kit so that it can run anywhere; that its connections may be
//! wrapped is used here, and nothing else differs from tokio's own.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, TokioRuntime};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::mending::Mending;

type Plain = AsyncTcpStream<<TokioRuntime as Reactor>::TcpStream>;

/// Connects, on the current tokio runtime. As the library does it, but for the mending.
///
/// # Errors
/// The library's.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let kit = Kit(TokioRuntime::tokio_current());
    let connecting = async move |uri: AMQPUri, _: Runtime<Kit>| {
        let tokio = TokioRuntime::tokio_current();
        let connected = uri.connect_with_config_async(tls.as_ref(), &tokio).await;
        let stream = connected.map_err(|error| ErrorKind::IOError(error.into()))?;
        // Under TLS, if that is used: what is mended is what is inside.
        Ok(AsyncTcpStream::Plain(Mending::new(stream)))
    };
    Connection::connector(uri, Runtime::new(kit), connecting, properties).await
}

/// Tokio's kit, but for the type of connections.
#[derive(Debug, Clone)]
struct Kit(TokioRuntime);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <TokioRuntime as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Mending<Plain>;
    type Sleep = <TokioRuntime as Reactor>::Sleep;

    /// Sockets that are open already: the library has none.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Mending::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
