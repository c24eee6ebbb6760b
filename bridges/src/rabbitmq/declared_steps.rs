//! The delay steps that a session has declared.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::topology::Step;

/// The delay steps that a session has declared.
#[derive(Debug, Default)]
pub(super) struct DeclaredSteps {
    /// Bit set.
    declared: AtomicU32,
    /// When a step could last not be declared.
    pub(super) failed: Mutex<Option<Instant>>,
}

impl DeclaredSteps {
    pub(super) fn is_declared(&self, step: Step) -> bool {
        self.declared.load(Relaxed) & 1 << step.number != 0
    }

    pub(super) fn add(&self, step: Step) {
        self.declared.fetch_or(1 << step.number, Relaxed);
    }

    /// Declares a step again when it is next used.
    pub(super) fn forget(&self, step: Step) {
        self.declared.fetch_and(!(1 << step.number), Relaxed);
    }
}
