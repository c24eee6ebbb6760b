//! Measures the difference between the broker's clock and this machine's.
//!
//! AMQP has no request for the broker's time. But a broker that dead-letters a message says when.
//! So a probe is rejected from a queue whose dead letters return to it.

use std::io;
use std::time::Duration;

use brickwork::Clock;
use brickwork::transport::TransportError;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicRejectOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::clock_skew::SkewBounds;
use super::codec;
use super::session::Session;
use super::topology::clock_declaration;

/// Interval of the measurements.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Interval at which this machine's clock is compared with its monotonic clock.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// A difference of this size means that this machine's clock was set.
const CLOCK_SET: Duration = Duration::from_millis(500);
/// Time limit of one measurement.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of probes if the clocks differ, and the pause between them: the broker tells whole
/// seconds, so several probes are more precise.
const PROBES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_millis(210);

/// Measures at the start of a session, periodically, and after this machine's clock was set.
/// Never returns.
pub(super) async fn run(session: &Session, app: &str) {
    loop {
        match timeout(PROBE_TIMEOUT, measure(session, app)).await {
            Ok(Ok(bounds)) => session.session_state.set_clock_skew(bounds.skew_ms()),
            Ok(Err(error)) => {
                // A permission is missing, or the session ends. Deadlines stay as they are.
                debug!(%error, "the broker's clock can't be read");
                return std::future::pending().await;
            }
            // While the broker is short of memory or disk, it accepts no messages.
            Err(_) => debug!("the broker's clock was not read in time"),
        }
        until_due().await;
    }
}

async fn until_due() {
    let (wall_ms, started) = (Clock::SYSTEM.unix_ms(), Instant::now());
    while started.elapsed() < INTERVAL {
        sleep(CHECK_INTERVAL).await;
        let passed = started.elapsed().as_millis();
        let expected = u128::from(wall_ms) + passed;
        let set_by = u128::from(Clock::SYSTEM.unix_ms()).abs_diff(expected);
        if set_by > CLOCK_SET.as_millis() {
            return;
        }
    }
}

async fn measure(session: &Session, app: &str) -> Result<SkewBounds, TransportError> {
    let lost = |error: lapin::Error| session.session_state.lost(&error);
    let (queue, arguments) = clock_declaration(app)?;
    let channel = session.channel().await.map_err(lost)?;
    let probing = async {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        channel
            .queue_declare(queue.clone(), options, arguments)
            .await?;
        let options = BasicConsumeOptions::default();
        let mut arriving = channel
            .basic_consume(queue.clone(), "".into(), options, FieldTable::default())
            .await?;
        let mut bounds = probe(&channel, &mut arriving, &queue).await?;
        for _ in 1..PROBES {
            if bounds.skew_ms() == 0 {
                break;
            }
            sleep(PROBE_PAUSE).await;
            bounds = bounds.and(probe(&channel, &mut arriving, &queue).await?);
        }
        Ok(bounds)
    };
    let bounds: lapin::Result<_> = probing.await;
    // The queue goes with its consumer.
    let _gone = channel.close(200, "done".into()).await;
    bounds.map_err(lost)
}

/// Publishes a message, rejects it, and reads the time of its death.
async fn probe(
    channel: &Channel,
    arriving: &mut Consumer,
    queue: &ShortString,
) -> lapin::Result<SkewBounds> {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    channel
        .basic_publish("".into(), queue.clone(), options, b"", properties)
        .await?;
    let delivery = next(arriving).await?;
    let before_ms = Clock::SYSTEM.unix_ms();
    let reject = BasicRejectOptions { requeue: false };
    delivery.acker.reject(reject).await?;
    let dead = next(arriving).await?;
    let after_ms = Clock::SYSTEM.unix_ms();
    dead.acker.ack(BasicAckOptions::default()).await?;
    let died = codec::last_death(&dead.properties);
    let broker_s = died.map_or(0, |death| death.unix_s);
    match broker_s {
        0 => Err(io::Error::other("the broker does not say when a message died").into()),
        _ => Ok(SkewBounds::observed(before_ms, broker_s, after_ms)),
    }
}

async fn next(arriving: &mut Consumer) -> lapin::Result<Delivery> {
    let next = arriving.next().await;
    next.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()))
}
