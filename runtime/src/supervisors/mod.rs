//! The tree of supervisors: app → groups → services.
//!
//! ```text
//! app ──┬── group ──┬── service ── actor on a worker ── instances, bridges
//!       │           └── service
//!       └── service ── child process ── an app of this service alone
//! ```
//!
//! A service's supervisor keeps one life of it running; a group's, and the app's, apply
//! their strategy when a child of theirs has failed. What to do is decided by functions
//! over values in [`crate::supervision`]; here it is carried out. All of it runs on the
//! app's own thread, which runs no handlers: nothing that a service does can block it.

mod child_process;
mod give_up;
mod group;
mod process;
mod service;
#[cfg(test)]
mod tests;
mod watchdog;
mod worker_threads;

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(crate) use group::{Failed, Group, GroupChild, GroupPolicy, Parent};
pub(crate) use process::ProcessSupervisor;
pub(crate) use service::{ServiceSupervisor, ThreadReplaced};
pub(crate) use watchdog::watch;
pub(crate) use worker_threads::Threads;

use crate::host::{ServiceHandle, Stopped};
use crate::supervision::Exit;

/// What a supervisor starts and stops.
pub(crate) trait Child {
    /// The service's label or the group's name.
    fn name(&self) -> &str;

    /// Starts it; resolves when it has been tried. Does nothing to one that runs.
    fn start(&self) -> LocalBoxFuture<'_, ()>;

    /// Stops it by the deadline; resolves when it has stopped completely. Does nothing
    /// to one that doesn't run.
    fn stop(&self, by: Instant) -> LocalBoxFuture<'_, Stopped>;

    /// Changes with every start and stop: an end that is reported from an earlier life
    /// is none of the present one.
    fn epoch(&self) -> u64;
}

/// What an app needs of a service's supervisor, wherever the service runs.
pub(crate) trait Supervised: Child {
    /// The service.
    fn hosted(&self) -> &Arc<ServiceHandle>;

    /// Takes no more and finishes what is in hand, by the deadline. Says whether its
    /// thread turns.
    fn drain(&self, by: Instant) -> LocalBoxFuture<'_, bool>;

    /// Whether a service in another process has nothing left to do, as of now; false for
    /// one that runs here.
    fn is_idle(&self) -> LocalBoxFuture<'_, bool>;
}

/// Commands a supervisor, and waits for its answer; nothing if it is gone, or drops the
/// question.
async fn command<C, T>(
    commands: &mpsc::Sender<C>,
    command: impl FnOnce(oneshot::Sender<T>) -> C,
) -> Option<T> {
    let (done, answer) = oneshot::channel();
    commands.send(command(done)).await.ok()?;
    answer.await.ok()
}

/// A child tells its supervisor that it has ended by itself.
#[derive(Debug)]
pub(crate) struct ChildExit {
    /// Its number among the supervisor's children.
    pub(crate) child: usize,
    pub(crate) epoch: u64,
    pub(crate) exit: Exit,
    pub(crate) why: String,
}

/// The way from a child up to its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct ParentLink {
    pub(crate) child: usize,
    pub(crate) sender: mpsc::Sender<ChildExit>,
}

impl ParentLink {
    /// Tells. A child ends once in a life, and there is room for one end of each: if
    /// nobody takes it, the app is stopping.
    pub(crate) fn tell(&self, epoch: u64, exit: Exit, why: String) {
        let ended = ChildExit {
            child: self.child,
            epoch,
            exit,
            why,
        };
        let _stopping = self.sender.try_send(ended);
    }
}
