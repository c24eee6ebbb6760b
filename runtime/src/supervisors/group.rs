//! The supervisor of a group, or of the whole app: applies its strategy.
//!
//! While it stops and starts children, further exits wait in its channel, as exit signals wait
//! in the mailbox of OTP's `supervisor`. Children start in order, but none waits until the
//! start of another one has ended. OTP has no back-off; here a back-off may last half a minute.
//! Meanwhile the siblings run on, and another child that fails is restarted.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, warn};

use super::{Child, ChildExit, ParentLink, command};
use crate::clock::later;
use crate::config::HumanDuration;
use crate::host::Stopped;
use crate::supervision::{ChildSpec, Decision, Exit, Intensity, Strategy, Supervisor};

/// Maximum time for all children that start together to begin their starts one after the
/// other. Only a blocked thread takes longer, and the children after it must not wait for it.
const BEGIN_WITHIN: Duration = Duration::from_millis(100);

/// Set to the reason when the app has failed.
pub(crate) type Failed = watch::Sender<Option<String>>;

/// A child and its specification.
pub(crate) struct GroupChild {
    pub(crate) child: Rc<dyn Child>,
    pub(crate) spec: ChildSpec,
}

/// Handle to the supervisor of several children.
pub(crate) struct Group {
    name: Arc<str>,
    commands: mpsc::Sender<Command>,
    epoch: Rc<Cell<u64>>,
    task: tokio::task::JoinHandle<()>,
}

enum Command {
    Start(oneshot::Sender<()>),
    Stop(oneshot::Sender<Stopped>),
}

/// The receiver of a supervisor's own failure.
pub(crate) enum Parent {
    Supervisor(ParentLink),
    App(Failed),
}

/// The settings of a group.
pub(crate) struct GroupPolicy {
    pub(crate) name: Arc<str>,
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    /// Number of restarts so far, for operators.
    pub(crate) restarts: Arc<AtomicU64>,
}

impl Group {
    /// Supervises children that don't run yet, as a task of the current thread.
    pub(crate) fn new(
        policy: GroupPolicy,
        members: Vec<GroupChild>,
        exits: mpsc::Receiver<ChildExit>,
        parent: Parent,
    ) -> Self {
        let (commands, received) = mpsc::channel(4);
        let epoch = Rc::new(Cell::new(0));
        let (children, specs) = members.into_iter().map(|m| (m.child, m.spec)).unzip();
        let name = policy.name.clone();
        let task = GroupTask {
            supervisor: Supervisor::new(policy.strategy, policy.intensity, specs),
            policy,
            children,
            exits,
            commands: received,
            parent,
            epoch: epoch.clone(),
            waiting: Vec::new(),
            origin: Instant::now(),
        };
        Self {
            name,
            commands,
            epoch,
            task: tokio::task::spawn_local(task.run()),
        }
    }

    /// Ends the supervision; the children stay as they are.
    pub(crate) fn cease(&self) {
        self.task.abort();
    }
}

impl Child for Group {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self) -> LocalBoxFuture<'_, ()> {
        command(&self.commands, (), Command::Start)
    }

    fn stop(&self) -> LocalBoxFuture<'_, Stopped> {
        command(&self.commands, Stopped::default(), Command::Stop)
    }

    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}

struct GroupTask {
    policy: GroupPolicy,
    supervisor: Supervisor,
    children: Vec<Rc<dyn Child>>,
    exits: mpsc::Receiver<ChildExit>,
    commands: mpsc::Receiver<Command>,
    parent: Parent,
    epoch: Rc<Cell<u64>>,
    /// Children that wait for their restart, and its time.
    waiting: Vec<(usize, Instant)>,
    origin: Instant,
}

enum Event {
    Command(Command),
    RestartDue(usize),
    Exit(ChildExit),
}

impl GroupTask {
    async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            match event {
                Event::Command(command) => self.execute(command).await,
                Event::RestartDue(child) => self.restart(child).await,
                // The child was stopped since, and perhaps started again.
                Event::Exit(exit) if exit.epoch != self.children[exit.child].epoch() => {}
                Event::Exit(exit) => self.on_exit(exit).await,
            }
        }
    }

    async fn next_event(&mut self) -> Option<Event> {
        let due = self.waiting.iter().min_by_key(|(_, at)| *at).copied();
        let restart_due = async {
            match due {
                Some((child, at)) => {
                    sleep_until(at).await;
                    child
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Event::Command),
            child = restart_due => Some(Event::RestartDue(child)),
            Some(exit) = self.exits.recv() => Some(Event::Exit(exit)),
        }
    }

    async fn on_exit(&mut self, exit: ChildExit) {
        let now = self.origin.elapsed();
        let decision = self
            .supervisor
            .ended(exit.child, exit.exit, now, fastrand::f64());
        self.log(&exit, &decision);
        match decision {
            Decision::Leave | Decision::Join => {}
            Decision::Restart { wait } if wait.is_zero() => self.restart(exit.child).await,
            Decision::Restart { wait } => self.waiting.push((exit.child, later(wait))),
            Decision::GiveUp { stop } => self.give_up(&exit, stop).await,
        }
    }

    async fn restart(&mut self, child: usize) {
        let steps = self.supervisor.restart(child);
        // These children start now, whatever they waited for.
        self.waiting
            .retain(|(child, _)| !steps.start.contains(child));
        self.policy.restarts.fetch_add(1, Relaxed);
        self.carry_out(steps.stop, steps.start).await;
    }

    /// Stops children and starts children, in these orders. Returns false if a command put an
    /// end to that.
    async fn carry_out(&mut self, stop: Vec<usize>, start: Vec<usize>) -> bool {
        let children = self.children.clone();
        let command = tokio::select! {
            biased;
            command = self.commands.recv() => command,
            () = async {
                for child in stop {
                    children[child].stop().await;
                }
                start_in_order(&children, start).await;
            } => return true,
        };
        // Children with a stop command stop even though the future was dropped.
        if let Some(command) = command {
            self.execute(command).await;
        }
        false
    }

    async fn execute(&mut self, command: Command) {
        self.waiting.clear();
        self.epoch.set(self.epoch.get() + 1);
        match command {
            Command::Start(done) => {
                if self.epoch.get() > 1 {
                    self.policy.restarts.fetch_add(1, Relaxed);
                }
                let start = self.supervisor.restarted();
                start_in_order(&self.children, start).await;
                let _gone = done.send(());
            }
            Command::Stop(done) => {
                let mut stopped = Stopped::default();
                for child in self.supervisor.to_stop() {
                    stopped.add(self.children[child].stop().await);
                }
                let _gone = done.send(stopped);
            }
        }
    }

    fn log(&self, exit: &ChildExit, decision: &Decision) {
        let names = |children: &[usize]| {
            let names = children.iter().map(|child| self.children[*child].name());
            names.collect::<Vec<_>>().join(", ")
        };
        let (supervisor, why) = (&self.policy.name, &exit.why);
        let child = self.children[exit.child].name();
        match decision {
            // A child that reached its end has logged it.
            Decision::Leave if exit.exit == Exit::Normal => {}
            Decision::Leave => warn!(%supervisor, child, why, "child ended and stays down"),
            Decision::Join => warn!(
                %supervisor, child, why,
                "child ended, restarting it with its group"
            ),
            Decision::Restart { wait } => {
                let scope: Vec<usize> = self.supervisor.scope(exit.child).collect();
                warn!(
                    %supervisor, child, why, after = ?wait, restart = names(&scope),
                    "child ended, restarting"
                );
            }
            Decision::GiveUp { stop } => error!(
                %supervisor, child, why, stop = names(stop),
                "child ended too often, the supervisor gives up"
            ),
        }
    }

    /// Stops the children and reports the failure to the parent. The app learns it first: it
    /// ends, and that stops all services within its own time.
    async fn give_up(&mut self, last: &ChildExit, stop: Vec<usize>) {
        let (count, intensity) = self.supervisor.restarts();
        let within = HumanDuration(intensity.within);
        let child = self.children[last.child].name();
        let why = format!(
            "failed {count} times within {within}, at last {child}: {}",
            last.why
        );
        // A waiting child must not start any more.
        self.waiting.clear();
        if let Parent::App(failed) = &self.parent {
            failed.send_replace(Some(format!("services {why}")));
        }
        if self.carry_out(stop, Vec::new()).await
            && let Parent::Supervisor(parent) = &self.parent
        {
            parent.report(self.epoch.get(), Exit::Failed, why);
        }
    }
}

/// Begins the starts of children, one after the other.
async fn start_in_order(children: &[Rc<dyn Child>], start: Vec<usize>) {
    let by = Instant::now() + BEGIN_WITHIN;
    for child in start {
        let _begun = timeout_at(by, children[child].start()).await;
    }
}
