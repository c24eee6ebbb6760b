//! Pressure: asks the broker once a second how full the queues are.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{Pressure, PressureGauge};
use tokio::time::{MissedTickBehavior, interval};

use super::declarer::Declarer;
use super::link::Link;
use super::router::Queue;

const EVERY: Duration = Duration::from_secs(1);

/// Watches over queues, on the current runtime, until the link ends.
pub(super) fn watch_over(
    queues: Vec<Arc<Queue>>,
    pressure: &Arc<Pressure>,
    declarer: Declarer,
    link: Arc<Link>,
) {
    let gauges: Vec<(Arc<Queue>, PressureGauge)> = queues
        .into_iter()
        .map(|queue| {
            let gauge = pressure.gauge(queue.high_water);
            (queue, gauge)
        })
        .collect();
    tokio::spawn(async move {
        let mut clock = interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while link.check().is_ok() {
            tokio::select! {
                _ = link.ended() => return,
                _ = clock.tick() => {}
            }
            for (queue, gauge) in &gauges {
                // A broker that doesn't answer says nothing about its queues.
                if let Ok(Some(ready)) = declarer.count(queue.name.clone()).await {
                    gauge.update(ready);
                }
            }
        }
    });
}
