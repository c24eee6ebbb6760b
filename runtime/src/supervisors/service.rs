//! The supervisor of a service: keeps one run of it going.
//!
//! Within a run, the loops of instances, sources and bridges restart themselves, as often as
//! the service's intensity allows. Beyond that the service gives up: this supervisor ends the
//! run, and isolates the service or reports to its own supervisor.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::give_up::give_up;
use super::supervised::{AppDeadline, Command, ThreadReplaced};
use super::{ParentLink, StartGate, Supervised, Threads};
use crate::clock::later;
use crate::config::HumanDuration;
use crate::delivery::Delivery;
use crate::host::{
    Drain, ServiceActor, ServiceHandle, ServiceRun, Standing, Start, StopBy, Stopped,
};
use crate::metrics::Cause;
use crate::supervision::{Exit, RestartType, RestartWindow};

/// Time that a thread gets beyond the deadline of its actors before it counts as blocked.
const PATIENCE: Duration = Duration::from_millis(500);

/// Spawns the supervisor of a service that does not run yet, as a task of the current thread.
pub(crate) fn supervise_here(
    hosted: Arc<ServiceHandle>,
    threads: Rc<Threads>,
    gate: StartGate,
    parent: ParentLink,
) -> Rc<Supervised> {
    let (handle, link) = Supervised::new(hosted.clone(), gate);
    let task = ServiceTask {
        hosted,
        threads,
        parent,
        commands: link.commands,
        epoch: link.epoch,
        app_deadline: link.app_deadline,
        run: None,
        start_at: None,
        draining: false,
        unreported: Stopped::default(),
        blocks: RestartWindow::default(),
        origin: Instant::now(),
    };
    tokio::task::spawn_local(task.run());
    handle
}

/// One run of a service.
struct Run {
    env: Arc<ServiceRun>,
    actor: Addr<ServiceActor>,
    /// The supervisor above knows that the source has reached its end.
    end_reported: bool,
}

struct ServiceTask {
    hosted: Arc<ServiceHandle>,
    threads: Rc<Threads>,
    parent: ParentLink,
    commands: mpsc::Receiver<Command>,
    epoch: Rc<Cell<u64>>,
    app_deadline: AppDeadline,
    run: Option<Run>,
    /// Next start of a service that is isolated or has blocked its thread.
    start_at: Option<Instant>,
    /// The service is about to be stopped: no other run starts.
    draining: bool,
    /// Result of the last run, until a stop reports it.
    unreported: Stopped,
    /// Times at which the service blocked its thread without a message in flight. Each ends
    /// a run, so they are counted across runs.
    blocks: RestartWindow,
    origin: Instant,
}

enum Event {
    Command(Command),
    GaveUp(String),
    ReachedEnd,
    StartDue,
}

impl ServiceTask {
    async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            match event {
                Event::Command(Command::Start(done)) => self.start(Some(done)),
                Event::Command(Command::Drain(by, done)) => self.drain(by, done),
                Event::Command(Command::Stop(by, done)) => {
                    let stopped = self.stop(by).await;
                    if let Err(stopped) = done.send(stopped) {
                        // The caller stopped waiting: the next stop reports it.
                        self.unreported.add(stopped);
                    }
                }
                // Idleness is asked of child processes.
                Event::Command(Command::IsIdle(done)) => drop(done.send(false)),
                Event::Command(Command::ReplaceThread(notice)) => self.on_thread_replaced(notice),
                Event::GaveUp(why) => self.on_give_up(why).await,
                Event::ReachedEnd => self.on_end(),
                Event::StartDue => {
                    info!(service = %self.hosted.label, "starting the service again");
                    self.start(None);
                }
            }
        }
    }

    async fn next_event(&mut self) -> Option<Event> {
        let env = self.run.as_ref().map(|run| run.env.clone());
        let gave_up = async {
            match &env {
                Some(env) => env.given_up().await,
                None => std::future::pending().await,
            }
        };
        let reached_end = async {
            match &self.run {
                Some(run) if !run.end_reported => run.env.liveness.ended().await,
                Some(_) | None => std::future::pending().await,
            }
        };
        let start_due = async {
            match self.start_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Event::Command),
            // A service that gives up while it drains goes on draining and is stopped after.
            why = gave_up, if !self.draining => Some(Event::GaveUp(why)),
            () = reached_end => Some(Event::ReachedEnd),
            () = start_due => Some(Event::StartDue),
        }
    }

    fn start(&mut self, done: Option<oneshot::Sender<()>>) {
        if self.run.is_none() {
            if self.epoch.get() > 0 {
                self.hosted.meters.restarted(Cause::Supervisor);
            }
            self.start_run(Vec::new(), done);
        }
        // The drop of `done` answers for a service that runs already.
    }

    /// Starts a run. Answers `done` when the start has begun.
    fn start_run(&mut self, trials: Vec<Delivery>, done: Option<oneshot::Sender<()>>) {
        self.start_at = None;
        self.draining = false;
        self.unreported = Stopped::default();
        self.epoch.set(self.epoch.get() + 1);
        let worker = self.hosted.worker;
        let env = self.hosted.begin(self.threads.worker(worker), trials);
        let actor = ServiceActor::new(env.clone(), self.hosted.blueprint.clone());
        let actor = match self.threads.arbiter(worker) {
            None => actor.start(),
            Some(arbiter) => ServiceActor::start_in_arbiter(&arbiter, move |_| actor),
        };
        self.hosted.stand(Standing::Supervised, None);
        self.run = Some(Run {
            env: env.clone(),
            actor: actor.clone(),
            end_reported: false,
        });
        let hosted = self.hosted.clone();
        // A start may take long, so commands do not wait for it.
        tokio::task::spawn_local(async move {
            let begun = async {
                env.liveness.begun().await;
                if let Some(done) = done {
                    let _gone = done.send(());
                }
                std::future::pending().await
            };
            // On a blocked thread the actor never starts. The watchdog replaces the thread,
            // which closes this run, and another run starts on the new thread.
            tokio::select! {
                _gone = actor.send(Start) => {}
                () = env.closed() => {}
                () = begun => {}
            }
            hosted.end_first_start();
        });
    }

    fn drain(&mut self, by: Instant, done: oneshot::Sender<bool>) {
        self.draining = true;
        self.start_at = None;
        if let Some(run) = &self.run {
            let (env, actor) = (run.env.clone(), run.actor.clone());
            tokio::task::spawn_local(async move {
                let responsive = tokio::select! {
                    // A blocked thread is handled by the stop that follows.
                    drained = timeout_at(by + PATIENCE, actor.send(Drain(by))) => drained.is_ok(),
                    // The thread was replaced: nothing is in flight any more.
                    () = env.revoked() => true,
                };
                let _gone = done.send(responsive);
            });
        }
    }

    async fn stop(&mut self, by: Option<Instant>) -> Stopped {
        self.start_at = None;
        self.epoch.set(self.epoch.get() + 1);
        self.hosted.end_first_start();
        let by = by.unwrap_or_else(|| self.own_deadline());
        let mut stopped = self.stop_run(by).await;
        stopped.add(std::mem::take(&mut self.unreported));
        if !matches!(self.hosted.state.standing(), Standing::Gone { .. }) {
            self.hosted.stand(Standing::Stopped, None);
        }
        stopped
    }

    /// Returns the deadline of a stop that begins now.
    fn own_deadline(&self) -> Instant {
        later(self.hosted.settings.shutdown_timeout)
    }

    /// Ends the run, if there is one, completely.
    async fn stop_run(&mut self, by: Instant) -> Stopped {
        let Some(Run { env, actor, .. }) = self.run.take() else {
            return Stopped::default();
        };
        // The actor keeps the deadline itself; this one finds a blocked thread.
        let patience = by.max(Instant::now()) + PATIENCE;
        let mut stopped = Stopped::default();
        let app_deadline = &mut self.app_deadline;
        let past_app_deadline = async {
            sleep_until(app_deadline.before(by).await).await;
        };
        let graceful = tokio::select! {
            answer = timeout_at(patience, actor.send(StopBy(by))) => {
                stopped.stuck = answer.is_err();
                answer.ok().and_then(Result::ok)
            }
            // The thread was replaced.
            () = env.revoked() => None,
            () = past_app_deadline => None,
        };
        if let Some(graceful) = graceful {
            stopped = graceful;
            stopped.abandoned = env.abandoned();
            return stopped;
        }
        for (in_flight, delivery) in env.revoke() {
            stopped.requeued += usize::from(in_flight.is_none());
            delivery.nack_requeue();
        }
        stopped.abandoned = env.abandoned();
        for id in &stopped.abandoned {
            warn!(service = %env.label, id, "message abandoned: its handler did not end in time");
        }
        stopped
    }

    fn on_thread_replaced(&mut self, notice: ThreadReplaced) {
        let ThreadReplaced {
            env,
            trials,
            charged,
        } = notice;
        if self.draining {
            // The service is about to stop; the stop reports the leftovers of the run.
            return;
        }
        let Some(run) = self.run.take_if(|run| Arc::ptr_eq(&run.env, &env)) else {
            // The run was stopped since, and perhaps another one started. Dropping the
            // trials requeues them.
            return;
        };
        if *run.env.liveness.ended.borrow() {
            // A service that has reached its end does not start again.
            return;
        }
        if charged {
            let now = self.origin.elapsed();
            let restart = self.hosted.settings.restart;
            let is_temporary = restart.restart_type == RestartType::Temporary;
            if !self.blocks.restart(&restart.intensity, now) || is_temporary {
                let within = HumanDuration(restart.intensity.within);
                let why = match self.blocks.len() {
                    1 => "blocked its thread".to_owned(),
                    count => format!("blocked its thread {count} times within {within}"),
                };
                self.blocks = RestartWindow::default();
                let epoch = self.epoch.get();
                self.start_at = give_up(&self.hosted, &self.parent, epoch, why, 0);
                return;
            }
            // A back-off, so that other services of the thread get to run before it may be
            // blocked again.
            let nth = self.blocks.len() as u32 - 1;
            let wait = self
                .hosted
                .settings
                .restart
                .policy
                .backoff
                .delay(nth, fastrand::f64());
            self.start_at = Some(later(wait));
            return;
        }
        self.start_run(trials, None);
    }

    fn on_end(&mut self) {
        if let Some(run) = &mut self.run {
            run.end_reported = true;
            let why = "reached its end".to_owned();
            self.parent.report(self.epoch.get(), Exit::Normal, why);
        }
    }

    async fn on_give_up(&mut self, why: String) {
        let epoch = self.epoch.get();
        let stopped = self.stop_run(self.own_deadline()).await;
        self.start_at = give_up(&self.hosted, &self.parent, epoch, why, stopped.requeued);
        // The app may stop before the next run starts: that stop reports these.
        self.unreported.abandoned.extend(stopped.abandoned);
    }
}
