//! The child's end of the socket, which is its standard input: answers the parent, and
//! notices when it is gone.
//!
//! It has a thread of its own: it answers also while the app starts, and it ends a
//! process that doesn't manage to stop by itself.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Answer, GRACE, LINE_BYTES_MAX, Request, Stats, Verb};
use crate::app::AppStatus;
use crate::service_thread::{ServiceThread, StopSignal};

/// How long the transport may take to say what is in the queues.
const IDLE_WITHIN: Duration = Duration::from_millis(500);
/// How long the parent may take to read an answer, before it counts as gone.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// A process that is alone and has not stopped by then never will.
const ALONE_MAX: Duration = Duration::from_secs(15);

/// What keeps a child process alive: its parent. Dropping it ends the conversation.
#[derive(Debug)]
pub(crate) struct ParentConnection {
    shared: Arc<Shared>,
    _thread: ServiceThread,
}

#[derive(Default)]
struct Shared {
    view: OnceLock<Arc<AppStatus>>,
    /// How long stopping may take, once the child is to stop.
    stop: watch::Sender<Option<Duration>>,
    /// What was in hand when time ran out.
    abandoned: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl ParentConnection {
    /// Takes the standard input. `shutdown_timeout` is how long stopping may take when
    /// the parent is gone.
    ///
    /// # Errors
    /// The standard input is no socket: nobody supervises this process.
    pub(crate) fn hold(shutdown_timeout: Duration) -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Self::over(StdUnixStream::from(stdin), shutdown_timeout)
    }

    pub(super) fn over(stream: StdUnixStream, shutdown_timeout: Duration) -> io::Result<Self> {
        // Fails for anything but a socket.
        stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        let shared: Arc<Shared> = Arc::default();
        let thread = ServiceThread::start("brickwork-lifeline", {
            let shared = shared.clone();
            move |stopping| {
                let stream = BufReader::new(UnixStream::from_std(stream)?);
                let serving = Serving {
                    stream,
                    shared,
                    shutdown_timeout,
                };
                Ok(serving.run(stopping))
            }
        })?;
        Ok(Self {
            shared,
            _thread: thread,
        })
    }

    /// The app is open: from now on it can be seen.
    pub(crate) fn show(&self, view: Arc<AppStatus>) {
        // An app is opened once.
        let _shown = self.shared.view.set(view);
    }

    /// Resolves when the child is to stop, with how long that may take.
    pub(crate) async fn asked_to_stop(&self) -> Duration {
        let mut stop = self.shared.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(within) => within.unwrap_or_default(),
            // The sender is in `self`: it can't be gone.
            Err(_) => std::future::pending().await,
        }
    }

    /// The app has stopped: the parent hears the last.
    pub(crate) fn finish(self, abandoned: Vec<String>) {
        *self.shared.abandoned.lock() = abandoned;
    }
}

struct Serving {
    stream: BufReader<UnixStream>,
    shared: Arc<Shared>,
    shutdown_timeout: Duration,
}

impl Serving {
    async fn run(mut self, mut stopping: StopSignal) {
        let asked = tokio::select! {
            biased;
            () = stopping.asked() => return,
            asked = self.serve() => asked,
        };
        let (number, within, patience) = match asked {
            Ok((number, within)) => (Some(number), within, within.saturating_add(GRACE)),
            Err(error) => {
                warn!(%error, "the app that supervises this process is gone: it stops");
                let within = self.shutdown_timeout;
                (None, within, within.saturating_add(ALONE_MAX))
            }
        };
        self.shared.stop.send_replace(Some(within));
        if timeout(patience, stopping.asked()).await.is_err() {
            error!("the process did not stop in time: it ends itself");
            std::process::exit(1);
        }
        if let Some(number) = number {
            let answer = Answer {
                number,
                figures: self.figures(),
                abandoned: std::mem::take(&mut *self.shared.abandoned.lock()),
                ..Answer::default()
            };
            // The parent may be gone meanwhile.
            let _gone = self.send(&answer).await;
        }
    }

    /// Answers until the child is told to stop: with the question's number and the time.
    async fn serve(&mut self) -> io::Result<(u64, Duration)> {
        loop {
            let Request { number, verb } = self.next().await?;
            let idle = match verb {
                Verb::Stop { within } => {
                    info!("told to stop by the app that supervises this process");
                    return Ok((number, within));
                }
                Verb::Idle => self.is_idle().await,
                Verb::Figures => false,
            };
            let answer = Answer {
                number,
                figures: self.figures(),
                idle,
                ..Answer::default()
            };
            self.send(&answer).await?;
        }
    }

    async fn next(&mut self) -> io::Result<Request> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    async fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        timeout(WRITE_WITHIN, self.stream.get_mut().write_all(&line)).await?
    }

    fn figures(&self) -> Option<Stats> {
        self.shared.view.get().and_then(|view| Stats::of(view))
    }

    async fn is_idle(&self) -> bool {
        match self.shared.view.get() {
            Some(view) => timeout(IDLE_WITHIN, view.is_idle()).await.unwrap_or(false),
            None => false,
        }
    }
}
