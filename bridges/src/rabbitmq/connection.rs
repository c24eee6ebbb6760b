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
use futures_util::StreamExt;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::link::Link;

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

/// The two connections.
pub(super) struct Connections {
    pub(super) publishing: Connection,
    pub(super) consuming: Connection,
}

impl Connections {
    /// Connects, on the current runtime, and watches over both.
    pub(super) async fn open(
        uri: &AMQPUri,
        url: &str,
        link: &Arc<Link>,
    ) -> Result<Self, TransportError> {
        let connect = async |purpose: &str| {
            let connection = connect(uri, url, purpose).await?;
            watch_over(&connection, purpose, link.clone());
            Ok(connection)
        };
        Ok(Self {
            publishing: connect("publishing").await?,
            consuming: connect("consuming").await?,
        })
    }

    /// Says good-bye on both; what a connection has in hand is given back by that.
    pub(super) async fn close(&self) {
        for connection in [&self.consuming, &self.publishing] {
            close(connection).await;
        }
    }
}

/// Connects for a purpose, on the current runtime. Whoever uses it sees what becomes of it.
pub(super) async fn connect(
    uri: &AMQPUri,
    url: &str,
    purpose: &str,
) -> Result<Connection, TransportError> {
    // Automatic recovery stays off: it hangs for ever once its tries are spent.
    let name = format!("brickwork {} {purpose}", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connect_uri(uri.clone(), properties);
    let why = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
    };
    Err(TransportError::Connect {
        url: without_password(url),
        why,
    })
}

/// Says good-bye; a connection that is gone, or doesn't answer, is left alone.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    let _closed = timeout(CLOSE_TIMEOUT, closing).await;
}

fn watch_over(connection: &Connection, purpose: &str, link: Arc<Link>) {
    let mut events = connection.events_listener();
    let purpose = purpose.to_owned();
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
