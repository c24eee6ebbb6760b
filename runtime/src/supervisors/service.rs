//! The supervisor of a service: keeps one life of it running.
//!
//! Instances, the source and bridges are built anew inside of a life, by their own
//! loops, as often as the service's intensity bears. When it doesn't, this supervisor
//! ends the life, and isolates the service or tells its own supervisor.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use futures_util::future::{FutureExt, LocalBoxFuture};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::give_up::give_up;
use super::{Child, ParentLink, Supervised, Threads, command};
use crate::clock::later;
use crate::config::HumanDuration;
use crate::delivery::Delivery;
use crate::host::{
    Drain, ServiceActor, ServiceHandle, ServiceRun, Standing, Start, StopBy, Stopped,
};
use crate::metrics::Cause;
use crate::supervision::RestartWindow;

/// What a thread gets, beyond a deadline that its actors keep themselves, before it
/// counts as blocked.
const PATIENCE: Duration = Duration::from_millis(500);

/// The handle to a service's supervisor.
pub(crate) struct ServiceSupervisor {
    pub(crate) hosted: Arc<ServiceHandle>,
    commands: mpsc::Sender<Command>,
    epoch: Rc<Cell<u64>>,
}

enum Command {
    Start(oneshot::Sender<()>),
    Drain(Instant, oneshot::Sender<bool>),
    Stop(Instant, oneshot::Sender<Stopped>),
    /// The thread was given up: go on with another one.
    Move(ThreadReplaced),
}

/// What there is to know of a thread that was given up.
pub(crate) struct ThreadReplaced {
    /// The life that ended there: if another one has begun since, that one goes on.
    pub(crate) env: Arc<ServiceRun>,
    /// The first instance is to handle these one at a time before anything else.
    pub(crate) trials: Vec<Delivery>,
    /// The service blocked the thread with no message in hand: its own failure.
    pub(crate) charged: bool,
}

impl ThreadReplaced {
    /// A life that is to be followed by another one, and that's all.
    pub(crate) fn of(env: Arc<ServiceRun>) -> Self {
        Self {
            env,
            trials: Vec::new(),
            charged: false,
        }
    }
}

impl ServiceSupervisor {
    /// A supervisor of a service that doesn't run yet, as a task of the current thread.
    pub(crate) fn new(
        hosted: Arc<ServiceHandle>,
        threads: Rc<Threads>,
        stop_within: Duration,
        up: ParentLink,
    ) -> Rc<Self> {
        let (commands, received) = mpsc::channel(8);
        let epoch = Rc::new(Cell::new(0));
        let keeper = SupervisorTask {
            hosted: hosted.clone(),
            threads,
            stop_within,
            up,
            commands: received,
            epoch: epoch.clone(),
            life: None,
            again_at: None,
            draining: false,
            left: Stopped::default(),
            blocks: RestartWindow::default(),
            origin: Instant::now(),
        };
        tokio::task::spawn_local(keeper.run());
        Rc::new(Self {
            hosted,
            commands,
            epoch,
        })
    }

    /// Goes on with another thread, as this one was given up.
    pub(crate) async fn move_on(&self, how: ThreadReplaced) {
        // Who is gone needs no thread.
        let _gone = self.commands.send(Command::Move(how)).await;
    }
}

impl Child for ServiceSupervisor {
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

impl Supervised for ServiceSupervisor {
    fn hosted(&self) -> &Arc<ServiceHandle> {
        &self.hosted
    }

    fn drain(&self, by: Instant) -> LocalBoxFuture<'_, bool> {
        // One that doesn't run answers nothing.
        command(&self.commands, move |done| Command::Drain(by, done))
            .map(|turns| turns.unwrap_or(true))
            .boxed_local()
    }

    fn is_idle(&self) -> LocalBoxFuture<'_, bool> {
        async { false }.boxed_local()
    }
}

/// One life of a service.
struct Run {
    env: Arc<ServiceRun>,
    actor: Addr<ServiceActor>,
}

struct SupervisorTask {
    hosted: Arc<ServiceHandle>,
    threads: Rc<Threads>,
    stop_within: Duration,
    up: ParentLink,
    commands: mpsc::Receiver<Command>,
    epoch: Rc<Cell<u64>>,
    life: Option<Run>,
    /// When a service that is isolated, or has blocked its thread, is started again.
    again_at: Option<Instant>,
    /// It is about to be stopped: no other life begins.
    draining: bool,
    /// What the last life left, as far as nobody was told.
    left: Stopped,
    /// The times that it blocked its thread with no message in hand: each ends a life,
    /// and they count over lives.
    blocks: RestartWindow,
    origin: Instant,
}

enum Event {
    Command(Command),
    GaveUp(String),
    Again,
}

impl SupervisorTask {
    async fn run(mut self) {
        while let Some(event) = self.next().await {
            match event {
                Event::Command(Command::Start(done)) => self.start(Some(done)),
                Event::Command(Command::Drain(by, done)) => self.drain(by, done),
                Event::Command(Command::Stop(by, done)) => {
                    let stopped = self.stop(by).await;
                    if let Err(stopped) = done.send(stopped) {
                        // Whoever asked has stopped waiting; another one may ask.
                        self.left.add(stopped);
                    }
                }
                Event::Command(Command::Move(how)) => self.move_on(how),
                Event::GaveUp(why) => self.gave_up(why).await,
                Event::Again => {
                    info!(service = %self.hosted.label, "the service is started again");
                    self.start(None);
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Event> {
        let env = self.life.as_ref().map(|life| life.env.clone());
        let gave_up = async {
            match &env {
                Some(env) => env.given_up().await,
                None => std::future::pending().await,
            }
        };
        let again = async {
            match self.again_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Event::Command),
            // One that gives up while it drains goes on draining, and is stopped: its end
            // is not cut short, and nothing begins again.
            why = gave_up, if !self.draining => Some(Event::GaveUp(why)),
            () = again => Some(Event::Again),
        }
    }

    fn start(&mut self, done: Option<oneshot::Sender<()>>) {
        if self.life.is_none() {
            if self.epoch.get() > 0 {
                self.hosted.meters.restarted(Cause::Supervisor);
            }
            self.begin(Vec::new(), done);
        }
        // One that runs already has been tried.
    }

    /// Begins a life. `done` is told when it has been tried.
    fn begin(&mut self, trials: Vec<Delivery>, done: Option<oneshot::Sender<()>>) {
        self.again_at = None;
        self.draining = false;
        self.left = Stopped::default();
        self.epoch.set(self.epoch.get() + 1);
        let worker = self.hosted.worker;
        let env = self.hosted.begin(self.threads.worker(worker), trials);
        let actor = ServiceActor::new(env.clone(), self.hosted.blueprint.clone());
        let actor = match self.threads.arbiter(worker) {
            None => actor.start(),
            Some(arbiter) => ServiceActor::start_in_arbiter(&arbiter, move |_| actor),
        };
        self.hosted.state.stand(Standing::Supervised);
        self.life = Some(Run {
            env: env.clone(),
            actor: actor.clone(),
        });
        // It may take long: commands needn't wait for it.
        tokio::task::spawn_local(async move {
            // On a thread that is blocked it doesn't start: that is given up, which closes
            // this life, and the service begins again on another one.
            tokio::select! {
                _gone = actor.send(Start) => {}
                () = env.closed() => {}
            }
            if let Some(done) = done {
                let _gone = done.send(());
            }
        });
    }

    fn drain(&mut self, by: Instant, done: oneshot::Sender<bool>) {
        self.draining = true;
        self.again_at = None;
        if let Some(life) = &self.life {
            let (env, actor) = (life.env.clone(), life.actor.clone());
            tokio::task::spawn_local(async move {
                let turns = tokio::select! {
                    // One whose thread is blocked is dealt with when it is to stop.
                    drained = timeout_at(by + PATIENCE, actor.send(Drain(by))) => drained.is_ok(),
                    // It has another thread, and nothing in hand any more.
                    () = env.fenced() => true,
                };
                let _gone = done.send(turns);
            });
        }
    }

    async fn stop(&mut self, by: Instant) -> Stopped {
        self.again_at = None;
        self.epoch.set(self.epoch.get() + 1);
        let mut stopped = self.end(by).await;
        stopped.add(std::mem::take(&mut self.left));
        if !matches!(self.hosted.state.standing(), Standing::Gone { .. }) {
            self.hosted.state.stand(Standing::Stopped);
        }
        stopped
    }

    /// Ends the life that there is, completely.
    async fn end(&mut self, by: Instant) -> Stopped {
        let Some(Run { env, actor }) = self.life.take() else {
            return Stopped::default();
        };
        // The actor keeps the deadline itself; this is for a thread that doesn't turn.
        let patience = by.max(Instant::now()) + PATIENCE;
        let mut stopped = Stopped::default();
        let in_order = tokio::select! {
            answer = timeout_at(patience, actor.send(StopBy(by))) => {
                stopped.stuck = answer.is_err();
                answer.ok().and_then(Result::ok)
            }
            // The thread was given up meanwhile, or before.
            () = env.fenced() => None,
        };
        if let Some(in_order) = in_order {
            stopped = in_order;
            stopped.abandoned = env.abandoned();
            return stopped;
        }
        for (in_flight, delivery) in env.fence() {
            stopped.given_back += usize::from(in_flight.is_none());
            delivery.nack_requeue();
        }
        stopped.abandoned = env.abandoned();
        for id in &stopped.abandoned {
            warn!(service = %env.label, id, "abandoned: its thread is blocked");
        }
        stopped
    }

    fn move_on(&mut self, how: ThreadReplaced) {
        let ThreadReplaced {
            env,
            trials,
            charged,
        } = how;
        if self.draining {
            // What is about to stop needn't start again. What its life has left is told
            // when it stops.
            return;
        }
        let Some(life) = self.life.take_if(|life| Arc::ptr_eq(&life.env, &env)) else {
            // It was stopped, and perhaps started again, since. The trials are dropped, and
            // so given back.
            return;
        };
        if *life.env.pulse.ended.borrow() {
            // What has ended mustn't start again.
            return;
        }
        if charged {
            let now = self.origin.elapsed();
            if !self
                .blocks
                .restart(&self.hosted.settings.restart.intensity, now)
            {
                let within = HumanDuration(self.hosted.settings.restart.intensity.within);
                let count = self.blocks.len();
                let why = format!("blocked its thread {count} times within {within}");
                self.blocks = RestartWindow::default();
                let epoch = self.epoch.get();
                self.again_at = give_up(&self.hosted, &self.up, epoch, why, 0);
                return;
            }
            // Those who shared the thread get theirs before it may be blocked again.
            let nth = self.blocks.len() as u32 - 1;
            let wait = self
                .hosted
                .settings
                .restart
                .policy
                .backoff
                .delay(nth, fastrand::f64());
            self.again_at = Some(later(wait));
            return;
        }
        self.begin(trials, None);
    }

    async fn gave_up(&mut self, why: String) {
        let epoch = self.epoch.get();
        let stopped = self.end(Instant::now() + self.stop_within).await;
        self.again_at = give_up(&self.hosted, &self.up, epoch, why, stopped.given_back);
        // The app may stop before the next life begins, or be stopping already.
        self.left.abandoned.extend(stopped.abandoned);
    }
}
