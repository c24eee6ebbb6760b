//! One walk over a dead-letter queue: everything that was in it at the start, once.
//!
//! What is looked at and stays is held, unsettled, until the end: given back earlier it
//! would be delivered again at once. Many consumers take part, one after the other, each
//! with a page of its own: a consumer's bound can't grow.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Bounds;
use crate::delivery::Delivery;
use crate::names::QueueId;
use crate::transport::{Consumer, Transport, TransportError, take};

/// What one consumer may have unsettled: so much is fetched ahead.
const PAGE: usize = 128;
/// When nothing has come for so long, the queue is asked whether there is anything.
const QUIET: Duration = Duration::from_millis(250);
/// So often it may say that there is, and yet nothing comes.
const QUIET_MAX: usize = 40;
/// For giving back; a transport that doesn't answer gives everything back when it goes.
const END_WITHIN: Duration = Duration::from_secs(30);

/// For seeing that what was given back is there again; others may have taken it since.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// A queue doesn't say that: this is how often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

const NO_ANSWER: &str = "it doesn't answer: what was done may not have arrived";

/// A walk.
pub(super) struct Scan<'a> {
    transport: &'a dyn Transport,
    queue: QueueId,
    bounds: Bounds,
    /// How many were ready at the start.
    depth: u64,
    /// How many of them are still to come.
    left: u64,
    /// How many were handed out and are not held.
    gone: u64,
    consumer: Option<Box<dyn Consumer>>,
    /// How many of the current consumer's are held.
    held_here: usize,
    taken: VecDeque<Delivery>,
    /// In the order in which they came.
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
            gone: 0,
            consumer: None,
            held_here: 0,
            taken: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    /// How many letters were there at the start.
    pub(super) fn depth(&self) -> u64 {
        self.depth
    }

    /// The next letter; `None` when all were seen, or as many as may be held.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>, TransportError> {
        // Letters may come faster than they are looked at, and others want the thread, too.
        tokio::task::consume_budget().await;
        if self.taken.is_empty() && !self.fetch().await? {
            return Ok(None);
        }
        if self.held.len() >= self.bounds.letters || self.held_bytes >= self.bounds.bytes {
            return Ok(None);
        }
        self.left -= 1;
        self.gone += 1;
        Ok(self.taken.pop_front())
    }

    /// It stays: it is given back at the end.
    pub(super) fn hold(&mut self, delivery: Delivery) {
        self.gone -= 1;
        self.held_here += 1;
        self.held_bytes += delivery.message().size();
        self.held.push(delivery);
    }

    /// Gives back what stays, in the order in which it came; says whether everything was
    /// seen.
    pub(super) async fn end(mut self) -> Result<bool, TransportError> {
        // First of all, so that nothing comes again.
        if let Some(mut consumer) = self.consumer.take() {
            consumer.stop();
        }
        for delivery in self.held.drain(..).chain(self.taken.drain(..)) {
            delivery.nack_requeue();
        }
        let flushed = timeout(END_WITHIN, self.transport.flush()).await;
        flushed.unwrap_or_else(|_| Err(TransportError::Lost(NO_ANSWER.into())))?;
        // Whatever comes of it: everything is done.
        let back = ready(self.transport, &self.queue, self.depth - self.gone);
        let _seen = timeout(BACK_WITHIN, back).await;
        Ok(self.left == 0)
    }

    /// Waits for more; `false` if there is none.
    async fn fetch(&mut self) -> Result<bool, TransportError> {
        if self.left == 0 || self.held.len() >= self.bounds.letters {
            return Ok(false);
        }
        if self.held_here >= PAGE {
            // What it handed out can still be settled.
            self.consumer = None;
        }
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => {
                self.held_here = 0;
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
                    // Somebody else took the rest: there is nothing left to see.
                    self.left = 0;
                    return Ok(false);
                }
                Err(_) => {}
            }
        }
        // The rest stays unseen, which the caller says.
        Ok(false)
    }
}

/// Waits until so many are ready: a broker takes letters back in its own time, and whoever
/// looks next, perhaps at once, is to find them.
async fn ready(transport: &dyn Transport, queue: &QueueId, letters: u64) {
    while let Ok(depth) = transport.depth(queue).await
        && depth.ready < letters
    {
        sleep(ASK_EVERY).await;
    }
}
