//! The process group of a child: it and everything that it started, unless that left.
//!
//! Owns the promise that none of it outlives the child. A group is never signalled once
//! it has ended, since its number may then be another's.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// A process group, killed when this is dropped.
#[derive(Debug)]
pub(super) struct Group(Mutex<Option<Pid>>);

impl Group {
    /// The group that a child leads, by the child's process id.
    pub(super) fn of(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self(Mutex::new(pid))
    }

    /// Asks everyone in it to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends everyone in it. The child is still to be waited for.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Ends whoever is left of it, once and for all: at the latest right after the child
    /// was waited for.
    pub(super) fn end(&self) {
        self.kill();
        *self.pid() = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *self.pid() {
            // A group whose processes have all ended can't be signalled, and needn't be.
            let _ended = kill_process_group(pid, signal);
        }
    }

    fn pid(&self) -> std::sync::MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
