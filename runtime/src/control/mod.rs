//! The control socket: commands to a running app, from its owner on the same machine.
//!
//! It lies in the app's data folder and only the owner may open it. A request is one line,
//! `{"verb":"stop"}`, the answer another, or several where work on dead letters is asked for.
//! A lock beside it says whether an app is running: it goes with the process, however that
//! ends, so a socket that a killed process left behind is replaced, and one that is in use is
//! not.

mod client;
mod dead_letters;
mod server;
mod streaming;
mod trace;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(test)]
use client::request;
pub(crate) use client::{ControlError, stop};
pub(crate) use dead_letters::{is_running, perform};
pub(crate) use trace::trace;

use crate::app::AppStatus;
use crate::dead_letters::{DeadLetters, Task};
use crate::lock::Lock;
use crate::message_trace::{TraceCollector, TraceQuery};
use crate::service_thread::ServiceThread;

/// A request is not longer: a thousand ids of messages fit.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// A line of an answer is not longer: a snapshot of thousands of services fits.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The one who asks must have done so within this time, and the other answered.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The socket of an app with this data folder.
pub(crate) fn socket_path(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// The lock of a child process that runs this service with this data folder.
pub(crate) fn lock_path(data: &Path, service: &str) -> PathBuf {
    data.join(format!("control-{service}.lock"))
}

/// Says that another process has the lock of an app with this data folder.
pub(crate) fn taken(owner: &str, data: &Path) -> String {
    let data = data.display();
    format!(
        "the app is already running as {owner} with the data folder {data}; \
         stop that one, or give this one another app.data"
    )
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Stop in order. The connection closes when that is done.
    Stop,
    /// What `/api/app` shows.
    State,
    /// Work on dead letters. It is answered in lines: see [`perform`].
    Dlq(Task),
    /// The way of a message. It is answered in lines: see [`trace`].
    Trace(TraceQuery),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: Verb,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// What commands reach.
pub(crate) struct ControlTargets {
    pub(crate) view: Arc<AppStatus>,
    pub(crate) letters: DeadLetters,
    pub(crate) tracer: Arc<TraceCollector>,
    /// Called from the socket's own thread, perhaps more than once.
    pub(crate) stop: Box<dyn Fn() + Send + Sync>,
}

/// The control socket of this process. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    thread: Option<ServiceThread>,
    /// Let go last: until then nobody else may start.
    _lock: Lock,
}

impl Control {
    /// Opens the socket in the data folder, which is made if there is none.
    ///
    /// # Errors
    /// Another process runs the app, or the socket can't be made: the text says where
    /// and what to do.
    pub(crate) fn start(data: &Path, reach: ControlTargets) -> io::Result<Self> {
        std::fs::create_dir_all(data).map_err(|error| {
            let text = format!("can't make the data folder {}: {error}", data.display());
            io::Error::new(error.kind(), text)
        })?;
        let lock = Lock::take(&data.join("control.lock"), |owner| taken(owner, data))?;
        let path = socket_path(data);
        let explain = {
            let path = path.clone();
            move |error: io::Error| {
                let text = format!("can't open the control socket {}: {error}", path.display());
                io::Error::new(error.kind(), text)
            }
        };
        let thread = ServiceThread::start("brickwork-control", {
            let path = path.clone();
            move |stopping| {
                let listener = server::listen(&path)?;
                Ok(server::serve(listener, reach, stopping))
            }
        })
        .map_err(explain)?;
        Ok(Self {
            path,
            thread: Some(thread),
            _lock: lock,
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // First the file: who comes from now on finds that nothing runs.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

#[cfg(test)]
mod tests;
