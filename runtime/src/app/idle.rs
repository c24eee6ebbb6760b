//! Detects that an app has nothing left to do.

use std::time::Duration;

use super::run::App;
use crate::host::{ServiceHandle, Standing};
use crate::metrics::Outcome;
use crate::names::QueueId;
use crate::status::AppStatus;
use crate::transport::Transport;

/// Interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Idle checks in a row that a transport between processes needs: a message on the wire is
/// in no counter.
const IDLE_CHECKS_SHARED: u32 = 25;

impl App {
    /// Resolves when every source that ends has ended and no message is queued, in flight,
    /// delayed or unconfirmed. Work of services that are down for good, or whose circuit breaker
    /// has been open for five times its longest pause, does not count. RabbitMQ can't tell which
    /// messages another process has delayed: these do not count either.
    pub async fn idle(&self) {
        let shared = self.transport.guarantees().crosses_processes;
        let needed = if shared { IDLE_CHECKS_SHARED } else { 1 };
        let mut quiet = 0;
        let mut last = None;
        loop {
            // The activity must not change during a check: a message could move from a part not
            // yet checked to a checked one.
            let before = self.activity();
            let idle = self.is_idle().await
                && self.activity() == before
                && last.is_none_or(|l| l == before);
            last = Some(before);
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet >= needed {
                return;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn is_idle(&self) -> bool {
        let services = || self.services.iter().map(|service| &service.hosted);
        if services().any(|service| service.is_unfinished_source() && !is_hopeless(service)) {
            return false;
        }
        // A child process reports its own work.
        for service in self.services.iter().filter(|s| s.hosted.is_apart()) {
            if !is_hopeless(&service.hosted) && !service.is_idle().await {
                return false;
            }
        }
        self.view.is_idle().await
    }

    /// Counts handled and emitted messages. An unchanged count means that nothing happened.
    fn activity(&self) -> u64 {
        self.services
            .iter()
            .map(|service| {
                let meters = &service.hosted.meters;
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
    /// Returns whether the services of this process have nothing left to do.
    pub(crate) async fn is_idle(&self) -> bool {
        if self.events.pending() > 0 {
            return false;
        }
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
            // An unknown depth is not idle.
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Returns whether a service is down for good, was isolated at least twice, or has a circuit
/// breaker that has been open for long.
fn is_hopeless(service: &ServiceHandle) -> bool {
    if service.is_breaker_hopeless() {
        return true;
    }
    match service.state.standing() {
        Standing::Gone { .. } => true,
        Standing::Isolated { .. } => service.state.isolations() > 1,
        Standing::Stopped | Standing::Supervised => false,
    }
}
