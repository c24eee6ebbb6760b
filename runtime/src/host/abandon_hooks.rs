//! What is to be done from outside when a service's thread is given up.
//!
//! Nothing that runs on a blocked thread is dropped: a port that it holds, a program that
//! it started, would stay. Whoever has such a thing says here how to let go of it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::guard::quietly;
use super::service_run::ServiceRun;

type Hook = Box<dyn FnOnce() + Send>;

/// The hooks of one life.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    hooks: Vec<(u64, Hook)>,
}

impl Hooks {
    fn add(&self, hook: Hook) -> u64 {
        let mut state = self.0.lock();
        state.next += 1;
        let key = state.next;
        state.hooks.push((key, hook));
        key
    }

    fn remove(&self, key: u64) {
        let removed = {
            let mut state = self.0.lock();
            let place = state.hooks.iter().position(|(other, _)| *other == key);
            place.map(|place| state.hooks.swap_remove(place))
        };
        // Outside of the lock: what it holds may do anything when it goes.
        drop(removed);
    }

    /// Runs them all, once.
    pub(super) fn run(&self) {
        let hooks = std::mem::take(&mut self.0.lock().hooks);
        for (_, hook) in hooks {
            // The panic hook has logged it if it panics.
            let _logged = quietly(hook);
        }
    }
}

/// Holds a hook of [`Context::on_abandoned`](crate::Context::on_abandoned) or
/// [`SourceContext::on_abandoned`](crate::Outlet::on_abandoned): dropping this takes it back.
#[must_use = "dropping it takes the hook back"]
pub struct AbandonHook {
    env: Weak<ServiceRun>,
    key: u64,
}

impl Drop for AbandonHook {
    fn drop(&mut self) {
        if let Some(env) = self.env.upgrade() {
            env.hooks.remove(self.key);
        }
    }
}

impl ServiceRun {
    pub(crate) fn on_abandoned(
        self: &Arc<Self>,
        hook: impl FnOnce() + Send + 'static,
    ) -> AbandonHook {
        AbandonHook {
            env: Arc::downgrade(self),
            key: self.hooks.add(Box::new(hook)),
        }
    }
}
