//! One child process of a service, as its supervisor sees it: polled and stopped.
//!
//! The supervisor decides about silence and exit.

use std::io;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use crate::child_process::{Answer, GRACE, Link, RespawnCommand, Stats, StatsMirror};
use crate::clock::later;
use crate::host::{ServiceHandle, Stopped};
use crate::metrics::Outcome;
use crate::process::{ProcessExit, ProcessGroup};

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two polls until the service has started.
const POLL_INTERVAL_AT_START: Duration = Duration::from_millis(20);
/// Time for one answer; a healthy process needs moments. A missed answer counts as silence.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Time for a new process to connect to its transport. It may have to wait for the process
/// before it to stop: the time for that stop is added.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// A running process. Dropping it kills the process group.
pub(super) struct ChildProcess {
    process: ProcessGroup,
    link: Link,
    mirror: StatsMirror,
    /// Messages handled successfully up to the last poll, over all processes of the service.
    pub(super) handled: u64,
    poll_at: Instant,
    /// Time without an answer.
    silence: Duration,
    /// Deadline for opening the app, until it is open.
    open_by: Option<Instant>,
    /// Whether the start of its service has ended, successfully or not.
    pub(super) started: bool,
}

/// The result of one poll.
pub(super) enum PollResult {
    Answered(Box<Answer>),
    /// No answer in time.
    Silent,
    /// The link is broken: the process is exiting or breaks the protocol.
    Broken(String),
}

impl From<Result<io::Result<Answer>, Elapsed>> for PollResult {
    fn from(answer: Result<io::Result<Answer>, Elapsed>) -> Self {
        match answer {
            Ok(Ok(answer)) => Self::Answered(Box::new(answer)),
            Ok(Err(error)) => Self::Broken(error.to_string()),
            Err(_) => Self::Silent,
        }
    }
}

impl ChildProcess {
    /// Starts a process for a service. A process before it may take `stop_within` to stop.
    pub(super) fn spawn(
        program: &RespawnCommand,
        hosted: &ServiceHandle,
        stop_within: Duration,
    ) -> io::Result<Self> {
        let (process, link) = program.spawn(&hosted.label)?;
        Ok(Self {
            process,
            link,
            mirror: StatsMirror::default(),
            handled: hosted.meters.outcome_total(Outcome::Ok),
            poll_at: Instant::now(),
            silence: Duration::ZERO,
            open_by: Some(later(OPEN_WITHIN.saturating_add(stop_within))),
            started: false,
        })
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resolves when the process has exited.
    pub(super) fn exited(&self) -> impl Future<Output = ProcessExit> + use<> {
        self.process.exited()
    }

    /// Polls the statistics when the next poll is due. Cancel safe.
    pub(super) async fn poll(&mut self) -> PollResult {
        sleep_until(self.poll_at).await;
        timeout(ANSWER_WITHIN, self.link.stats()).await.into()
    }

    /// Polls now, and asks whether the service is idle.
    pub(super) async fn poll_idle(&mut self) -> PollResult {
        timeout(ANSWER_WITHIN, self.link.idle()).await.into()
    }

    /// Ends the silence and schedules the next poll.
    pub(super) fn on_answer(&mut self) {
        self.silence = Duration::ZERO;
        let interval = match self.started {
            true => POLL_INTERVAL,
            false => POLL_INTERVAL_AT_START,
        };
        self.poll_at = Instant::now() + interval;
    }

    /// Counts a missed answer and schedules the next poll at once. Returns the length of the
    /// silence.
    ///
    /// The silence is counted in polls, not by the clock: time in which the whole machine or
    /// this process stood still is not the fault of the child.
    pub(super) fn on_silence(&mut self) -> Duration {
        self.silence += ANSWER_WITHIN;
        self.poll_at = Instant::now();
        self.silence
    }

    /// Whether the process has missed the deadline for opening its app.
    pub(super) fn is_late(&self) -> bool {
        self.open_by.is_some_and(|by| by <= Instant::now())
    }

    /// Publishes the child's statistics as those of the service. Returns false if they
    /// belong to another service.
    pub(super) fn apply(&mut self, stats: Stats, hosted: &ServiceHandle) -> bool {
        self.open_by = None;
        self.mirror.apply(stats, hosted)
    }

    /// Kills the process group and waits for the exit.
    pub(super) async fn kill(&self) {
        self.process.kill_and_wait().await;
    }

    /// Stops the process gracefully by the deadline, and kills its group otherwise.
    pub(super) async fn stop(self, hosted: &ServiceHandle, by: Instant) -> Stopped {
        let mut stopped = Stopped::default();
        let (service, id) = (&hosted.label, self.id());
        let Self {
            process,
            mut link,
            mut mirror,
            ..
        } = self;
        let within = by.saturating_duration_since(Instant::now());
        let gone_by = Instant::now() + within + GRACE;
        match timeout_at(gone_by, link.stop(within)).await {
            Ok(Ok(answer)) => {
                if let Some(stats) = answer.stats {
                    // The process is stopping: wrong statistics have no consequence.
                    let _fits = mirror.apply(stats, hosted);
                }
                stopped.abandoned = answer.abandoned;
            }
            // The process is exiting already.
            Ok(Err(error)) => {
                warn!(%service, process = id, %error, "child process sent no final answer");
            }
            Err(_) => {}
        }
        // A closed link tells the process to stop, too.
        drop(link);
        let remaining = gone_by.saturating_duration_since(Instant::now());
        if !process.stop(None, remaining).await {
            let in_flight = hosted.figures().in_flight;
            if in_flight > 0 {
                let lost = format!("{in_flight} messages in flight in the killed process {id}");
                stopped.abandoned.push(lost);
            }
        }
        stopped
    }
}
