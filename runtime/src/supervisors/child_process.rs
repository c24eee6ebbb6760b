//! One child process of a service, as its supervisor has it: looked at, and ended.
//!
//! What its silence or its end means is for the supervisor to decide.

use std::io;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{error, warn};

use crate::child_process::{
    Answer, GRACE, Link, Process, ProcessExit, RespawnCommand, Stats, StatsMirror,
};
use crate::clock::later;
use crate::host::{ServiceHandle, Stopped};
use crate::metrics::Outcome;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How often while it starts.
const EVERY_AT_START: Duration = Duration::from_millis(20);
/// An answer takes moments. After so long it is missed, but the process is not given up.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// A process that has not connected to its transport by then hangs. It may have to wait
/// for one before it to stop, and for that gets more.
const START_WITHIN: Duration = Duration::from_secs(120);

/// A process that runs. Dropping it kills it.
pub(super) struct ChildProcess {
    process: Process,
    link: Link,
    mirror: StatsMirror,
    /// Messages that were handled well at the last look.
    pub(super) handled: u64,
    look_at: Instant,
    /// For how long it has not answered.
    silent: Duration,
    /// When it must have opened its app, if it has not.
    open_by: Option<Instant>,
    /// Whether its service has been started, well or not.
    pub(super) started: bool,
}

/// What a look gave.
pub(super) enum PollResult {
    Seen(Box<Answer>),
    /// No answer in time.
    Silent,
    /// The conversation is broken: the process is ending, or talks nonsense.
    Broken(String),
}

impl From<Result<io::Result<Answer>, Elapsed>> for PollResult {
    fn from(answer: Result<io::Result<Answer>, Elapsed>) -> Self {
        match answer {
            Ok(Ok(answer)) => Self::Seen(Box::new(answer)),
            Ok(Err(error)) => Self::Broken(error.to_string()),
            Err(_) => Self::Silent,
        }
    }
}

impl ChildProcess {
    /// Starts a process for a service.
    pub(super) fn begin(
        program: &RespawnCommand,
        hosted: &ServiceHandle,
        stop_within: Duration,
    ) -> io::Result<Self> {
        let (process, link) = program.start(&hosted.label)?;
        Ok(Self {
            process,
            link,
            mirror: StatsMirror::default(),
            handled: hosted.meters.outcome_total(Outcome::Ok),
            look_at: Instant::now(),
            silent: Duration::ZERO,
            open_by: Some(later(START_WITHIN.saturating_add(stop_within))),
            started: false,
        })
    }

    /// The number of the process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resolves when the process has ended.
    pub(super) fn ended(&self) -> impl Future<Output = ProcessExit> + use<> {
        self.process.ended()
    }

    /// Looks when it is time to. May be dropped and called again.
    pub(super) async fn look(&mut self) -> PollResult {
        sleep_until(self.look_at).await;
        timeout(LOOK_WITHIN, self.link.figures()).await.into()
    }

    /// Looks now, and asks whether there is nothing left to do.
    pub(super) async fn is_idle(&mut self) -> PollResult {
        timeout(LOOK_WITHIN, self.link.idle()).await.into()
    }

    /// It has answered: the next look is later.
    pub(super) fn answered(&mut self) {
        self.silent = Duration::ZERO;
        self.look_at = Instant::now() + if self.started { EVERY } else { EVERY_AT_START };
    }

    /// It has not answered: the next look is at once. Returns for how long it has not.
    ///
    /// Only time in which this process ran counts: if the whole machine, or this process,
    /// was stopped for a while, nobody is to blame.
    pub(super) fn missed(&mut self) -> Duration {
        self.silent += LOOK_WITHIN;
        self.look_at = Instant::now();
        self.silent
    }

    /// Whether it should have opened its app by now, and hasn't.
    pub(super) fn is_late(&self) -> bool {
        self.open_by.is_some_and(|by| by <= Instant::now())
    }

    /// Shows figures as those of the service. Says whether they were ones of it.
    pub(super) fn show(&mut self, figures: Stats, hosted: &ServiceHandle) -> bool {
        self.open_by = None;
        self.mirror.show(figures, hosted)
    }

    /// Kills it with everything that it started.
    pub(super) async fn kill(&self) {
        kill(&self.process).await;
    }

    /// Has it stop in order by the deadline, and kills it if it doesn't: either way it is
    /// gone completely, with everything that it started.
    pub(super) async fn end(self, hosted: &ServiceHandle, by: Instant) -> Stopped {
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
                if let Some(figures) = answer.figures {
                    // What it says last can't be asked about any more.
                    let _nonsense = mirror.show(figures, hosted);
                }
                stopped.abandoned = answer.abandoned;
            }
            // It is ending already.
            Ok(Err(error)) => {
                warn!(%service, process = id, %error, "a child process said no last word");
            }
            Err(_) => {}
        }
        // The end of the conversation tells it to stop, too.
        drop(link);
        if timeout_at(gone_by, process.ended()).await.is_err() {
            error!(%service, process = id, "a child process did not stop in time and is killed");
            kill(&process).await;
            let in_flight = hosted.figures().in_flight;
            if in_flight > 0 {
                let what = format!("{in_flight} in hand of the process {id}, which was killed");
                stopped.abandoned.push(what);
            }
        }
        stopped
    }
}

async fn kill(process: &Process) {
    process.kill();
    // It is gone in moments, but for one that the system itself holds up.
    let _held_up = timeout(GRACE, process.ended()).await;
}
