//! Looks at how busy a service is and gives it as many instances as it needs.
//!
//! The decision is [`Autoscaler`]'s; this only looks and tells the service's actor.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::Addr;
use tokio::time::Instant;
use tracing::info;

use super::actor::{Scale, ServiceActor};
use super::service_run::ServiceRun;
use crate::supervision::{Autoscaler, CHECK_INTERVAL, Load};

/// Follows the load until the service closes.
pub(super) fn follow(env: &Arc<ServiceRun>, actor: Addr<ServiceActor>) {
    let mut elastic = Autoscaler::new(env.loops);
    let env: Weak<ServiceRun> = Arc::downgrade(env);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let Some(env) = env.upgrade() else { return };
            if env.is_closing() {
                return;
            }
            let before = elastic.wanted();
            let wanted = elastic.check(env.load());
            if wanted != before {
                info!(service = %env.label, before, wanted, "instances follow the load");
            }
            // What an instance of the manifest stands for comes and goes as a whole.
            let wanted = wanted.next_multiple_of(env.lanes);
            // Also when nothing changed: one that was about to go may have gone.
            if actor.send(Scale(wanted)).await.is_err() {
                return;
            }
        }
    });
}

impl ServiceRun {
    /// What is to be seen of its work now.
    fn load(&self) -> Load {
        let now = Instant::now();
        let (waiting, oldest) = self
            .mailbox
            .look(|delivery: &crate::Delivery| delivery.taken());
        Load {
            waiting,
            waited: oldest.map_or(Duration::ZERO, |taken| now.saturating_duration_since(taken)),
            busy: self.hands.lock().iter().filter(|h| h.len() > 0).count(),
        }
    }
}
