//! The supervisor of a group, or of the whole app: applies its strategy.
//!
//! While it restarts several children, further exits wait in its channel, as exit signals
//! wait in the mailbox of OTP's `supervisor`. With `one_for_one` the children do not wait for
//! each other. OTP has no back-off; here a back-off may last half a minute, and another child
//! that fails for the first time is restarted at once.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{Child, ChildExit, ParentLink, command};
use crate::config::HumanDuration;
use crate::host::Stopped;
use crate::supervision::{ChildSpec, Decision, Exit, Intensity, Strategy, Supervisor};

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
    Stop(Instant, oneshot::Sender<Stopped>),
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
    /// Time for each child to stop.
    pub(crate) stop_within: Duration,
}

impl Group {
    /// Supervises children that run already, as a task of the current thread.
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
            restarting: FuturesUnordered::new(),
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

    fn stop(&self, by: Instant) -> LocalBoxFuture<'_, Stopped> {
        let nothing = Stopped::default();
        command(&self.commands, nothing, move |done| Command::Stop(by, done))
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
    /// Restarts of single children under `one_for_one`, in parallel.
    restarting: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    origin: Instant,
}

impl GroupTask {
    async fn run(mut self) {
        loop {
            let exit = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    self.execute(command).await;
                    continue;
                }
                Some(()) = self.restarting.next() => continue,
                Some(exit) = self.exits.recv() => exit,
                else => return,
            };
            if exit.epoch != self.children[exit.child].epoch() {
                // The child was stopped since, and perhaps started again.
                continue;
            }
            let now = self.origin.elapsed();
            let decision = self
                .supervisor
                .ended(exit.child, exit.exit, now, fastrand::f64());
            self.log(&exit, &decision);
            let gives_up = matches!(decision, Decision::GiveUp { .. });
            let carried_out =
                carry_out(self.children.clone(), decision, self.policy.stop_within).boxed_local();
            if !gives_up && self.policy.strategy == Strategy::OneForOne {
                self.restarting.push(carried_out);
                continue;
            }
            // A pending restart must not start a child that this decision stops.
            self.restarting.clear();
            let command = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => Some(command),
                () = carried_out => None,
            };
            match command {
                // Children with a stop command stop even though `carried_out` was dropped.
                Some(command) => self.execute(command).await,
                None if gives_up => self.fail(&exit),
                None => {}
            }
        }
    }

    async fn execute(&mut self, command: Command) {
        self.restarting.clear();
        self.epoch.set(self.epoch.get() + 1);
        match command {
            Command::Start(done) => {
                for child in self.supervisor.restarted() {
                    self.children[child].start().await;
                }
                let _gone = done.send(());
            }
            Command::Stop(by, done) => {
                let mut stopped = Stopped::default();
                // In reverse order, one after the other.
                for child in self.children.iter().rev() {
                    stopped.add(child.stop(by).await);
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
            Decision::Leave => warn!(%supervisor, child, why, "child ended and stays down"),
            Decision::Restart { stop, wait, start } => warn!(
                %supervisor, child, why, after = ?wait,
                stop = names(stop), start = names(start),
                "child ended, restarting"
            ),
            Decision::GiveUp { stop } => error!(
                %supervisor, child, why, stop = names(stop),
                "child ended too often, the supervisor gives up"
            ),
        }
    }

    fn fail(&self, last: &ChildExit) {
        let (count, intensity) = self.supervisor.restarts();
        let within = HumanDuration(intensity.within);
        let child = self.children[last.child].name();
        let why = format!(
            "failed {count} times within {within}, at last {child}: {}",
            last.why
        );
        match &self.parent {
            Parent::Supervisor(parent) => parent.report(self.epoch.get(), Exit::Failed, why),
            Parent::App(failed) => {
                failed.send_replace(Some(format!("services {why}")));
            }
        }
    }
}

/// Stops children, waits, and starts children, one after the other.
async fn carry_out(children: Vec<Rc<dyn Child>>, decision: Decision, within: Duration) {
    let (stop, wait, start) = match decision {
        Decision::Leave => return,
        Decision::Restart { stop, wait, start } => (stop, wait, start),
        Decision::GiveUp { stop } => (stop, Duration::ZERO, Vec::new()),
    };
    for child in stop {
        children[child].stop(Instant::now() + within).await;
    }
    if !wait.is_zero() {
        sleep(wait).await;
    }
    for child in start {
        children[child].start().await;
    }
}
