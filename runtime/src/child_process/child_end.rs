//! The child's end of the link: answers the parent, and notices when the parent is gone.
//!
//! The link is the socket on the child's standard input. It has a thread of its own, so it
//! answers while the app starts, and can end a process that fails to stop.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Answer, GRACE, LINE_BYTES_MAX, LinkedApp, Request, Stats, Verb};
use crate::process::{BoundedLine, BoundedLines};
use crate::service_thread::{ServiceThread, StopSignal};

/// Time for the transport to report the depths of the queues.
const IDLE_WITHIN: Duration = Duration::from_millis(500);
/// Time for the parent to read an answer before it counts as gone.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Time beyond the shutdown timeout after which a process without a parent ends itself.
const ORPHAN_GRACE: Duration = Duration::from_secs(15);

/// The connection of a child process to its parent. Dropping it closes the link.
#[derive(Debug)]
pub(crate) struct ParentConnection {
    shared: Arc<Shared>,
    _thread: ServiceThread,
}

#[derive(Default)]
struct Shared {
    app: OnceLock<Arc<dyn LinkedApp>>,
    /// Time to stop within, once the child is asked to stop.
    stop: watch::Sender<Option<Duration>>,
    /// Messages that were in flight when the time to stop was over.
    abandoned: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl ParentConnection {
    /// Takes the standard input. `shutdown_timeout` is the time to stop within when the
    /// parent is gone.
    ///
    /// # Errors
    /// The standard input is not a socket: no parent supervises this process.
    pub(crate) fn from_stdin(shutdown_timeout: Duration) -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Self::from_stream(StdUnixStream::from(stdin), shutdown_timeout)
    }

    pub(super) fn from_stream(
        stream: StdUnixStream,
        shutdown_timeout: Duration,
    ) -> io::Result<Self> {
        // Fails for anything but a socket.
        stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        let shared: Arc<Shared> = Arc::default();
        let thread = ServiceThread::start("brickwork-parent-link", {
            let shared = shared.clone();
            move |stopping| {
                let stream = BoundedLines::new(UnixStream::from_std(stream)?, LINE_BYTES_MAX);
                let server = Server {
                    stream,
                    shared,
                    shutdown_timeout,
                };
                Ok(server.run(stopping))
            }
        })?;
        Ok(Self {
            shared,
            _thread: thread,
        })
    }

    /// Answers with the statistics of the app from now on: the app is open.
    pub(crate) fn app_opened(&self, app: Arc<dyn LinkedApp>) {
        // An app is opened once.
        let _first = self.shared.app.set(app);
    }

    /// Resolves with the time to stop within, when the child is asked to stop.
    pub(crate) async fn asked_to_stop(&self) -> Duration {
        let mut stop = self.shared.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(within) => within.unwrap_or_default(),
            // `self` holds the sender, so it is not dropped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Sends the final answer to the parent: the app has stopped.
    pub(crate) fn finish(self, abandoned: Vec<String>) {
        *self.shared.abandoned.lock() = abandoned;
    }
}

struct Server {
    stream: BoundedLines<UnixStream>,
    shared: Arc<Shared>,
    shutdown_timeout: Duration,
}

impl Server {
    async fn run(mut self, mut stopping: StopSignal) {
        let asked = tokio::select! {
            biased;
            () = stopping.asked() => return,
            asked = self.serve() => asked,
        };
        let (number, within, patience) = match asked {
            Ok((number, within)) => (Some(number), within, within.saturating_add(GRACE)),
            Err(error) => {
                warn!(%error, "the app that supervises this process is gone, stopping");
                let within = self.shutdown_timeout;
                (None, within, within.saturating_add(ORPHAN_GRACE))
            }
        };
        self.shared.stop.send_replace(Some(within));
        if timeout(patience, stopping.asked()).await.is_err() {
            error!("the process did not stop in time and exits");
            crate::stderr::exit(1);
        }
        if let Some(number) = number {
            let answer = Answer {
                number,
                stats: self.stats(),
                abandoned: std::mem::take(&mut *self.shared.abandoned.lock()),
                ..Answer::default()
            };
            // The parent may be gone by now.
            let _gone = self.send(&answer).await;
        }
    }

    /// Answers until the parent says stop. Returns that request's number and the time to stop
    /// within.
    async fn serve(&mut self) -> io::Result<(u64, Duration)> {
        loop {
            let Request { number, verb } = self.next().await?;
            let idle = match verb {
                Verb::Stop { within } => {
                    info!("told to stop by the app that supervises this process");
                    return Ok((number, within));
                }
                Verb::Idle => self.is_idle().await,
                Verb::Stats => false,
            };
            let answer = Answer {
                number,
                stats: self.stats(),
                idle,
                ..Answer::default()
            };
            self.send(&answer).await?;
        }
    }

    async fn next(&mut self) -> io::Result<Request> {
        match self.stream.next().await? {
            BoundedLine::Line(line) => Ok(serde_json::from_slice(line)?),
            BoundedLine::Part(_) | BoundedLine::End => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        timeout(WRITE_WITHIN, self.stream.get_mut().write_all(&line)).await?
    }

    fn stats(&self) -> Option<Stats> {
        self.shared.app.get().and_then(|app| app.stats())
    }

    async fn is_idle(&self) -> bool {
        match self.shared.app.get() {
            Some(app) => timeout(IDLE_WITHIN, app.is_idle()).await.unwrap_or(false),
            None => false,
        }
    }
}
