//! Pending work: the work that a service will start by itself, without a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the pending work of one run of a service. A service with pending work is not idle.
#[derive(Debug, Default)]
pub(crate) struct PendingWork(Arc<AtomicUsize>);

impl PendingWork {
    pub(crate) fn add(&self) -> PendingWorkGuard {
        self.0.fetch_add(1, Relaxed);
        PendingWorkGuard(self.0.clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// Marks work as pending until it is dropped: see
/// [`Context::scheduled`](crate::Context::scheduled).
#[derive(Debug)]
#[must_use = "the work is pending only until this is dropped"]
pub struct PendingWorkGuard(Arc<AtomicUsize>);

impl Drop for PendingWorkGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
