//! Deliveries: messages taken from a transport, each to be settled exactly once.
//!
//! Owns the rule that no message is lost in the process: a delivery that is dropped requeues its
//! message.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::dead_letter::DeadLetter;
use crate::key::Key;
use crate::message::Message;

/// A message in flight, with the duty to settle it.
///
/// Settling consumes the delivery, so it happens once. Dropping it unsettled requeues the message,
/// as [`nack_requeue`](Delivery::nack_requeue) does.
pub struct Delivery {
    parts: Option<DeliveryParts>,
    settler: Arc<dyn Settle>,
    input: u16,
    taken: Instant,
    key: Option<Key>,
    /// Holds messages behind this one until it is settled.
    holder: Option<Weak<dyn KeyHolder>>,
}

/// The parts of a delivery that its transport needs to settle it.
#[derive(Debug)]
pub struct DeliveryParts {
    /// The message.
    pub message: Message,
    /// Number of this attempt, from 1. Crashes that the message is blamed for count.
    pub attempt: u32,
    /// Number of crashes that the message is blamed for: see
    /// [`supervision::quarantine`](crate::supervision::quarantine).
    pub crashes: u32,
    /// The transport's own mark, such as an AMQP delivery tag.
    pub tag: u64,
}

/// Settles deliveries: implemented by transports.
///
/// # Contract
/// - Called exactly once for each delivery, from any thread, also while unwinding. It must not
///   block and must not panic.
/// - It only starts the work. If the work fails later (the connection is lost), the transport must
///   redeliver the message. Settling means that the message is not lost; it does not prove that it
///   is gone.
pub trait Settle: Send + Sync {
    /// Settles a delivery.
    fn settle(&self, parts: DeliveryParts, settlement: Settlement);

    /// Notes that a message with a [key](Key) waits for its next attempt without being settled,
    /// so that later messages of the key can't overtake it. `parts` have the attempt already: if
    /// the message is requeued, its next delivery has that attempt. A durable transport stores
    /// it, so that it survives a crash.
    ///
    /// Returns `false` if the delivery must not stay unsettled for long. It is then settled with
    /// [`Settlement::Retry`], and the transport keeps the order.
    fn note_attempt(&self, parts: &DeliveryParts) -> bool {
        let _ = parts;
        true
    }
}

/// Holds the messages behind a busy key.
pub(crate) trait KeyHolder: Send + Sync {
    /// The message that kept the key busy is done.
    fn finished(&self, key: &Key);

    /// The message that kept the key busy is in its queue again, unhandled: the messages of its
    /// input that wait behind it return, too.
    fn returned(&self, key: &Key, input: usize);
}

/// The outcome of a delivery.
#[derive(Debug)]
pub enum Settlement {
    /// The message is done. With a reply for the asker, if there is one.
    Ack(Option<Reply>),
    /// The message was not handled: redeliver it soon, as the same attempt.
    Requeue,
    /// Redeliver the message to the same input after a delay, as the given attempt. The delay is as
    /// durable as the transport.
    Retry {
        /// The delay. Transports may round it up.
        after: Duration,
        /// The value of the next delivery's [`Delivery::attempt`].
        attempt: u32,
    },
    /// The message is given up: move it to the dead-letter queue with the reason. The asker gets
    /// an error.
    DeadLetter(Box<DeadLetter>),
}

/// Reply for an asker: the payload, or an error text.
pub type Reply = Result<Bytes, String>;

impl Delivery {
    /// Creates a delivery: called by a transport when it takes a message from a queue.
    pub fn new(parts: DeliveryParts, settler: Arc<dyn Settle>) -> Self {
        Self::taken_at(parts, settler, Instant::now())
    }

    /// Creates a delivery with a time that was read before, for many deliveries at once.
    pub fn taken_at(parts: DeliveryParts, settler: Arc<dyn Settle>, taken: Instant) -> Self {
        Self {
            parts: Some(parts),
            settler,
            input: 0,
            taken,
            key: None,
            holder: None,
        }
    }

    /// Returns the message.
    pub fn message(&self) -> &Message {
        &self.parts().message
    }

    /// Returns the number of the attempt: 1, and one more for each failure that counts.
    pub fn attempt(&self) -> u32 {
        self.parts().attempt
    }

    /// Returns the number of crashes that the message is blamed for.
    pub fn crashes(&self) -> u32 {
        self.parts().crashes
    }

    /// Returns the time at which it was taken from the transport.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// Returns the index of the input port.
    pub fn input(&self) -> usize {
        usize::from(self.input)
    }

    /// Returns the key; `None` if the service has none.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    pub(crate) fn set_key(&mut self, key: Key) {
        self.key = Some(key);
    }

    /// Lets the key be busy until the delivery is settled.
    pub(crate) fn set_holder(&mut self, holder: Weak<dyn KeyHolder>) {
        self.holder = Some(holder);
    }

    /// Notes the number of the next attempt, for which the delivery waits unsettled. Returns
    /// `false` if it must not: see [`Settle::note_attempt`].
    pub(crate) fn note_attempt(&mut self, attempt: u32) -> bool {
        let Some(parts) = &mut self.parts else {
            return false;
        };
        let before = std::mem::replace(&mut parts.attempt, attempt);
        let noted = self.settler.note_attempt(parts);
        if !noted {
            parts.attempt = before;
        }
        noted
    }

    /// Sets the time from which it waits for an instance.
    pub(crate) fn set_taken(&mut self, taken: Instant) {
        self.taken = taken;
    }

    pub(crate) fn set_input(&mut self, input: u16) {
        self.input = input;
    }

    /// Settles the delivery.
    pub fn settle(mut self, settlement: Settlement) {
        if let Some(parts) = self.parts.take() {
            self.finish(parts, settlement);
        }
    }

    fn finish(&mut self, parts: DeliveryParts, settlement: Settlement) {
        let holder = self.holder.take().and_then(|holder| holder.upgrade());
        let (Some(holder), Some(key)) = (holder, &self.key) else {
            return self.settler.settle(parts, settlement);
        };
        let is_done = matches!(settlement, Settlement::Ack(_) | Settlement::DeadLetter(_));
        self.settler.settle(parts, settlement);
        match is_done {
            true => holder.finished(key),
            false => holder.returned(key, usize::from(self.input)),
        }
    }

    /// Acks the message: it is done.
    pub fn ack(self) {
        self.settle(Settlement::Ack(None));
    }

    /// Requeues the message: it is redelivered soon, as the same attempt.
    pub fn nack_requeue(self) {
        self.settle(Settlement::Requeue);
    }

    fn parts(&self) -> &DeliveryParts {
        self.parts
            .as_ref()
            .expect("a delivery has its parts until it is settled")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            self.finish(parts, Settlement::Requeue);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("parts", &self.parts)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}
