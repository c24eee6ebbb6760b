//! A delivery: a message taken from a transport, to be settled exactly once.
//!
//! Owns the rule that nothing taken is forgotten: a delivery that is dropped gives
//! itself back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::dead_letter::DeadLetter;
use crate::message::Message;

/// A message in hand, with the duty to settle it.
///
/// Settling consumes it, so it happens once. Dropping it unsettled gives it back, as
/// [`nack_requeue`](Delivery::give_back) does.
pub struct Delivery {
    parcel: Option<DeliveryParts>,
    settler: Arc<dyn Settle>,
    input: u16,
    taken: Instant,
}

/// What a transport needs to settle a delivery.
#[derive(Debug)]
pub struct DeliveryParts {
    /// The message.
    pub message: Message,
    /// Which attempt this is, from 1. Crashes count.
    pub attempt: u32,
    /// In how many of the attempts before this one the process died, with this message
    /// tried alone. Nothing is blamed on a message that was in hand beside others.
    pub crashes: u32,
    /// The transport's own mark, such as an AMQP delivery tag.
    pub tag: u64,
}

/// The way back from a delivery to its transport.
///
/// # Contract
/// - Called exactly once for each delivery, from any thread, also while unwinding: it
///   must not block and must not panic.
/// - It only starts the work. If it fails afterwards (the connection is gone), the
///   message must be delivered again: settling is a promise not to lose, never proof.
pub trait Settle: Send + Sync {
    /// Carries out what was decided about a delivery.
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement);
}

/// What is to happen with a delivery.
#[derive(Debug)]
pub enum Settlement {
    /// Done: forget it. With a reply, for an asker.
    Ack(Option<Reply>),
    /// Not dealt with: deliver it again soon, as if it had not been taken.
    Requeue,
    /// Deliver it again to the same input after a while, as the given attempt. The
    /// wait survives whatever the transport survives.
    Retry {
        /// How long to wait; transports may round it up.
        after: Duration,
        /// What the next delivery's [`Delivery::attempt`] is to be.
        attempt: u32,
    },
    /// Given up: keep it in the dead-letter queue, with the reason. An asker is told.
    DeadLetter(Box<DeadLetter>),
}

/// What an asker gets: the payload of the answer, or why there is none.
pub type Reply = Result<Bytes, String>;

impl Delivery {
    /// Made by a transport when a message is taken from a queue.
    pub fn new(parcel: DeliveryParts, settler: Arc<dyn Settle>) -> Self {
        Self::taken_at(parcel, settler, Instant::now())
    }

    /// Like [`new`](Delivery::new), with a time already read, for many at once.
    pub fn taken_at(parcel: DeliveryParts, settler: Arc<dyn Settle>, taken: Instant) -> Self {
        Self {
            parcel: Some(parcel),
            settler,
            input: 0,
            taken,
        }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.parcel().message
    }

    /// Which attempt this is: 1, and one more for each failure that counted.
    pub fn attempt(&self) -> u32 {
        self.parcel().attempt
    }

    /// How often a process has died while it tried this message alone.
    pub fn crashes(&self) -> u32 {
        self.parcel().crashes
    }

    /// When it was taken from the transport.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// The number of the input port that it came in by.
    pub fn input(&self) -> usize {
        usize::from(self.input)
    }

    pub(crate) fn set_input(&mut self, input: u16) {
        self.input = input;
    }

    /// Settles it as given.
    pub fn settle(mut self, settlement: Settlement) {
        if let Some(parcel) = self.parcel.take() {
            self.settler.settle(parcel, settlement);
        }
    }

    /// Done.
    pub fn ack(self) {
        self.settle(Settlement::Ack(None));
    }

    /// Not dealt with: to be delivered again soon. No attempt is counted.
    pub fn nack_requeue(self) {
        self.settle(Settlement::Requeue);
    }

    fn parcel(&self) -> &DeliveryParts {
        self.parcel
            .as_ref()
            .expect("a delivery has its parcel until it is settled")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            self.settler.settle(parcel, Settlement::Requeue);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("parcel", &self.parcel)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}
