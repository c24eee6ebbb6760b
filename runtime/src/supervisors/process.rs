//! The supervisor of a service that runs in a child process: keeps one process running.
//!
//! Inside of it, the service's failures are dealt with as anywhere; what counts here is
//! that the process ended, or was silent for too long and was killed. That is a failure
//! without a message in hand, by the same intensity and back-off. A service that gave up
//! inside ends its process, and the policy is carried out here.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, LocalBoxFuture, pending};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::child_process::{ChildProcess, LOOK_WITHIN, PollResult};
use super::give_up::give_up;
use super::{Child, ParentLink, Supervised, command};
use crate::child_process::{Answer, ProcessExit, RespawnCommand, StatsMirror};
use crate::clock::later;
use crate::config::HumanDuration;
use crate::host::{ServiceHandle, Standing, Stopped};
use crate::metrics::{Cause, Outcome};
use crate::supervision::{History, Restart};

/// Shorter than this a machine may stall by itself.
const SILENT_MIN: Duration = Duration::from_secs(5);
/// The handle to the supervisor of a process.
pub(crate) struct ProcessSupervisor {
    hosted: Arc<ServiceHandle>,
    commands: mpsc::Sender<Command>,
    epoch: Rc<Cell<u64>>,
}

enum Command {
    Start(oneshot::Sender<()>),
    Drain(Instant, oneshot::Sender<()>),
    Stop(Instant, oneshot::Sender<Stopped>),
    IsIdle(oneshot::Sender<bool>),
}

impl ProcessSupervisor {
    /// A supervisor of a service that doesn't run yet, as a task of the current thread.
    pub(crate) fn new(
        hosted: Arc<ServiceHandle>,
        program: Rc<RespawnCommand>,
        stop_within: Duration,
        up: ParentLink,
    ) -> Rc<Self> {
        let (commands, received) = mpsc::channel(8);
        let epoch = Rc::new(Cell::new(0));
        let keeper = Keeper {
            hosted: hosted.clone(),
            program,
            stop_within,
            up,
            commands: received,
            epoch: epoch.clone(),
            runs: false,
            life: None,
            next: None,
            history: History::default(),
            waiting: Vec::new(),
            left: Stopped::default(),
        };
        tokio::task::spawn_local(keeper.run());
        Rc::new(Self {
            hosted,
            commands,
            epoch,
        })
    }
}

impl Child for ProcessSupervisor {
    fn name(&self) -> &str {
        &self.hosted.label
    }

    fn start(&self) -> LocalBoxFuture<'_, ()> {
        command(&self.commands, Command::Start)
            .map(Option::unwrap_or_default)
            .boxed_local()
    }

    fn stop(&self, by: Instant) -> LocalBoxFuture<'_, Stopped> {
        command(&self.commands, move |done| Command::Stop(by, done))
            .map(Option::unwrap_or_default)
            .boxed_local()
    }

    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}

impl Supervised for ProcessSupervisor {
    fn hosted(&self) -> &Arc<ServiceHandle> {
        &self.hosted
    }

    fn drain(&self, by: Instant) -> LocalBoxFuture<'_, bool> {
        // Its threads are its process's own: nothing here waits for them.
        command(&self.commands, move |done| Command::Drain(by, done))
            .map(|_| true)
            .boxed_local()
    }

    fn is_idle(&self) -> LocalBoxFuture<'_, bool> {
        command(&self.commands, Command::IsIdle)
            .map(|idle| idle == Some(true))
            .boxed_local()
    }
}

/// What is to be done when there is no process.
enum Next {
    /// Start one in its stead.
    Restart(Instant),
    /// Try the isolated service again.
    Again(Instant),
}

struct Keeper {
    hosted: Arc<ServiceHandle>,
    program: Rc<RespawnCommand>,
    stop_within: Duration,
    up: ParentLink,
    commands: mpsc::Receiver<Command>,
    epoch: Rc<Cell<u64>>,
    /// Whether there is to be a process, now or after a back-off.
    runs: bool,
    life: Option<ChildProcess>,
    next: Option<Next>,
    history: History,
    /// They wait until the service has been tried.
    waiting: Vec<oneshot::Sender<()>>,
    /// What draining left, until it is stopped.
    left: Stopped,
}

enum Event {
    Command(Command),
    Ended(ProcessExit),
    Look(PollResult),
    GaveUp(String),
    Restart,
    Again,
}

impl Keeper {
    async fn run(mut self) {
        while let Some(event) = self.event().await {
            match event {
                Event::Command(command) => self.obey(command).await,
                Event::Ended(how) => {
                    let process = self.life.as_ref().map_or(0, |life| life.id());
                    self.lost(format!("the process {process} ended: {how}"));
                }
                Event::Look(look) => self.looked(look).await,
                Event::GaveUp(why) => self.gave_up(why).await,
                Event::Restart => {
                    self.hosted.meters.restarted(Cause::Process);
                    self.spawn();
                }
                Event::Again => {
                    info!(service = %self.hosted.label, "the isolated service is tried again");
                    self.begin();
                }
            }
        }
    }

    async fn event(&mut self) -> Option<Event> {
        let env = self.hosted.env();
        let life = &mut self.life;
        let living = async {
            match life {
                None => pending().await,
                Some(life) => {
                    let ended = life.ended();
                    tokio::select! {
                        biased;
                        how = ended => Event::Ended(how),
                        look = life.look() => Event::Look(look),
                    }
                }
            }
        };
        let next = async {
            match self.next {
                None => pending().await,
                Some(Next::Restart(at)) => {
                    sleep_until(at).await;
                    Event::Restart
                }
                Some(Next::Again(at)) => {
                    sleep_until(at).await;
                    Event::Again
                }
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Event::Command),
            why = env.given_up(), if self.runs => Some(Event::GaveUp(why)),
            event = living => Some(event),
            event = next => Some(event),
        }
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may have stopped waiting for the answer.
        match command {
            Command::Start(done) => {
                if !self.runs {
                    if self.epoch.get() > 0 {
                        self.hosted.meters.restarted(Cause::Supervisor);
                    }
                    self.begin();
                }
                match &self.life {
                    Some(life) if !life.started => self.waiting.push(done),
                    Some(_) | None => drop(done.send(())),
                }
            }
            Command::Drain(by, done) => {
                self.hosted.env().close();
                let left = self.end(by).await;
                self.left.add(left);
                let _gone = done.send(());
            }
            Command::Stop(by, done) => {
                self.hosted.env().close();
                self.epoch.set(self.epoch.get() + 1);
                let left = self.end(by).await;
                self.left.add(left);
                if !matches!(self.hosted.state.standing(), Standing::Gone { .. }) {
                    self.hosted.state.stand(Standing::Stopped);
                }
                if let Err(left) = done.send(std::mem::take(&mut self.left)) {
                    // Whoever asked has stopped waiting; another one may ask.
                    self.left = left;
                }
            }
            Command::IsIdle(done) => {
                let idle = self.is_idle().await;
                let _gone = done.send(idle);
            }
        }
    }

    /// The service begins anew, with a clean slate.
    fn begin(&mut self) {
        self.epoch.set(self.epoch.get() + 1);
        self.left = Stopped::default();
        // No thread of this process runs it.
        self.hosted.begin(Arc::default(), Vec::new());
        self.hosted.state.stand(Standing::Supervised);
        self.history = History::default();
        self.runs = true;
        self.spawn();
    }

    /// Starts a process.
    fn spawn(&mut self) {
        self.next = None;
        let service = &self.hosted.label;
        match ChildProcess::begin(&self.program, &self.hosted, self.stop_within) {
            Ok(life) => {
                info!(%service, process = life.id(), "runs in a process of its own");
                self.life = Some(life);
            }
            Err(error) => self.lost(format!("the process can't be started: {error}")),
        }
    }

    async fn looked(&mut self, look: PollResult) {
        let patience = self.hosted.settings.handler_timeout.max(SILENT_MIN);
        let Some(life) = &mut self.life else { return };
        let process = life.id();
        match look {
            PollResult::Seen(answer) => {
                if !self.show(*answer) {
                    let why = format!("the process {process} talks nonsense");
                    return self.kill(why).await;
                }
                if self.life.as_ref().is_some_and(ChildProcess::is_late) {
                    let why = format!("the process {process} did not start in time");
                    self.kill(why).await;
                }
            }
            PollResult::Silent => {
                let silent = life.missed();
                if silent >= patience {
                    let silent = HumanDuration(silent);
                    let why = format!("the process {process} did not answer for {silent}");
                    self.kill(why).await;
                }
            }
            PollResult::Broken(error) => {
                let how = timeout(LOOK_WITHIN, life.ended()).await;
                match how {
                    Ok(how) => self.lost(format!("the process {process} ended: {how}")),
                    Err(_) => {
                        let why = format!("the process {process} talks nonsense: {error}");
                        self.kill(why).await;
                    }
                }
            }
        }
    }

    /// Shows what the process told. Says whether that made sense.
    fn show(&mut self, answer: Answer) -> bool {
        let Some(life) = &mut self.life else {
            return true;
        };
        life.answered();
        let Some(figures) = answer.figures else {
            return true;
        };
        let (started, gave_up) = (figures.started, figures.gave_up.clone());
        if !life.show(figures, &self.hosted) {
            return false;
        }
        let handled = self.hosted.meters.outcome_total(Outcome::Ok);
        if handled > std::mem::replace(&mut life.handled, handled) {
            self.history.success();
        }
        if started && !std::mem::replace(&mut life.started, true) {
            self.tried();
        }
        if let Some(why) = gave_up {
            // That is the next event.
            self.hosted.env().give_up(why);
        }
        true
    }

    async fn is_idle(&mut self) -> bool {
        let Some(life) = &mut self.life else {
            return false;
        };
        let look = life.is_idle().await;
        let idle = matches!(&look, PollResult::Seen(answer) if answer.idle);
        // It may be asked so often that there is no other look.
        self.looked(look).await;
        idle
    }

    /// Who waits for the service to be tried needn't any more.
    fn tried(&mut self) {
        for waiting in self.waiting.drain(..) {
            let _gone = waiting.send(());
        }
    }

    /// Ends a process that is not worth keeping.
    async fn kill(&mut self, why: String) {
        if let Some(life) = &self.life {
            life.kill().await;
        }
        self.lost(format!("{why}, and was killed"));
    }

    /// There is no process any more, though there should be.
    fn lost(&mut self, why: String) {
        self.life = None;
        StatsMirror::hide(&self.hosted);
        self.tried();
        let service = &self.hosted.label;
        self.hosted.note(Cause::Process, &why);
        if !self.hosted.env().charge(Cause::Process, &why) {
            // It has given up, which is the next event.
            warn!(%service, why, "a child process is gone");
            return;
        }
        let (now, random) = (self.hosted.env().origin.elapsed(), fastrand::f64());
        let (restart, history) =
            self.history
                .failure(&self.hosted.settings.restart.policy, now, random);
        self.history = history;
        let wait = match restart {
            Restart::Now => Duration::ZERO,
            Restart::After(wait) => wait,
        };
        warn!(%service, why, ?wait, "a child process is gone: another one is started");
        self.next = Some(Next::Restart(later(wait)));
    }

    async fn gave_up(&mut self, why: String) {
        let epoch = self.epoch.get();
        let stopped = self.end(later(self.stop_within)).await;
        // The app may stop before the next process begins, or be stopping already.
        self.left.abandoned.extend(stopped.abandoned);
        let again = give_up(&self.hosted, &self.up, epoch, why, 0);
        self.next = again.map(Next::Again);
    }

    /// Ends the process that there is, completely, with everything that it started.
    async fn end(&mut self, by: Instant) -> Stopped {
        self.runs = false;
        self.next = None;
        self.tried();
        let Some(life) = self.life.take() else {
            return Stopped::default();
        };
        let stopped = life.end(&self.hosted, by).await;
        StatsMirror::hide(&self.hosted);
        stopped
    }
}
