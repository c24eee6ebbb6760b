//! Mover: moves the messages in the plain queue of a keyed input on to their parts, in order.
//!
//! Messages of other programs enter there, and the app's own ones that arrive again: replayed dead
//! letters, and messages whose delay is over. The plain queue has a single active consumer, so one
//! process moves at a time.
//!
//! A message is published to its part, confirmed, and then acked. A message waits until the one before
//! it with the same key is confirmed, so that a publication that fails is not overtaken. A process that
//! dies in between leaves copies, behind the messages that it moved. The mover leaves like every
//! consumer that keeps order: it closes its channel without a cancel.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use brickwork::supervision::Backoff;
use brickwork::transport::TransportError;
use brickwork::{Key, LogThrottle};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::close_delay::CommandRate;
use super::codec::{self, TopicSource};
use super::declarer::refusal;
use super::router::Router;
use super::routing::Queue;
use super::source_queue::SourceQueue;

/// Maximum messages that are moved at a time.
const PREFETCH: u16 = 64;
/// Space in the properties for the header of the topic.
const TOPIC_HEADER_BYTES: usize = 1024;
/// Back-off of a mover that can't work, and of a message whose part does not accept it.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(500),
    max: Duration::from_secs(30),
    jitter: 0.2,
};
/// Time limit to finish the messages in progress when the consumer of the input stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens channels.
pub(super) type OpenChannel = dyn Fn() -> BoxFuture<'static, lapin::Result<Channel>> + Send + Sync;

/// Moves messages until the input is no longer consumed or the session has ended.
pub(super) async fn run(
    router: Arc<Router>,
    input: Arc<Queue>,
    open: Arc<OpenChannel>,
    mut stop: watch::Receiver<bool>,
) {
    let mut mover = Mover {
        source: SourceQueue::app_queue(input),
        router,
        log: LogThrottle::default(),
    };
    for failures in 0.. {
        match mover.run(&*open, &mut stop).await {
            Ok(()) => return,
            Err(error) => {
                warn!(queue = %mover.source.queue.id, %error, "moving messages to partitions ended, starting again")
            }
        }
        tokio::select! {
            _stop = stop.wait_for(|stop| *stop) => return,
            _ended = mover.router.session_state.ended() => return,
            () = sleep(BACKOFF.delay(failures, fastrand::f64())) => {}
        }
    }
}

struct Mover {
    router: Arc<Router>,
    source: SourceQueue,
    log: LogThrottle,
}

/// A message with its part.
struct Next {
    delivery: Delivery,
    key: Option<Key>,
    part: ShortString,
    properties: lapin::BasicProperties,
}

impl Mover {
    /// Moves over one channel. Returns `Ok` when it was stopped or the session has ended.
    async fn run(
        &mut self,
        open: &OpenChannel,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TransportError> {
        let session_state = self.router.session_state.clone();
        let lost = |error: lapin::Error| TransportError::Lost(error.to_string());
        let channel = open().await.map_err(lost)?;
        let set = channel.basic_qos(PREFETCH, Default::default()).await;
        set.map_err(lost)?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consuming =
            channel.basic_consume(self.source.name.clone(), "".into(), options, arguments);
        let mut arriving = match consuming.await {
            Ok(arriving) => arriving,
            Err(error) => {
                if matches!(refusal(&error), Some((404, _))) {
                    self.router.redeclare().await?;
                }
                return Err(lost(error));
            }
        };
        let mut commands = CommandRate::default();
        let (mut moving, mut busy) = (FuturesUnordered::new(), HashSet::new());
        let mut next: Option<Next> = None;
        loop {
            if let Some(ready) =
                next.take_if(|next| next.key.as_ref().is_none_or(|key| !busy.contains(key)))
            {
                busy.extend(ready.key.clone());
                moving.push(self.move_on(ready));
            }
            tokio::select! {
                _ended = session_state.ended() => return Ok(()),
                _stop = stop.wait_for(|stop| *stop) => break,
                Some((key, done)) = moving.next() => {
                    done.map_err(lost)?;
                    commands.sent(Instant::now());
                    if let Some(key) = key {
                        busy.remove(&key);
                    }
                }
                delivery = arriving.next(), if next.is_none() => match delivery {
                    Some(Ok(delivery)) => next = Some(self.prepare(delivery)?),
                    Some(Err(error)) => return Err(lost(error)),
                    None => return Err(TransportError::Lost(format!("{} was deleted", self.source.name))),
                },
            }
        }
        let finishing = async {
            while moving.next().await.is_some() {
                commands.sent(Instant::now());
            }
        };
        let _in_time = timeout(STOP_TIMEOUT, finishing).await;
        sleep(commands.close_delay(Instant::now())).await;
        let _gone = channel.close(200, "done".into()).await;
        // Only now: before, the client library would send a cancel.
        drop(arriving);
        Ok(())
    }

    /// Finds the part of a message, and the properties with which it goes there.
    fn prepare(&self, delivery: Delivery) -> Result<Next, TransportError> {
        let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        let topic_source = self.source.topic_source(exchange, key);
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data.clone());
        let is_from_broker = codec::last_death(&delivery.properties)
            .is_some_and(|death| *death.queue == *self.source.name.as_str());
        let is_fresh = matches!(topic_source, TopicSource::Topic(_)) || is_from_broker;
        let message = &self
            .router
            .session_state
            .clock_skew()
            .localize(decoded.message);
        let bytes_max = self
            .router
            .properties_bytes_max
            .saturating_sub(TOPIC_HEADER_BYTES);
        let properties = match codec::header_bytes(&delivery.properties) <= bytes_max {
            true => codec::moved_on(&delivery.properties, &message.topic, is_fresh),
            false => self.router.encode(message, decoded.attempt, true, None)?,
        };
        let parts = self.source.queue.parts.as_ref();
        let parts = parts.ok_or_else(|| TransportError::NoQueue(self.source.queue.id.clone()))?;
        let (part, key) = parts.queue_of(message);
        Ok(Next {
            part: part.name.clone(),
            key,
            properties,
            delivery,
        })
    }

    /// Publishes a message to its part until that succeeds, and acks it.
    async fn move_on(&self, next: Next) -> (Option<Key>, lapin::Result<()>) {
        let Next {
            delivery,
            key,
            part,
            properties,
        } = next;
        for failures in 0.. {
            let published = self
                .router
                .move_on(part.clone(), properties.clone(), &delivery);
            let Err(error) = published.await else {
                break;
            };
            if self.router.session_state.check().is_err() {
                return (key, Ok(()));
            }
            if let Some(suppressed) = self.log.event() {
                warn!(queue = %part, %error, suppressed, "partition does not accept a message, trying again");
            }
            if matches!(error, TransportError::Refused(_)) {
                // The part may be gone.
                let _later = self.router.redeclare().await;
            }
            sleep(BACKOFF.delay(failures, fastrand::f64())).await;
        }
        (
            key,
            delivery
                .acker
                .ack(BasicAckOptions::default())
                .await
                .map(drop),
        )
    }
}
