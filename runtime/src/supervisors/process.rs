//! The supervisor of a service that runs in a child process: keeps one process running.
//!
//! The child process handles the failures of its messages and instances itself. This
//! supervisor counts process failures: a process that exits, falls silent or breaks the
//! protocol. Such a failure blames no message; the service's intensity and back-off apply. A
//! service that gives up inside its process reports that, and the supervisor applies the
//! give-up policy here.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::pending;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::child_process::{ANSWER_WITHIN, ChildProcess, PollResult};
use super::give_up::give_up;
use super::supervised::{Command, TaskLink};
use super::{ParentLink, StartGate, Supervised};
use crate::child_process::{Answer, RespawnCommand, StatsMirror};
use crate::clock::later;
use crate::config::HumanDuration;
use crate::host::{ServiceHandle, Standing, Stopped};
use crate::metrics::{Cause, Outcome};
use crate::process::ProcessExit;
use crate::supervision::{Exit, History};

/// Shortest silence that gets a process killed: a busy machine may stall for less.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// Spawns the supervisor of a service that does not run yet, as a task of the current thread.
pub(crate) fn supervise_apart(
    hosted: Arc<ServiceHandle>,
    program: Rc<RespawnCommand>,
    app_stops_within: Duration,
    gate: StartGate,
    parent: ParentLink,
) -> Rc<Supervised> {
    let (
        handle,
        TaskLink {
            commands, epoch, ..
        },
    ) = Supervised::new(hosted.clone(), gate);
    let task = ProcessTask {
        hosted,
        program,
        app_stops_within,
        parent,
        commands,
        epoch,
        enabled: false,
        process: None,
        scheduled: None,
        history: History::default(),
        end_reported: false,
        unreported: Stopped::default(),
    };
    tokio::task::spawn_local(task.run());
    handle
}

/// The next step while no process runs.
enum Scheduled {
    /// Replace the failed process.
    Restart(Instant),
    /// Try the isolated service again.
    EndIsolation(Instant),
}

struct ProcessTask {
    hosted: Arc<ServiceHandle>,
    program: Rc<RespawnCommand>,
    /// Time of the app to stop within: a child of an app that crashed may need that long.
    app_stops_within: Duration,
    parent: ParentLink,
    commands: mpsc::Receiver<Command>,
    epoch: Rc<Cell<u64>>,
    /// Whether the service should have a process, now or after a back-off.
    enabled: bool,
    process: Option<ChildProcess>,
    scheduled: Option<Scheduled>,
    history: History,
    /// The supervisor above knows that the source has reached its end.
    end_reported: bool,
    /// Result of a drain or a give-up, until a stop reports it.
    unreported: Stopped,
}

enum Event {
    Command(Command),
    Exited(ProcessExit),
    Polled(PollResult),
    GaveUp(String),
    ReachedEnd,
    Restart,
    EndIsolation,
}

impl ProcessTask {
    async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            match event {
                Event::Command(command) => self.execute(command).await,
                Event::Exited(exit) => self.on_exit(&exit),
                Event::Polled(result) => self.on_poll(result).await,
                Event::GaveUp(why) => self.on_give_up(why).await,
                Event::ReachedEnd => self.on_end(),
                Event::Restart => {
                    self.hosted.meters.restarted(Cause::Process);
                    self.spawn();
                }
                Event::EndIsolation => {
                    info!(service = %self.hosted.label, "starting the isolated service again");
                    self.start();
                }
            }
        }
    }

    async fn next_event(&mut self) -> Option<Event> {
        let env = self.hosted.env();
        let process = &mut self.process;
        let of_process = async {
            match process {
                None => pending().await,
                Some(process) => {
                    let exited = process.exited();
                    tokio::select! {
                        biased;
                        exit = exited => Event::Exited(exit),
                        result = process.poll() => Event::Polled(result),
                    }
                }
            }
        };
        let scheduled = async {
            match self.scheduled {
                None => pending().await,
                Some(Scheduled::Restart(at)) => {
                    sleep_until(at).await;
                    Event::Restart
                }
                Some(Scheduled::EndIsolation(at)) => {
                    sleep_until(at).await;
                    Event::EndIsolation
                }
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Event::Command),
            why = env.given_up(), if self.enabled => Some(Event::GaveUp(why)),
            () = env.liveness.ended(), if self.enabled && !self.end_reported => Some(Event::ReachedEnd),
            event = of_process => Some(event),
            event = scheduled => Some(event),
        }
    }

    /// Executes a command and answers it; the caller may have stopped waiting.
    async fn execute(&mut self, command: Command) {
        match command {
            Command::Start(done) => {
                if !self.enabled {
                    if self.epoch.get() > 0 {
                        self.hosted.meters.restarted(Cause::Supervisor);
                    }
                    self.start();
                }
                // The process has begun to start.
                let _gone = done.send(());
            }
            Command::Drain(by, done) => {
                self.hosted.env().close();
                let stopped = self.stop_process(by).await;
                self.unreported.add(stopped);
                // A blocked thread of the child process blocks no thread of this process.
                let _gone = done.send(true);
            }
            Command::Stop(by, done) => {
                self.hosted.env().close();
                self.epoch.set(self.epoch.get() + 1);
                let by = by.unwrap_or_else(|| self.own_deadline());
                let stopped = self.stop_process(by).await;
                self.unreported.add(stopped);
                if !matches!(self.hosted.state.standing(), Standing::Gone { .. }) {
                    self.hosted.stand(Standing::Stopped, None);
                }
                if let Err(stopped) = done.send(std::mem::take(&mut self.unreported)) {
                    // The caller stopped waiting: the next stop reports it.
                    self.unreported = stopped;
                }
            }
            Command::IsIdle(done) => {
                let idle = self.is_idle().await;
                let _gone = done.send(idle);
            }
            // No thread of this process runs the service.
            Command::ReplaceThread(_) => {}
        }
    }

    /// Starts the service with a new failure history.
    fn start(&mut self) {
        self.epoch.set(self.epoch.get() + 1);
        self.unreported = Stopped::default();
        // No worker thread of this process runs the service.
        self.hosted.begin(Arc::default(), Vec::new());
        self.hosted.stand(Standing::Supervised, None);
        self.history = History::default();
        self.end_reported = false;
        self.enabled = true;
        self.spawn();
    }

    /// Starts a process.
    fn spawn(&mut self) {
        self.scheduled = None;
        let service = &self.hosted.label;
        match ChildProcess::spawn(&self.program, &self.hosted, self.app_stops_within) {
            Ok(process) => {
                info!(%service, process = process.id(), "runs in a process of its own");
                self.process = Some(process);
            }
            Err(error) => self.on_failure(format!("the process can't be started: {error}")),
        }
    }

    fn on_exit(&mut self, exit: &ProcessExit) {
        let id = self.process.as_ref().map_or(0, ChildProcess::id);
        self.on_failure(format!("the process {id} ended: {exit}"));
    }

    async fn on_poll(&mut self, result: PollResult) {
        let silence_max = self.hosted.settings.handler_timeout.max(SILENCE_MIN);
        let Some(process) = &mut self.process else {
            return;
        };
        let id = process.id();
        match result {
            PollResult::Answered(answer) => {
                if !self.apply(*answer) {
                    let why = format!("the process {id} sent statistics of another service");
                    return self.kill(why).await;
                }
                if self.process.as_ref().is_some_and(ChildProcess::is_late) {
                    let why = format!("the process {id} did not start in time");
                    self.kill(why).await;
                }
            }
            PollResult::Silent => {
                let silence = process.on_silence();
                if silence >= silence_max {
                    let silence = HumanDuration(silence);
                    let why = format!("the process {id} did not answer for {silence}");
                    self.kill(why).await;
                }
            }
            PollResult::Broken(error) => match timeout(ANSWER_WITHIN, process.exited()).await {
                Ok(exit) => self.on_exit(&exit),
                Err(_) => {
                    let why = format!("the process {id} broke the protocol: {error}");
                    self.kill(why).await;
                }
            },
        }
    }

    /// Applies an answer of the process. Returns false if its statistics do not fit the
    /// service.
    fn apply(&mut self, answer: Answer) -> bool {
        let Some(process) = &mut self.process else {
            return true;
        };
        process.on_answer();
        let Some(stats) = answer.stats else {
            return true;
        };
        let (started, gave_up) = (stats.started, stats.gave_up.clone());
        if !process.apply(stats, &self.hosted) {
            return false;
        }
        let handled = self.hosted.meters.outcome_total(Outcome::Ok);
        if handled > std::mem::replace(&mut process.handled, handled) {
            self.history.success();
        }
        if started && !std::mem::replace(&mut process.started, true) {
            self.hosted.end_first_start();
        }
        if let Some(why) = gave_up {
            // `next_event` returns this as `Event::GaveUp`.
            self.hosted.env().give_up(why);
        }
        true
    }

    async fn is_idle(&mut self) -> bool {
        let Some(process) = &mut self.process else {
            return self.has_ended();
        };
        let result = process.poll_idle().await;
        let idle = matches!(&result, PollResult::Answered(answer) if answer.idle);
        // Frequent questions of this kind may leave no time for other polls.
        self.on_poll(result).await;
        idle
    }

    /// Whether the service is a source that has reached its end.
    fn has_ended(&self) -> bool {
        *self.hosted.env().liveness.ended.borrow()
    }

    fn on_end(&mut self) {
        self.end_reported = true;
        let why = "reached its end".to_owned();
        self.parent.report(self.epoch.get(), Exit::Normal, why);
    }

    /// Returns the deadline of a stop that begins now.
    fn own_deadline(&self) -> Instant {
        later(self.hosted.settings.shutdown_timeout)
    }

    /// Kills a failed process.
    async fn kill(&mut self, why: String) {
        if let Some(process) = &self.process {
            process.kill().await;
        }
        self.on_failure(format!("{why}, and was killed"));
    }

    /// Counts the failure of the process and schedules the next one, unless the service has
    /// failed too often.
    fn on_failure(&mut self, why: String) {
        self.process = None;
        StatsMirror::clear(&self.hosted);
        self.hosted.end_first_start();
        let service = &self.hosted.label;
        if self.has_ended() {
            info!(%service, why, "child process ended after its source had ended");
            return;
        }
        self.hosted.note(Cause::Process, &why);
        self.hosted.down(Some(&why));
        if !self.hosted.env().record_failure(Cause::Process, &why) {
            // The service gives up: `next_event` returns `Event::GaveUp`.
            warn!(%service, why, "child process failed");
            return;
        }
        let (now, random) = (self.hosted.env().origin.elapsed(), fastrand::f64());
        let (restart, history) =
            self.history
                .failure(&self.hosted.settings.restart.policy, now, random);
        self.history = history;
        let after = restart.wait();
        warn!(%service, why, ?after, "child process failed, restarting");
        self.scheduled = Some(Scheduled::Restart(later(after)));
    }

    async fn on_give_up(&mut self, why: String) {
        let epoch = self.epoch.get();
        let stopped = self.stop_process(self.own_deadline()).await;
        // The app may stop before the next process starts: that stop reports these.
        self.unreported.abandoned.extend(stopped.abandoned);
        let again = give_up(&self.hosted, &self.parent, epoch, why, 0);
        self.scheduled = again.map(Scheduled::EndIsolation);
    }

    /// Stops the process, if one runs, and everything that it started.
    async fn stop_process(&mut self, by: Instant) -> Stopped {
        self.enabled = false;
        self.scheduled = None;
        self.hosted.end_first_start();
        let Some(process) = self.process.take() else {
            return Stopped::default();
        };
        let stopped = process.stop(&self.hosted, by).await;
        StatsMirror::clear(&self.hosted);
        stopped
    }
}
