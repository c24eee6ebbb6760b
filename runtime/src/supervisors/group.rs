//! The supervisor of a group, or of the whole app: applies its strategy.
//!
//! While it restarts several children, what ends meanwhile waits, as an exit signal waits in
//! the mailbox of OTP's `supervisor`. Children that have nothing to do with each other
//! (`one_for_one`) don't wait for each other: OTP knows no back-off, here one may last half a
//! minute, and a child that fails for the first time is started again at once.

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

/// Why the app has failed, once it has.
pub(crate) type Failed = watch::Sender<Option<String>>;

/// A child and what its supervisor is to know of it.
pub(crate) struct GroupChild {
    pub(crate) child: Rc<dyn Child>,
    pub(crate) spec: ChildSpec,
}

/// The handle to a supervisor of several children.
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

/// Whom a supervisor tells that it has failed.
pub(crate) enum Parent {
    Supervisor(ParentLink),
    App(Failed),
}

/// What a group is.
pub(crate) struct GroupPolicy {
    pub(crate) name: Arc<str>,
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    /// How long its children may take to stop.
    pub(crate) stop_within: Duration,
}

impl Group {
    /// Supervises children that run already, as a task of the current thread.
    pub(crate) fn new(
        rules: GroupPolicy,
        members: Vec<GroupChild>,
        ended: mpsc::Receiver<ChildExit>,
        parent: Parent,
    ) -> Self {
        let (commands, received) = mpsc::channel(4);
        let epoch = Rc::new(Cell::new(0));
        let (children, specs) = members.into_iter().map(|m| (m.child, m.spec)).unzip();
        let name = rules.name.clone();
        let keeper = Keeper {
            supervisor: Supervisor::new(rules.strategy, rules.intensity, specs),
            rules,
            children,
            ended,
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
            task: tokio::task::spawn_local(keeper.run()),
        }
    }

    /// Ceases to supervise: its children stay as they are.
    pub(crate) fn cease(&self) {
        self.task.abort();
    }
}

impl Child for Group {
    fn name(&self) -> &str {
        &self.name
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

struct Keeper {
    rules: GroupPolicy,
    supervisor: Supervisor,
    children: Vec<Rc<dyn Child>>,
    ended: mpsc::Receiver<ChildExit>,
    commands: mpsc::Receiver<Command>,
    parent: Parent,
    epoch: Rc<Cell<u64>>,
    /// Children that are restarted each by itself, beside everything else.
    restarting: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    origin: Instant,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let ended = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    self.obey(command).await;
                    continue;
                }
                Some(()) = self.restarting.next() => continue,
                Some(ended) = self.ended.recv() => ended,
                else => return,
            };
            if ended.epoch != self.children[ended.child].epoch() {
                // It was stopped, and perhaps started again, since.
                continue;
            }
            let now = self.origin.elapsed();
            let (child, exit) = (ended.child, ended.exit);
            let decision = self.supervisor.ended(child, exit, now, fastrand::f64());
            self.say(&ended, &decision);
            let gives_up = matches!(decision, Decision::GiveUp { .. });
            let carried_out =
                carry_out(self.children.clone(), decision, self.rules.stop_within).boxed_local();
            if !gives_up && self.rules.strategy == Strategy::OneForOne {
                self.restarting.push(carried_out);
                continue;
            }
            // What is to be stopped is not to be started.
            self.restarting.clear();
            let command = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => Some(command),
                () = carried_out => None,
            };
            match command {
                // Children that were told to stop do so all the same.
                Some(command) => self.obey(command).await,
                None if gives_up => self.fail(&ended),
                None => {}
            }
        }
    }

    async fn obey(&mut self, command: Command) {
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
                // In reverse order, each completely before the next.
                for child in self.children.iter().rev() {
                    stopped.add(child.stop(by).await);
                }
                let _gone = done.send(stopped);
            }
        }
    }

    /// Says what was decided.
    fn say(&self, ended: &ChildExit, decision: &Decision) {
        let names = |children: &[usize]| {
            let names = children.iter().map(|child| self.children[*child].name());
            names.collect::<Vec<_>>().join(", ")
        };
        let (supervisor, why) = (&self.rules.name, &ended.why);
        let child = self.children[ended.child].name();
        match decision {
            Decision::Leave => warn!(%supervisor, child, why, "stays down"),
            Decision::Restart { stop, wait, start } => warn!(
                %supervisor, child, why, ?wait,
                stop = names(stop), start = names(start),
                "restarts"
            ),
            Decision::GiveUp { stop } => {
                error!(%supervisor, child, why, stop = names(stop), "gives up");
            }
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
            Parent::Supervisor(up) => up.tell(self.epoch.get(), Exit::Failed, why),
            Parent::App(failed) => {
                failed.send_replace(Some(format!("services {why}")));
            }
        }
    }
}

/// Stops, waits, starts: each child completely before the next.
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
