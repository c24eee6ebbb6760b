//! Reads a dead-letter queue by holding the letters that stay.
//!
//! A letter that stays is held, unsettled, until the end: a letter that is requeued earlier
//! would be delivered again at once. The number of unsettled letters per consumer is limited,
//! so several consumers take part, one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::scan::PAGE;
use crate::delivery::Delivery;
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::{Consumer, LetterReader, Transport, TransportError, take};

/// Time without a letter after which the queue's depth is read.
const QUIET: Duration = Duration::from_millis(250);
/// Maximum times that the queue may be quiet although it has letters.
const QUIET_MAX: usize = 40;
/// Time for acks and for requeueing. When a connection ends, the transport requeues by itself.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to wait until requeued letters are ready again. Another consumer may have taken them.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of reading the depth meanwhile.
const READY_INTERVAL: Duration = Duration::from_millis(10);

const NO_ANSWER: &str = "the transport doesn't answer: the last acks may not have arrived";

/// A reader for transports whose queues requeue without a limit.
pub(super) struct HeldLetters<'a> {
    transport: &'a dyn Transport,
    queue: QueueId,
    /// Letters that are ready when everything is requeued.
    ready: u64,
    consumer: Option<Box<dyn Consumer>>,
    /// Held letters of the present consumer.
    held_of_consumer: usize,
    taken: VecDeque<Delivery>,
    page: Vec<Delivery>,
    /// Letters that stay, in the queue's order.
    held: Vec<Delivery>,
}

impl<'a> HeldLetters<'a> {
    pub(super) fn new(transport: &'a dyn Transport, queue: QueueId, ready: u64) -> Self {
        Self {
            transport,
            queue,
            ready,
            consumer: None,
            held_of_consumer: 0,
            taken: VecDeque::new(),
            page: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Waits for letters; there may be none.
    async fn fetch(&mut self, max: usize) -> Result<(), TransportError> {
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
        for _ in 0..QUIET_MAX {
            match timeout(QUIET, take(&mut **consumer, &mut self.taken, max)).await {
                Ok(taken) => return taken,
                // Another consumer took the rest.
                Err(_) if self.transport.depth(&self.queue).await?.ready == 0 => return Ok(()),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

async fn flush(transport: &dyn Transport) -> Result<(), TransportError> {
    let flushed = timeout(FLUSH_TIMEOUT, transport.flush()).await;
    flushed.unwrap_or_else(|_| Err(TransportError::Lost(NO_ANSWER.into())))
}

/// Waits until this many letters are ready. A transport requeues with a delay, and the next scan
/// may start at once.
async fn wait_until_ready(transport: &dyn Transport, queue: &QueueId, letters: u64) {
    while let Ok(depth) = transport.depth(queue).await
        && depth.ready < letters
    {
        sleep(READY_INTERVAL).await;
    }
}

impl LetterReader for HeldLetters<'_> {
    fn take(
        &mut self,
        max: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, TransportError>> {
        Box::pin(async move {
            // Letters may always be there at once, and other tasks need the thread, too.
            tokio::task::consume_budget().await;
            if self.taken.is_empty() {
                self.fetch(max).await?;
            }
            let mut bytes = 0;
            while self.page.len() < max
                && bytes < max_bytes
                && let Some(delivery) = self.taken.pop_front()
            {
                bytes += delivery.message().size();
                self.page.push(delivery);
            }
            Ok(self.page.iter().map(|it| it.message().clone()).collect())
        })
    }

    fn settle<'a>(&'a mut self, remove: &'a [bool]) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            let before = self.ready;
            for (delivery, remove) in self.page.drain(..).zip(remove) {
                if *remove {
                    delivery.ack();
                    self.ready = self.ready.saturating_sub(1);
                } else {
                    self.held_of_consumer += 1;
                    self.held.push(delivery);
                }
            }
            match self.ready == before {
                true => Ok(()),
                false => flush(self.transport).await,
            }
        })
    }

    fn rotates(&self) -> bool {
        false
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async move {
            // First stop the consumer: it would get the requeued letters again.
            if let Some(mut consumer) = self.consumer.take() {
                consumer.stop();
            }
            let held = self.held.drain(..).chain(self.page.drain(..));
            held.chain(self.taken.drain(..))
                .for_each(Delivery::nack_requeue);
            flush(self.transport).await?;
            let ready = wait_until_ready(self.transport, &self.queue, self.ready);
            let _in_time = timeout(READY_TIMEOUT, ready).await;
            Ok(())
        })
    }
}
