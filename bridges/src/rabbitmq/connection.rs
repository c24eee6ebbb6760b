//! The connections to the broker, and the thread that they live on.
//!
//! The client library runs tasks on the runtime that it is started on; on a service's
//! thread a handler that blocks would starve it. So a transport has one thread and one
//! runtime of its own. Publishing and consuming have a connection each: a broker that
//! is short of memory stops reading from the ones that publish, and acks must go on.

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

/// For connecting as a whole: a peer may accept and then say nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For saying good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A thread with a runtime. It ends when this is dropped, or what [`Worker::stop`]
/// returned.
pub(super) struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    stopped: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, told) = oneshot::channel::<()>();
        let (done, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("amqp".into())
            .spawn(move || {
                // Told to stop, or nobody is left who could tell.
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

    /// What ends the thread when it is dropped.
    pub(super) fn stop(&mut self) -> Option<oneshot::Sender<()>> {
        self.stop.take()
    }

    /// Waits for the end of the thread.
    pub(super) async fn join(self) {
        // An error means that the thread has panicked: it is gone all the same.
        let _done = self.stopped.await;
        let _panicked = self.thread.join();
    }
}

/// The two connections, to the same host.
pub(super) struct Connections {
    pub(super) publishing: Connection,
    pub(super) consuming: Connection,
    /// How to open more streams to that host.
    pub(super) socket: Arc<Socket>,
}

impl Connections {
    /// Connects, on the current runtime, to the first host that lets us in, and watches
    /// over both connections.
    ///
    /// # Errors
    /// None does: why each of them doesn't.
    pub(super) async fn open(
        address: &Address,
        url: &str,
        link: &Arc<SessionState>,
    ) -> Result<Self, TransportError> {
        let failed = |why| TransportError::Connect {
            url: without_password(url),
            why,
        };
        // Anew each time: a certificate may have been renewed.
        let connector = address.tls.as_ref().map(super::tls::Tls::load);
        let connector = connector.transpose().map_err(failed)?;
        let mut refusals = Vec::new();
        for host in address.in_turn() {
            let socket = Arc::new(Socket::new(address, host, connector.as_ref()));
            match Self::over(&socket, address, link).await {
                Ok(connections) => {
                    address.took(host);
                    return Ok(connections);
                }
                Err(why) => refusals.push((host, why)),
            }
        }
        // In the order of the URL, whatever the turn was: so the same is said alike.
        refusals.sort_by_key(|(host, _)| address.hosts.iter().position(|other| other == *host));
        Err(failed(match &refusals[..] {
            [(_, why)] => why.clone(),
            several => said_by_each(several),
        }))
    }

    async fn over(
        socket: &Arc<Socket>,
        address: &Address,
        link: &Arc<SessionState>,
    ) -> Result<Self, String> {
        let connect = async |purpose: &str| match connect(socket, purpose).await {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(error)) => Err(socket.explain(&error, address.tls.as_ref()).await),
            None => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
        };
        let publishing = connect("publishing").await?;
        // What happens to one is kept until there are both: alone it ends no link.
        let events = publishing.events_listener();
        let consuming = connect("consuming").await?;
        watch_over(events, "publishing", link.clone());
        watch_over(consuming.events_listener(), "consuming", link.clone());
        Ok(Self {
            publishing,
            consuming,
            socket: socket.clone(),
        })
    }

    /// Says good-bye on both; what a connection has in hand is given back by that.
    pub(super) async fn close(&self) {
        for connection in [&self.consuming, &self.publishing] {
            close(connection).await;
        }
    }
}

/// Connects for a purpose, on the current runtime; `None` if there is no answer in time.
/// Whoever uses it sees what becomes of it.
pub(super) async fn connect(
    socket: &Arc<Socket>,
    purpose: &str,
) -> Option<lapin::Result<Connection>> {
    // Automatic recovery stays off: it hangs for ever once its tries are spent.
    let name = format!("brickwork {} {purpose}", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    timeout(CONNECT_TIMEOUT, socket.connect(properties))
        .await
        .ok()
}

/// Says good-bye; a connection that is gone, or doesn't answer, is left alone.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    let _closed = timeout(CLOSE_TIMEOUT, closing).await;
}

/// Why each host let nobody in; what several say alike is said once.
fn said_by_each(refusals: &[(&Host, String)]) -> String {
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

fn watch_over(
    mut events: impl Stream<Item = Event> + Send + Unpin + 'static,
    purpose: &'static str,
    link: Arc<SessionState>,
) {
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                // This ended a channel only: whoever owns that one learns of it there.
                Event::Error(error) if error.is_amqp_soft_error() => {}
                Event::Error(error) => return link.fail(format!("{purpose}: {error}")),
                Event::ConnectionBlocked(why) => link.blocked(Some(why)),
                Event::ConnectionUnblocked => link.blocked(None),
                _ => {}
            }
        }
        // Also when it was closed: then the link has ended, and this changes nothing.
        link.fail(format!("{purpose}: the connection has ended"));
    });
}

/// A new channel whose publications are confirmed.
pub(super) async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(Default::default()).await?;
    Ok(channel)
}
