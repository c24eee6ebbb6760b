//! Opens one stream to one host: TCP and, if configured, TLS, within a time limit. Explains why
//! connecting failed.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use lapin::runtime::default_runtime;
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::{Address, Host};
use super::frame_repair::FrameRepairStream;
use super::lapin_runtime;
use super::tls::{NO_TLS, Tls};

/// The first bytes of an AMQP 0-9-1 client.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Time limit for the second attempt that finds out why the peer hung up.
const DIAGNOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the library to report an error after its thread has ended.
const REPORT_TIMEOUT: Duration = Duration::from_millis(200);
/// First byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;
/// The explanation if the peer expects TLS.
const WANTS_TLS: &str =
    "the server there speaks TLS: write amqps://, or the broker's port for amqp:";

/// Opens streams to one host.
pub(super) struct Socket {
    uri: AMQPUri,
    /// The URI without TLS. TLS is added here because the client library would also trust the
    /// machine's authorities where the URL names others.
    bare: AMQPUri,
    secure: Option<(RustlsConnector, String)>,
    within: Duration,
}

impl Socket {
    /// `connector` comes from [`Tls::load`].
    pub(super) fn new(address: &Address, host: &Host, connector: Option<&RustlsConnector>) -> Self {
        let uri = address.uri(host);
        let mut bare = uri.clone();
        bare.scheme = AMQPScheme::AMQP;
        let name = address.tls.as_ref().and_then(|tls| tls.name.as_ref());
        let name = name.unwrap_or(&host.name);
        Self {
            uri,
            bare,
            secure: connector.map(|connector| (connector.clone(), name.clone())),
            within: address.connect_timeout,
        }
    }

    /// Opens a connection of the client library, on the current runtime.
    ///
    /// # Errors
    /// The connection can't be opened.
    pub(super) async fn connect(
        self: &Arc<Self>,
        properties: ConnectionProperties,
    ) -> lapin::Result<Connection> {
        let socket = self.clone();
        let (alive, mut thread_ended) = oneshot::channel::<()>();
        let open = async move |_, _| {
            let _held_by_the_thread = &alive;
            let runtime = default_runtime()?;
            let stream = socket.secured(socket.bare.connect_async(&runtime)).await?;
            // UTF-8 repair runs on the decrypted stream.
            Ok(AsyncTcpStream::Plain(FrameRepairStream::new(stream)))
        };
        let connecting =
            Connection::connector(self.uri.clone(), lapin_runtime::current(), open, properties);
        tokio::pin!(connecting);
        tokio::select! {
            biased;
            connected = &mut connecting => return connected,
            _ = &mut thread_ended => {}
        }
        // lapin 4.12 waits forever if the peer hangs up while the library prepares its answer to
        // a step of the login: its thread has ended, and the answer is never sent.
        let reported = timeout(REPORT_TIMEOUT, connecting).await;
        reported.unwrap_or_else(|_| Err(io::Error::from(ErrorKind::ConnectionAborted).into()))
    }

    /// Opens a stream, on the current runtime.
    ///
    /// # Errors
    /// The stream can't be opened.
    pub(super) async fn open(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let runtime = default_runtime().map_err(io::Error::other)?;
        self.secured(self.bare.connect_async(&runtime)).await
    }

    async fn secured<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        connecting: impl Future<Output = io::Result<AsyncTcpStream<S>>>,
    ) -> io::Result<AsyncTcpStream<S>> {
        let opening = async {
            let stream = connecting.await?;
            match &self.secure {
                None => Ok(stream),
                Some((connector, name)) => stream.into_rustls(connector, name).await,
            }
        };
        timeout(self.within, opening).await.unwrap_or_else(|_| {
            let why = format!("no connection within {:?}", self.within);
            Err(io::Error::new(ErrorKind::TimedOut, why))
        })
    }

    /// Explains why connecting failed.
    pub(super) async fn explain(&self, error: &lapin::Error, tls: Option<&Tls>) -> String {
        let plain = error.to_string();
        let unclear = match error.kind() {
            lapin::ErrorKind::IOError(error) => {
                if let Some(why) = tls.and_then(|tls| tls.explain(error)) {
                    return why;
                }
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                        | ErrorKind::UnexpectedEof
                )
            }
            lapin::ErrorKind::ParsingError(_) => true,
            _ => false,
        };
        if !unclear {
            return plain;
        }
        // The peer's answer may have been lost when it hung up on our first bytes.
        let why = timeout(DIAGNOSE_TIMEOUT, self.diagnose(tls)).await;
        why.ok().flatten().unwrap_or(plain)
    }

    /// Connects again, sends as little as possible, and reads the peer's answer.
    async fn diagnose(&self, tls: Option<&Tls>) -> Option<String> {
        let mut first = [0];
        match (self.open().await, tls) {
            (Ok(mut stream), Some(tls)) => {
                let error = stream.read_exact(&mut first).await.err()?;
                tls.explain(&error)
            }
            (Ok(mut stream), None) => {
                stream.write_all(PROTOCOL_HEADER).await.ok()?;
                stream.read_exact(&mut first).await.ok()?;
                (first == [TLS_ALERT]).then(|| WANTS_TLS.to_owned())
            }
            (Err(error), Some(tls)) => tls
                .explain(&error)
                .or_else(|| (error.kind() == ErrorKind::UnexpectedEof).then(|| NO_TLS.to_owned())),
            (Err(_), None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// `Connection.Start` of a broker without properties.
    const START: &[u8] =
        b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce";
    /// `Connection.Tune` without limits.
    const TUNE: &[u8] = b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1e\0\0\0\0\0\0\0\0\xce";

    /// A broker that answers the first steps of each login with `steps` and then hangs up.
    async fn hangs_up_after(steps: &'static [&'static [u8]]) -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let url = format!("amqp://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut received = [0; 4096];
                for step in steps {
                    let _count = stream.read(&mut received).await;
                    let _written = stream.write_all(step).await;
                }
            }
        });
        let address = Address::parse(&url).expect("a URL");
        Socket::new(&address, &address.hosts[0], None)
    }

    #[tokio::test]
    async fn a_peer_that_hangs_up_during_the_login_is_an_error_at_once() {
        for steps in [&[START][..], &[START, TUNE], &[START, TUNE, b""]] {
            let socket = Arc::new(hangs_up_after(steps).await);
            for attempt in 0..5 {
                let connecting = socket.connect(ConnectionProperties::default());
                let connected = timeout(Duration::from_secs(10), connecting).await;
                let connected = connected.unwrap_or_else(|_| {
                    panic!("attempt {attempt} hangs after {} steps", steps.len())
                });
                assert!(connected.is_err());
            }
        }
    }
}
