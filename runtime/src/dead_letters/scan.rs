//! One scan of a dead-letter queue: every letter that was in it at the start, once.
//!
//! A letter that stays is held, unsettled, until the end: a letter that is requeued earlier
//! would be delivered again at once. The number of unsettled letters per consumer is limited,
//! so several consumers take part, one after the other, each with one page of letters.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Bounds;
use crate::delivery::Delivery;
use crate::names::QueueId;
use crate::transport::{Consumer, Transport, TransportError, take};

/// Maximum unsettled letters of one consumer.
const PAGE: usize = 128;
/// Time without a letter after which the queue's depth is read.
const QUIET: Duration = Duration::from_millis(250);
/// Maximum times that the queue may be quiet although it has letters.
const QUIET_MAX: usize = 40;
/// Time for requeueing. When a connection ends, the transport requeues by itself.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to wait until requeued letters are ready again. Another consumer may have taken them.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of reading the depth meanwhile.
const READY_INTERVAL: Duration = Duration::from_millis(10);

const NO_ANSWER: &str = "the transport doesn't answer: the last acks may not have arrived";

/// A scan.
pub(super) struct Scan<'a> {
    transport: &'a dyn Transport,
    queue: QueueId,
    bounds: Bounds,
    /// Letters that were ready at the start.
    depth: u64,
    /// Letters of them that were not returned yet.
    left: u64,
    /// Letters that were returned and are not held.
    returned: u64,
    consumer: Option<Box<dyn Consumer>>,
    /// Held letters of the present consumer.
    held_of_consumer: usize,
    taken: VecDeque<Delivery>,
    /// Letters that stay, in the queue's order.
    held: Vec<Delivery>,
    held_bytes: usize,
}

impl<'a> Scan<'a> {
    pub(super) async fn open(
        transport: &'a dyn Transport,
        service: &str,
        bounds: Bounds,
    ) -> Result<Self, TransportError> {
        let queue = QueueId::dead_letters(service);
        let depth = transport.depth(&queue).await?.ready;
        Ok(Self {
            transport,
            queue,
            bounds,
            depth,
            left: depth,
            returned: 0,
            consumer: None,
            held_of_consumer: 0,
            taken: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    /// The number of letters at the start.
    pub(super) fn depth(&self) -> u64 {
        self.depth
    }

    /// The next letter; `None` at the end of the queue, or when the bounds are reached.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>, TransportError> {
        // Letters may always be there at once, and other tasks need the thread, too.
        tokio::task::consume_budget().await;
        if self.taken.is_empty() && !self.fetch().await? {
            return Ok(None);
        }
        if self.held.len() >= self.bounds.letters || self.held_bytes >= self.bounds.bytes {
            return Ok(None);
        }
        self.left -= 1;
        self.returned += 1;
        Ok(self.taken.pop_front())
    }

    /// Keeps a letter in the queue: it is requeued at the end.
    pub(super) fn hold(&mut self, delivery: Delivery) {
        self.returned -= 1;
        self.held_of_consumer += 1;
        self.held_bytes += delivery.message().size();
        self.held.push(delivery);
    }

    /// Requeues the letters that stay, in their order. Returns whether every letter was seen.
    pub(super) async fn finish(mut self) -> Result<bool, TransportError> {
        // First stop the consumer: it would get the requeued letters again.
        if let Some(mut consumer) = self.consumer.take() {
            consumer.stop();
        }
        for delivery in self.held.drain(..).chain(self.taken.drain(..)) {
            delivery.nack_requeue();
        }
        let flushed = timeout(FINISH_TIMEOUT, self.transport.flush()).await;
        flushed.unwrap_or_else(|_| Err(TransportError::Lost(NO_ANSWER.into())))?;
        let ready = wait_until_ready(self.transport, &self.queue, self.depth - self.returned);
        let _in_time = timeout(READY_TIMEOUT, ready).await;
        Ok(self.left == 0)
    }

    /// Waits for more letters; `false` if there are none.
    async fn fetch(&mut self) -> Result<bool, TransportError> {
        if self.left == 0 || self.held.len() >= self.bounds.letters {
            return Ok(false);
        }
        if self.held_of_consumer >= PAGE {
            // The letters of a dropped consumer can still be settled.
            self.consumer = None;
        }
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => {
                self.held_of_consumer = 0;
                none.insert(self.transport.consume(&self.queue, PAGE).await?)
            }
        };
        let most = usize::try_from(self.left).map_or(PAGE, |left| left.min(PAGE));
        for _ in 0..QUIET_MAX {
            match timeout(QUIET, take(&mut **consumer, &mut self.taken, most)).await {
                Ok(taken) => {
                    taken?;
                    return Ok(true);
                }
                Err(_) if self.transport.depth(&self.queue).await?.ready == 0 => {
                    // Another consumer took the rest.
                    self.left = 0;
                    return Ok(false);
                }
                Err(_) => {}
            }
        }
        // The rest stays unseen: `finish` returns false.
        Ok(false)
    }
}

/// Waits until this many letters are ready. A broker requeues with a delay, and the next scan
/// may start at once.
async fn wait_until_ready(transport: &dyn Transport, queue: &QueueId, letters: u64) {
    while let Ok(depth) = transport.depth(queue).await
        && depth.ready < letters
    {
        sleep(READY_INTERVAL).await;
    }
}
