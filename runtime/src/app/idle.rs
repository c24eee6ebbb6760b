//! Knowing that an app has nothing left to do.

use std::time::Duration;

use super::run::App;
use super::status::AppStatus;
use crate::host::{ServiceHandle, Standing};
use crate::metrics::Outcome;
use crate::names::QueueId;
use crate::transport::Transport;

/// How long to wait between looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// On a transport that others share, a message can be on the wire, where nobody counts
/// it: nothing may have happened for so many looks in a row.
const QUIET_LOOKS_SHARED: u32 = 25;

impl App {
    /// Resolves when every source that ends has ended and nothing is queued, in hand,
    /// scheduled or unconfirmed; services that have no hope of doing theirs apart.
    pub async fn idle(&self) {
        let shared = self.transport.guarantees().crosses_processes;
        let needed = if shared { QUIET_LOOKS_SHARED } else { 1 };
        let mut quiet = 0;
        let mut last = None;
        loop {
            // Nothing moved while all was looked at, or a message could have passed
            // from where we had not looked to where we had.
            let before = self.activity();
            let idle = self.is_idle().await
                && self.activity() == before
                && last.is_none_or(|l| l == before);
            last = Some(before);
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet >= needed {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn is_idle(&self) -> bool {
        let services = || self.services.iter().map(|service| service.hosted());
        if services().any(|service| service.is_unfinished_source() && !is_hopeless(service)) {
            return false;
        }
        // Those in processes of their own know themselves what they have.
        for service in self.services.iter().filter(|s| s.hosted().is_apart()) {
            if !is_hopeless(service.hosted()) && !service.is_idle().await {
                return false;
            }
        }
        self.view.is_idle().await
    }

    /// Grows with everything that happens.
    fn activity(&self) -> u64 {
        self.services
            .iter()
            .map(|service| {
                let meters = &service.hosted().meters;
                let handled: u64 = (0..Outcome::NAMES.len())
                    .map(|outcome| {
                        meters
                            .inputs
                            .iter()
                            .map(|i| i.outcomes[outcome].get())
                            .sum::<u64>()
                    })
                    .sum();
                handled + meters.outputs().sum::<u64>()
            })
            .sum()
    }
}

impl AppStatus {
    /// Whether the services that run in this process have nothing left to do.
    pub(crate) async fn is_idle(&self) -> bool {
        let services = self.services.iter().map(|service| &service.hosted);
        for service in services.filter(|service| !service.is_apart()) {
            if !is_hopeless(service) && !is_idle(service, &*self.transport).await {
                return false;
            }
        }
        true
    }
}

async fn is_idle(service: &ServiceHandle, transport: &dyn Transport) -> bool {
    let env = service.env();
    let busy =
        env.unconfirmed() > 0 || env.in_flight() > 0 || env.mailbox.len() > 0 || env.outbox() > 0;
    if busy || !env.control.pending_work.is_empty() || service.is_unfinished_source() {
        return false;
    }
    for input in &env.inputs {
        match transport.depth(&QueueId::new(&env.label, input)).await {
            Ok(depth) if depth.total() == 0 => {}
            // Not knowing isn't idle.
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Nobody will do the work of this one: it is down for good, or it was isolated, tried
/// again, and isolated again.
fn is_hopeless(service: &ServiceHandle) -> bool {
    match service.state.standing() {
        Standing::Gone { .. } => true,
        Standing::Isolated { .. } => service.state.isolations() > 1,
        Standing::Stopped | Standing::Supervised => false,
    }
}
