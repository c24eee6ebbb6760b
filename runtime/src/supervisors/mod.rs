//! The supervision tree of an app: app → groups → services.
//!
//! ```text
//! app ──┬── group ──┬── service ── actor on a worker thread ── instances, bridges
//!       │           └── service
//!       └── service ── child process ── an app with this service alone
//! ```
//!
//! A service's supervisor keeps one run of the service going. The supervisor of a group, or
//! of the app, applies its strategy when a child has failed. Functions over values in
//! [`crate::supervision`] make the decisions; this module carries them out. The supervisors
//! run on the app's main thread. That thread runs no handlers, so no service can block it.

mod child_process;
mod give_up;
mod group;
mod process;
mod service;
mod start_gate;
mod supervised;
#[cfg(test)]
mod tests;
mod watchdog;
mod worker_threads;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};

pub(crate) use group::{Failed, Group, GroupChild, GroupPolicy, Parent};
pub(crate) use process::supervise_apart;
pub(crate) use service::supervise_here;
pub(crate) use start_gate::StartGate;
pub(crate) use supervised::{Supervised, ThreadReplaced};
pub(crate) use watchdog::watch;
pub(crate) use worker_threads::Threads;

use crate::host::Stopped;
use crate::supervision::Exit;

/// A service or a group, as its supervisor starts and stops it.
pub(crate) trait Child {
    /// The service's label or the group's name.
    fn name(&self) -> &str;

    /// Starts the child; resolves when its start has begun. Does nothing if the child runs.
    fn start(&self) -> LocalBoxFuture<'_, ()>;

    /// Stops the child within its own `shutdown_timeout`; resolves when it has stopped
    /// completely. Does nothing if the child does not run.
    fn stop(&self) -> LocalBoxFuture<'_, Stopped>;

    /// Number that changes with every start and stop. A [`ChildExit`] with an older number
    /// concerns an earlier run.
    fn epoch(&self) -> u64;
}

/// Sends a command to a supervisor and waits for the answer. Resolves with `missing` if the
/// supervisor has ended or drops the command.
fn command<'a, C, T>(
    commands: &'a mpsc::Sender<C>,
    missing: T,
    command: impl FnOnce(oneshot::Sender<T>) -> C + 'a,
) -> LocalBoxFuture<'a, T>
where
    T: 'a,
{
    Box::pin(async move {
        let (done, answer) = oneshot::channel();
        match commands.send(command(done)).await {
            Ok(()) => answer.await.unwrap_or(missing),
            Err(_) => missing,
        }
    })
}

/// The message of a child that ended by itself, to its supervisor.
#[derive(Debug)]
pub(crate) struct ChildExit {
    /// The child's index among the supervisor's children.
    pub(crate) child: usize,
    pub(crate) epoch: u64,
    pub(crate) exit: Exit,
    pub(crate) why: String,
}

/// The channel from a child to its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct ParentLink {
    pub(crate) child: usize,
    pub(crate) sender: mpsc::Sender<ChildExit>,
}

impl ParentLink {
    /// Reports that the child ended. A child ends once per run, and the channel has room for
    /// one exit of each child: it is closed only while the app stops.
    pub(crate) fn report(&self, epoch: u64, exit: Exit, why: String) {
        let exit = ChildExit {
            child: self.child,
            epoch,
            exit,
            why,
        };
        let _stopping = self.sender.try_send(exit);
    }
}
