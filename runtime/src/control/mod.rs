//! The control socket: commands to a running app, from its owner on the same machine.
//!
//! The socket `control.sock` lies in the app's data folder; only its owner may open it. A request
//! is one line of JSON, `{"verb":"stop"}`. The answer is another line, or several for work on
//! dead letters and for traces. The lock file beside the socket says whether an app is running:
//! the operating system releases the lock with the process. So the socket of a killed process is
//! replaced, and the socket of a running one is not.

mod client;
mod dead_letters;
mod server;
mod streaming;
mod trace;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) use client::{ControlError, evict, is_running, stop};
pub(crate) use dead_letters::perform;
pub(crate) use trace::trace;

use crate::dead_letters::{DeadLetters, DlqRequest};
use crate::lock::Lock;
use crate::message_trace::{TraceCollector, TraceQuery};
use crate::service_thread::ServiceThread;

/// Maximum size of a request: a thousand message ids fit.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Maximum size of a line of the answer: the state of thousands of services fits.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Time for the client to send its request, and for the app to send the next line.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The control socket of the app with this data folder.
pub(crate) fn socket_path(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// The lock file of the process that runs the app with this data folder.
pub(crate) fn app_lock_path(data: &Path) -> PathBuf {
    data.join("control.lock")
}

/// The lock file of a child process that runs this service.
pub(crate) fn lock_path(data: &Path, service: &str) -> PathBuf {
    data.join(format!("control-{service}.lock"))
}

/// The error text when another process holds the lock of the data folder.
pub(crate) fn taken(owner: &str, data: &Path) -> String {
    let data = data.display();
    format!(
        "the app is already running as {owner} with the data folder {data}; \
         stop that one, or give this one another app.data"
    )
}

/// A command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Stops the app in order. The connection closes when the app has stopped.
    Stop,
    /// Returns the same as `/api/app` of the admin endpoint.
    State,
    /// Works on dead letters, answered in several lines: see [`perform`].
    Dlq(DlqRequest),
    /// Traces a message, answered in several lines: see [`trace`].
    Trace(TraceQuery),
    /// Removes the state of an entity. Returns whether there was one.
    Evict(Evict),
}

/// An entity to remove.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evict {
    pub(crate) service: String,
    pub(crate) key: String,
}

/// Removes an entity, and returns whether it was there, or the reason why it can't be removed.
pub(crate) type EvictEntity =
    Box<dyn Fn(Evict) -> BoxFuture<'static, Result<bool, String>> + Send + Sync>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: Verb,
}

/// The answer to a request that takes no time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// The parts of the app that commands use.
pub(crate) struct ControlTargets {
    /// The state of the app, as `/api/app` shows it.
    pub(crate) state: Box<dyn Fn() -> serde_json::Result<Value> + Send + Sync>,
    pub(crate) letters: DeadLetters,
    pub(crate) tracer: Arc<TraceCollector>,
    pub(crate) evict: EvictEntity,
    /// Starts stopping the app. Called on the socket's thread, maybe more than once.
    pub(crate) stop: Box<dyn Fn() + Send + Sync>,
}

/// The control socket of this process. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    thread: Option<ServiceThread>,
    /// Dropped last: no other process may start before.
    _lock: Lock,
}

impl Control {
    /// Opens the socket in the data folder. Creates the folder if necessary.
    ///
    /// # Errors
    /// Another process runs the app, or the socket can't be created. The text names the path and
    /// the remedy.
    pub(crate) fn start(data: &Path, targets: ControlTargets) -> io::Result<Self> {
        std::fs::create_dir_all(data).map_err(|error| {
            let text = format!("can't make the data folder {}: {error}", data.display());
            io::Error::new(error.kind(), text)
        })?;
        let lock = Lock::take(&app_lock_path(data), |owner| taken(owner, data))?;
        let path = socket_path(data);
        let thread = ServiceThread::start("brickwork-control", {
            let path = path.clone();
            move |stopping| {
                let listener = server::listen(&path)?;
                Ok(server::serve(listener, targets, stopping))
            }
        });
        let thread = thread.map_err(|error| {
            let text = format!("can't open the control socket {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })?;
        Ok(Self {
            path,
            thread: Some(thread),
            _lock: lock,
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // First the socket: from now on clients find no app.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "control socket was removed already");
        }
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

/// Resolves when the other side has closed the connection.
async fn end_of(from: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 64];
    while from.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
pub(crate) mod tests;
