//! Endpoints such as `tcp://127.0.0.1:5555`, connections to them, and answers to pings.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use brickwork::ConfigError;
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::wire::{command, encode_command};
use super::{RECONNECT, WRITE_WITHIN};

/// Time for a connection to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Silence after which TCP probes the peer.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Probes without an answer that end the connection.
const PROBES: u32 = 3;

/// Host and port of an endpoint.
pub(super) fn parse(endpoint: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("{endpoint:?} is not an endpoint such as tcp://127.0.0.1:5555");
    let rest = endpoint.strip_prefix("tcp://").ok_or_else(wrong)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "*" {
        return Err("`*` is not a host: write 0.0.0.0 or one address".to_owned());
    }
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    Ok((host, port.parse().map_err(|_| wrong())?))
}

/// The errors in the endpoints of a config: exactly one of `bind` and `connect` is set.
pub(super) fn errors(bind: Option<&str>, connect: &[String]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    if bind.is_some() != connect.is_empty() {
        let text = "set exactly one of bind and connect, such as tcp://127.0.0.1:5555";
        errors.push(ConfigError::new("bind", text));
    }
    let bind = bind.map(|bind| ("bind".to_owned(), bind));
    let connect = connect.iter().enumerate();
    let connect = connect.map(|(nth, endpoint)| (format!("connect.{nth}"), endpoint.as_str()));
    for (path, endpoint) in bind.into_iter().chain(connect) {
        if let Err(text) = parse(endpoint) {
            errors.push(ConfigError::new(path, text));
        }
    }
    errors
}

/// Whether an endpoint is on loopback, as far as its text says.
pub(super) fn is_loopback(endpoint: &str) -> bool {
    let host = parse(endpoint).map_or("", |(host, _)| host);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Listens on an endpoint.
pub(super) async fn listen(endpoint: &str) -> io::Result<TcpListener> {
    TcpListener::bind(parse(endpoint).map_err(io::Error::other)?).await
}

/// Connects to an endpoint.
pub(super) async fn connect(endpoint: &str) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(parse(endpoint).map_err(io::Error::other)?);
    let stream = timeout(CONNECT_WITHIN, connecting)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
    prepare(&stream)?;
    Ok(stream)
}

/// Prepares a connection: frames leave at once, and probes find out that the peer's machine is
/// gone.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    Ok(())
}

/// Open sockets. If a handler blocks their thread for good, they are shut down from another one:
/// the next run needs the port, and the peers must not wait.
#[derive(Debug, Default, Clone)]
pub(super) struct Sockets(Arc<Mutex<Vec<Weak<OwnedFd>>>>);

impl Sockets {
    /// Adds a socket, until the returned value is dropped.
    pub(super) fn hold(&self, socket: impl AsFd) -> io::Result<Arc<OwnedFd>> {
        let held = Arc::new(socket.as_fd().try_clone_to_owned()?);
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(&held));
        Ok(held)
    }

    /// Shuts all sockets down.
    pub(super) fn shut_down(&self) {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            // A connection that the peer has closed can't be shut down.
            let _closed = shutdown(&socket, Shutdown::Both);
        }
    }
}

/// Returns the wait before try number `tries` to connect, from 0.
pub(super) fn reconnect_after(tries: u32) -> Duration {
    RECONNECT
        .0
        .saturating_mul(1 << tries.min(10))
        .min(RECONNECT.1)
}

/// Writes all bytes, unless the peer reads nothing for long.
pub(super) async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match timeout(WRITE_WITHIN, stream.write_all(bytes)).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer reads nothing",
        )),
    }
}

/// Returns the answer to a PING of the peer.
pub(super) fn pong(body: &[u8]) -> Option<Vec<u8>> {
    let (name, data) = command(body)?;
    // The data is a time to live of two bytes, and a context that goes back.
    let context = data.get(2..).filter(|_| name == b"PING")?;
    let mut bytes = Vec::new();
    encode_command("PONG", context, &mut bytes);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(parse("tcp://127.0.0.1:5555"), Ok(("127.0.0.1", 5555)));
        assert_eq!(parse("tcp://[::1]:5555"), Ok(("::1", 5555)));
        for wrong in [
            "",
            "127.0.0.1:1",
            "tcp://a",
            "tcp://:1",
            "tcp://a:x",
            "ipc://a",
            "tcp://*:1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let places = |bind, connect: &[&str]| {
            let connect: Vec<String> = connect.iter().map(|text| (*text).to_owned()).collect();
            let errors = errors(bind, &connect).into_iter();
            errors.map(|error| error.path).collect::<Vec<_>>()
        };
        assert!(places(Some("tcp://[::1]:1"), &[]).is_empty());
        assert!(places(None, &["tcp://a:1", "tcp://b:1"]).is_empty());
        assert_eq!(places(None, &[]), ["bind"]);
        assert_eq!(
            places(Some("x"), &["tcp://b:1", "y"]),
            ["bind", "bind", "connect.1"]
        );
        assert!(is_loopback("tcp://[::1]:1") && is_loopback("tcp://localhost:1"));
        assert!(!is_loopback("tcp://0.0.0.0:1"));
    }

    #[tokio::test]
    async fn connections_find_out_that_the_machine_of_the_peer_is_gone() {
        let listener = listen("tcp://127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let stream = connect(&endpoint).await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE_AFTER);
    }

    #[tokio::test]
    async fn sockets_of_a_blocked_thread_are_shut_down() {
        let listener = listen("tcp://127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let (sockets, mut stream) = (Sockets::default(), connect(&endpoint).await.unwrap());
        drop(sockets.hold(&stream).unwrap());
        let (accepted, _) = listener.accept().await.unwrap();
        let held = [
            sockets.hold(&listener).unwrap(),
            sockets.hold(&accepted).unwrap(),
        ];
        assert_eq!(sockets.0.lock().unwrap().len(), 2);
        sockets.shut_down();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        // Both sockets are still open here; the port is free.
        listen(&endpoint).await.unwrap();
        drop((listener, accepted, held));
    }

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(reconnect_after(0), RECONNECT.0);
        assert_eq!(reconnect_after(u32::MAX), RECONNECT.1);
    }
}
