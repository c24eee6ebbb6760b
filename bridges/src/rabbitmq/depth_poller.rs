//! Pressure: asks the broker once a second how full the queues are, and makes those
//! again that somebody has deleted.

use std::sync::Arc;
use std::time::Duration;

use brickwork::QueueId;
use brickwork::transport::{Backpressure, DepthGauge};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::recovery::Recovery;
use super::routing::Queue;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Watches over queues, on the current runtime, until the transport is closed.
pub(super) fn start(
    queues: Vec<Arc<Queue>>,
    pressure: &Arc<Backpressure>,
    recovery: Arc<Recovery>,
) {
    let gauges: Vec<(Arc<Queue>, DepthGauge)> = queues
        .into_iter()
        .map(|queue| {
            let gauge = pressure.gauge(queue.high_water);
            (queue, gauge)
        })
        .collect();
    tokio::spawn(async move {
        let mut clock = interval(POLL_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !recovery.shared.health.is_closed() {
            tokio::select! {
                () = recovery.shared.health.closed() => return,
                _ = clock.tick() => {}
            }
            poll_once(&gauges, &recovery).await;
        }
    });
}

async fn poll_once(gauges: &[(Arc<Queue>, DepthGauge)], recovery: &Recovery) {
    for (queue, gauge) in gauges {
        let Ok(session) = recovery.current() else {
            return;
        };
        match session.router.declarer.count(queue.name.clone()).await {
            Ok(Some(ready)) => {
                gauge.update(ready);
                if ready > 0 && queue.id == QueueId::suspects(&queue.id.service) {
                    // Also those that another process has put there.
                    session.suspects.check(&queue.id.service);
                }
            }
            Ok(None) => {
                // Whoever publishes wouldn't notice, and whoever consumes may be elsewhere.
                if session.router.redeclare().await.is_ok() {
                    warn!(queue = %queue.id, "the queue was deleted at the broker, it was made again");
                }
                gauge.update(0);
            }
            // A broker that doesn't answer says nothing about its queues.
            Err(_) => {}
        }
    }
}
