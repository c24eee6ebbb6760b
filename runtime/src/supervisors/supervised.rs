//! The handle of a service's supervisor. The supervisor is a task: of `service` for a
//! service in this process, or of `process` for one in a child process.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Child, StartGate, command};
use crate::delivery::Delivery;
use crate::host::{ServiceHandle, ServiceRun, Stopped};

/// Handle to the supervisor of a service.
pub(crate) struct Supervised {
    pub(crate) hosted: Arc<ServiceHandle>,
    commands: mpsc::Sender<Command>,
    epoch: Rc<Cell<u64>>,
    /// The app's deadline, once it stops.
    app_deadline: watch::Sender<Option<Instant>>,
    gate: Rc<StartGate>,
    /// The start that waits at the gate.
    waiting: Cell<Option<JoinHandle<()>>>,
}

pub(super) enum Command {
    /// Answered when the start has begun.
    Start(oneshot::Sender<()>),
    Drain(Instant, oneshot::Sender<bool>),
    /// Without a deadline, the service has its own time.
    Stop(Option<Instant>, oneshot::Sender<Stopped>),
    IsIdle(oneshot::Sender<bool>),
    /// The service's thread was replaced: start a new run on the new thread.
    ReplaceThread(ThreadReplaced),
}

/// The task's end of the handle.
pub(super) struct TaskLink {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) epoch: Rc<Cell<u64>>,
    pub(super) app_deadline: AppDeadline,
}

/// The app's deadline, for a stop within the service's own time that began before the app's.
pub(super) struct AppDeadline(watch::Receiver<Option<Instant>>);

impl AppDeadline {
    /// Waits until the app stops with a deadline before `by`, and returns it.
    pub(super) async fn before(&mut self, by: Instant) -> Instant {
        let earlier = |deadline: &Option<Instant>| deadline.is_some_and(|it| it < by);
        match self.0.wait_for(earlier).await.map(|it| *it) {
            Ok(Some(deadline)) => deadline,
            // The app is gone without a stop.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Notice that the thread of a service was blocked and replaced.
pub(crate) struct ThreadReplaced {
    /// The run on the old thread. If another run has started since, it continues.
    pub(crate) env: Arc<ServiceRun>,
    /// Deliveries that the first instance handles one at a time, before all others.
    pub(crate) trials: Vec<Delivery>,
    /// The service blocked the thread without a message in flight: its own failure.
    pub(crate) charged: bool,
}

impl ThreadReplaced {
    /// A notice without trials and charge.
    pub(crate) fn new(env: Arc<ServiceRun>) -> Self {
        Self {
            env,
            trials: Vec::new(),
            charged: false,
        }
    }
}

impl Supervised {
    pub(super) fn new(hosted: Arc<ServiceHandle>, gate: StartGate) -> (Rc<Self>, TaskLink) {
        let (sender, commands) = mpsc::channel(8);
        let epoch = Rc::new(Cell::new(0));
        let app_deadline = watch::Sender::default();
        let link = TaskLink {
            commands,
            epoch: epoch.clone(),
            app_deadline: AppDeadline(app_deadline.subscribe()),
        };
        let handle = Self {
            hosted,
            commands: sender,
            epoch,
            app_deadline,
            gate: Rc::new(gate),
            waiting: Cell::default(),
        };
        (Rc::new(handle), link)
    }

    /// Stops consuming and finishes the messages in flight by the deadline. Returns false if
    /// the service's thread is blocked. A service that does not run drops the command: its
    /// thread is not blocked.
    pub(crate) fn drain(&self, by: Instant) -> LocalBoxFuture<'_, bool> {
        self.leave_gate();
        self.app_deadline.send_replace(Some(by));
        command(&self.commands, true, move |done| Command::Drain(by, done))
    }

    /// Stops the service by a deadline.
    pub(crate) fn stop_by(&self, by: Instant) -> LocalBoxFuture<'_, Stopped> {
        self.send_stop(Some(by))
    }

    fn send_stop(&self, by: Option<Instant>) -> LocalBoxFuture<'_, Stopped> {
        self.leave_gate();
        let nothing = Stopped::default();
        command(&self.commands, nothing, move |done| Command::Stop(by, done))
    }

    /// Cancels a start that waits at the gate.
    fn leave_gate(&self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.abort();
        }
    }

    /// Whether a service in a child process is idle now; false for a service in this process.
    pub(crate) fn is_idle(&self) -> LocalBoxFuture<'_, bool> {
        command(&self.commands, false, Command::IsIdle)
    }

    /// Tells the supervisor that the service's thread was replaced.
    pub(crate) async fn replace_thread(&self, notice: ThreadReplaced) {
        // A supervisor that has ended needs no thread.
        let _gone = self.commands.send(Command::ReplaceThread(notice)).await;
    }
}

impl Child for Supervised {
    fn name(&self) -> &str {
        &self.hosted.label
    }

    fn start(&self) -> LocalBoxFuture<'_, ()> {
        self.leave_gate();
        if self.gate.is_passed() {
            return command(&self.commands, (), Command::Start);
        }
        let (gate, commands) = (self.gate.clone(), self.commands.clone());
        let waiting = tokio::task::spawn_local(async move {
            gate.pass().await;
            command(&commands, (), Command::Start).await;
        });
        self.waiting.set(Some(waiting));
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) -> LocalBoxFuture<'_, Stopped> {
        self.send_stop(None)
    }

    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}
