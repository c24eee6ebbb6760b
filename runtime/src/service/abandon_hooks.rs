//! Abandon hooks: cleanup that runs when the thread of a service is abandoned.
//!
//! A handler that blocks its thread for too long gets the thread abandoned: the service
//! restarts on another one. Nothing on the blocked thread is dropped, so a port that it
//! holds or a process that it started would stay. A hook releases them from outside.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::panic::catch_panic;

type Hook = Box<dyn FnOnce() + Send>;

/// The hooks of one run of a service.
#[derive(Default)]
pub(crate) struct AbandonHooks(Mutex<State>);

#[derive(Default)]
struct State {
    next_key: u64,
    hooks: Vec<(u64, Hook)>,
}

impl AbandonHooks {
    /// Adds a hook; it stays until the returned value is dropped.
    pub(crate) fn add(self: &Arc<Self>, hook: Hook) -> AbandonHook {
        let mut state = self.0.lock();
        let key = state.next_key;
        state.next_key += 1;
        state.hooks.push((key, hook));
        AbandonHook {
            hooks: Arc::downgrade(self),
            key,
        }
    }

    fn remove(&self, key: u64) {
        let removed = {
            let mut state = self.0.lock();
            let index = state.hooks.iter().position(|(other, _)| *other == key);
            index.map(|index| state.hooks.swap_remove(index))
        };
        // Outside of the lock: dropping the closure may run any code.
        drop(removed);
    }

    /// Runs every hook, each at most once.
    pub(crate) fn run(&self) {
        let hooks = std::mem::take(&mut self.0.lock().hooks);
        for (_, hook) in hooks {
            // The panic hook has logged a panic.
            let _logged = catch_panic(hook);
        }
    }
}

/// A registered hook of [`Context::on_abandoned`](crate::Context::on_abandoned) or
/// [`SourceContext::on_abandoned`](crate::SourceContext::on_abandoned). Dropping it removes
/// the hook.
#[must_use = "dropping it removes the hook"]
pub struct AbandonHook {
    hooks: Weak<AbandonHooks>,
    key: u64,
}

impl Drop for AbandonHook {
    fn drop(&mut self) {
        if let Some(hooks) = self.hooks.upgrade() {
            hooks.remove(self.key);
        }
    }
}
