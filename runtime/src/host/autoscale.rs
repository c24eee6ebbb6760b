//! Autoscaling: measures the load of a service and scales its instances.
//!
//! [`Autoscaler`] decides; this module measures and tells the actor of the service.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Message, Recipient};
use tokio::time::Instant;
use tracing::info;

use super::service_run::ServiceRun;
use crate::supervision::{Autoscaler, CHECK_INTERVAL, Load};

/// Scales a service to this number of instances.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Scale(pub(crate) usize);

/// Follows the load until the service stops.
pub(super) fn follow(env: &Arc<ServiceRun>, actor: Recipient<Scale>) {
    let mut autoscaler = Autoscaler::new(env.loops);
    let env: Weak<ServiceRun> = Arc::downgrade(env);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let Some(env) = env.upgrade() else { return };
            if env.is_closing() {
                return;
            }
            let before = autoscaler.wanted();
            let wanted = autoscaler.check(env.load());
            if wanted != before {
                info!(service = %env.label, before, wanted, "scaling instances with the load");
            }
            // The loops of one manifest instance come and go together.
            let wanted = wanted.next_multiple_of(env.lanes);
            // Also without a change, because a retiring instance may have ended since.
            if actor.send(Scale(wanted)).await.is_err() {
                return;
            }
        }
    });
}

impl ServiceRun {
    /// Measures the present load.
    fn load(&self) -> Load {
        let now = Instant::now();
        let (waiting, oldest) = self
            .mailbox
            .oldest(|delivery: &crate::Delivery| delivery.taken());
        Load {
            waiting,
            waited: oldest.map_or(Duration::ZERO, |taken| now.saturating_duration_since(taken)),
            busy: self
                .in_flight
                .lock()
                .iter()
                .filter(|list| list.len() > 0)
                .count(),
        }
    }
}
