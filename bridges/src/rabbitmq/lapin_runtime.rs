//! The runtime for the client library: tokio, with connections that repair invalid UTF-8
//! (`frame_repair`).
//!
//! lapin takes a runtime kit so that it runs on any executor. This kit only wraps the
//! connections; everything else is tokio's own.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, TokioRuntime};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;

use super::frame_repair::FrameRepairStream;

type PlainStream = AsyncTcpStream<<TokioRuntime as Reactor>::TcpStream>;

/// Returns the kit of the current tokio runtime.
pub(super) fn current() -> Runtime<LapinRuntime> {
    Runtime::new(LapinRuntime(TokioRuntime::tokio_current()))
}

/// Tokio's kit with another connection type.
#[derive(Debug, Clone)]
pub(super) struct LapinRuntime(TokioRuntime);

impl RuntimeKit for LapinRuntime {}

impl Executor for LapinRuntime {
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

impl Reactor for LapinRuntime {
    type TcpStream = FrameRepairStream<PlainStream>;
    type Sleep = <TokioRuntime as Reactor>::Sleep;

    /// The library registers no open sockets.
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
        async move {
            Ok(FrameRepairStream::new(AsyncTcpStream::Plain(
                connecting.await?,
            )))
        }
    }
}
