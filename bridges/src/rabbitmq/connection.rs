//! The two connections to the broker, and the worker thread that they live on.
//!
//! The client library runs tasks on the runtime that it is started on. On a service's thread a
//! handler that blocks would starve them, so a transport has one thread and one runtime of its
//! own. Publishing and consuming have a connection each: a broker that is short of memory stops
//! reading from publishing connections, and acks must still get through.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::without_password;
use futures_util::{Stream, StreamExt};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::{Address, Host};
use super::connect::Socket;
use super::session_state::SessionState;

/// Time limit to connect: a peer may accept and then send nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit to close a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A thread with a runtime. It ends when this value, or the value that [`Worker::stop`]
/// returned, is dropped.
pub(super) struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    stopped: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// # Errors
    /// The operating system creates no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, told) = oneshot::channel::<()>();
        let (done, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("amqp".into())
            .spawn(move || {
                // Either the sender sent or it was dropped: both mean stop.
                let _either = runtime.block_on(told);
                runtime.shutdown_timeout(CLOSE_TIMEOUT);
                let _gone = done.send(());
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            stopped,
            thread,
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns the value that ends the thread when it is dropped.
    pub(super) fn stop(&mut self) -> Option<oneshot::Sender<()>> {
        self.stop.take()
    }

    /// Waits until the thread has ended.
    pub(super) async fn join(self) {
        // An error means that the thread has panicked: it has ended, too.
        let _done = self.stopped.await;
        let _panicked = self.thread.join();
    }
}

/// The two connections. Both go to the same host.
pub(super) struct Connections {
    pub(super) publishing: Connection,
    pub(super) consuming: Connection,
    /// Opens more streams to that host.
    pub(super) socket: Arc<Socket>,
}

impl Connections {
    /// Connects to the first host that accepts, on the current runtime, and watches both
    /// connections.
    ///
    /// # Errors
    /// No host accepts: the reason of each.
    pub(super) async fn open(
        address: &Address,
        url: &str,
        session_state: &Arc<SessionState>,
    ) -> Result<Self, TransportError> {
        let failed = |why| TransportError::Connect {
            url: without_password(url),
            why,
        };
        // Loaded each time: a certificate may have been renewed.
        let connector = address.tls.as_ref().map(super::tls::Tls::load);
        let connector = connector.transpose().map_err(failed)?;
        let mut refusals = Vec::new();
        for host in address.in_try_order() {
            let socket = Arc::new(Socket::new(address, host, connector.as_ref()));
            match Self::open_to(&socket, address, session_state).await {
                Ok(connections) => {
                    address.connected_to(host);
                    return Ok(connections);
                }
                Err(why) => refusals.push((host, why)),
            }
        }
        // In the order of the URL, so that the same failure has the same text.
        refusals.sort_by_key(|(host, _)| address.hosts.iter().position(|other| other == *host));
        Err(failed(match &refusals[..] {
            [(_, why)] => why.clone(),
            several => join_reasons(several),
        }))
    }

    async fn open_to(
        socket: &Arc<Socket>,
        address: &Address,
        session_state: &Arc<SessionState>,
    ) -> Result<Self, String> {
        let connect = async |purpose: &str| match connect(socket, purpose).await {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(error)) => Err(socket.explain(&error, address.tls.as_ref()).await),
            None => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
        };
        let publishing = connect("publishing").await?;
        // Events of the first connection wait until the second one is open: alone it doesn't
        // end the session.
        let events = publishing.events_listener();
        let consuming = connect("consuming").await?;
        watch_events(events, "publishing", session_state.clone());
        watch_events(
            consuming.events_listener(),
            "consuming",
            session_state.clone(),
        );
        Ok(Self {
            publishing,
            consuming,
            socket: socket.clone(),
        })
    }

    /// Closes both connections; the broker then requeues unacked messages.
    pub(super) async fn close(&self) {
        for connection in [&self.consuming, &self.publishing] {
            close(connection).await;
        }
    }
}

/// Opens a connection on the current runtime. `purpose` becomes a part of its name. Returns
/// `None` if there is no answer in time. The caller watches the connection.
pub(super) async fn connect(
    socket: &Arc<Socket>,
    purpose: &str,
) -> Option<lapin::Result<Connection>> {
    // lapin 4.12: automatic recovery hangs forever after its last attempt, so it stays off.
    let name = format!("brickwork {} {purpose}", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    timeout(CONNECT_TIMEOUT, socket.connect(properties))
        .await
        .ok()
}

/// Closes a connection. Gives up if the broker doesn't answer in time.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    let _closed = timeout(CLOSE_TIMEOUT, closing).await;
}

/// Joins the reasons of several hosts; equal reasons appear once.
fn join_reasons(refusals: &[(&Host, String)]) -> String {
    let mut reasons: Vec<(String, &str)> = Vec::new();
    for (host, why) in refusals {
        match reasons.iter_mut().find(|(_, other)| other == why) {
            Some((hosts, _)) => *hosts += &format!(", {host}"),
            None => reasons.push((host.to_string(), why)),
        }
    }
    let reasons: Vec<String> = reasons
        .into_iter()
        .map(|(hosts, why)| format!("{hosts}: {why}"))
        .collect();
    reasons.join("; ")
}

fn watch_events(
    mut events: impl Stream<Item = Event> + Send + Unpin + 'static,
    purpose: &'static str,
    session_state: Arc<SessionState>,
) {
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                // Only a channel ended: its owner handles that.
                Event::Error(error) if error.is_amqp_soft_error() => {}
                Event::Error(error) => return session_state.fail(format!("{purpose}: {error}")),
                Event::ConnectionBlocked(why) => session_state.blocked(Some(why)),
                Event::ConnectionUnblocked => session_state.blocked(None),
                _ => {}
            }
        }
        // If the session was closed, this has no effect.
        session_state.fail(format!("{purpose}: the connection has ended"));
    });
}

/// Opens a channel in confirm mode.
pub(super) async fn confirm_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(Default::default()).await?;
    Ok(channel)
}
