//! Polls the depth of every queue once a second for backpressure, and declares deleted queues
//! again.

use std::sync::Arc;
use std::time::Duration;

use brickwork::QueueId;
use brickwork::transport::{Backpressure, DepthGauge};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::recovery::Recovery;
use super::routing::Queue;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Starts polling on the current runtime, until the transport is closed.
pub(super) fn start(
    queues: Vec<Arc<Queue>>,
    pressure: &Arc<Backpressure>,
    recovery: Arc<Recovery>,
) {
    let gauges: Vec<(Arc<Queue>, DepthGauge)> = queues
        .into_iter()
        .map(|queue| {
            let gauge = pressure.gauge(&queue.id, queue.high_water);
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
        let mut all = Some(0);
        for part in queue.with_parts() {
            match session.router.declarer.count(part.name.clone()).await {
                Ok(Some(ready)) => all = all.map(|all| all + ready),
                Ok(None) => {
                    // Publishers don't notice a deleted queue, and its consumer may be in another
                    // process.
                    if session.router.redeclare().await.is_ok() {
                        warn!(queue = %part.id, "queue was deleted on the broker, declared it again");
                    }
                }
                // Without an answer the depth is unknown.
                Err(_) => all = None,
            }
        }
        if let Some(ready) = all {
            gauge.update(ready);
            if ready > 0 && queue.id == QueueId::suspects(&queue.id.service) {
                // Another process may have put them there.
                session.suspects.check(&queue.id);
            }
        }
    }
}
