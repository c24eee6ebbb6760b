//! What a service will do later of its own accord, so that nobody takes it for idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many things are to be done later in one life of a service.
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

/// Something is to be done later, as long as this lives: see
/// [`Context::scheduled`](crate::Context::scheduled).
#[derive(Debug)]
#[must_use = "it holds only as long as this lives"]
pub struct PendingWorkGuard(Arc<AtomicUsize>);

impl Drop for PendingWorkGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
