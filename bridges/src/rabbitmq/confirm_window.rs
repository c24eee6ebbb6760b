//! The messages in flight on one confirm channel, and the batches that they belong to.
//!
//! The broker returns a mandatory message that no queue receives, before it confirms it. The
//! client library (lapin 4.12) hands a return over with the next confirm that it processes,
//! which may be for any message. So a return is matched by exchange, routing key and message
//! id, and the success of a mandatory message is held back until its owner has seen every
//! confirm that the library had processed until then.
//!
//! Sends nothing: `publisher` does.

use std::time::Duration;

use brickwork::transport::{Completion, TransportError};
use lapin::message::BasicReturnMessage;
use lapin::types::ShortString;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::error;

use super::flushes::Flushes;
use super::slot_queue::SlotQueue;

/// Exchange, routing key and message id.
pub(super) type Address = (ShortString, ShortString, Option<ShortString>);

/// Messages in flight and open batches.
#[derive(Default)]
pub(super) struct ConfirmWindow {
    /// Batches that are unreported or have messages in flight.
    batches: SlotQueue<OpenBatch>,
    /// Messages in flight, or with a held-back success.
    sent: SlotQueue<Sent>,
    /// Messages with a held-back success.
    held_back: Vec<u64>,
    flushes: Flushes,
}

struct OpenBatch {
    unconfirmed: usize,
    since: Instant,
    failure: Option<TransportError>,
    /// `None` after the outcome was reported.
    done: Option<Completion>,
}

struct Sent {
    batch: u64,
    /// The address of a mandatory message: identifies its return.
    address: Option<Address>,
    returned: Option<TransportError>,
}

impl ConfirmWindow {
    /// Opens a batch of so many messages and returns its number.
    pub(super) fn open(&mut self, messages: usize, since: Instant, done: Completion) -> u64 {
        let batch = self.batches.push(OpenBatch {
            unconfirmed: messages,
            since,
            failure: None,
            done: Some(done),
        });
        self.close_if_done(batch);
        batch
    }

    /// Adds a message of a batch and returns its number.
    pub(super) fn add(&mut self, batch: u64, address: Option<Address>) -> u64 {
        self.sent.push(Sent {
            batch,
            address,
            returned: None,
        })
    }

    /// Number of open batches.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Number of messages in flight, including those with a held-back success.
    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// The address of a mandatory message.
    pub(super) fn address(&mut self, number: u64) -> Option<&Address> {
        self.sent.get_mut(number)?.address.as_ref()
    }

    /// Records a return, for the message with its address.
    pub(super) fn returned(&mut self, message: &BasicReturnMessage) {
        let delivery = &message.delivery;
        let id = delivery.properties.message_id().as_ref();
        let address = (&delivery.exchange, &delivery.routing_key, id);
        let mut sent = self.sent.iter_mut().filter(|(_, sent)| {
            sent.returned.is_none()
                && sent
                    .address
                    .as_ref()
                    .is_some_and(|(exchange, key, id)| (exchange, key, id.as_ref()) == address)
        });
        match sent.next() {
            Some((_, sent)) => {
                let why = format!("no queue receives {}: {}", address.1, message.reply_text);
                sent.returned = Some(TransportError::Refused(why));
            }
            None => error!(key = %address.1, "broker returned an unknown message"),
        }
    }

    /// Records the outcome of a message. Holds the success of a mandatory message back.
    pub(super) fn confirmed(&mut self, number: u64, outcome: Result<(), TransportError>) {
        if outcome.is_ok() && self.address(number).is_some() {
            self.held_back.push(number);
        } else {
            self.settle(number, outcome);
        }
    }

    /// Number of messages with a held-back success.
    pub(super) fn held_back(&self) -> usize {
        self.held_back.len()
    }

    /// Settles the first `count` messages with a held-back success.
    pub(super) fn release(&mut self, count: usize) {
        let rest = self.held_back.split_off(count);
        for number in std::mem::replace(&mut self.held_back, rest) {
            let returned = self.sent.get_mut(number).and_then(|it| it.returned.take());
            self.settle(number, returned.map_or(Ok(()), Err));
        }
    }

    fn settle(&mut self, number: u64, outcome: Result<(), TransportError>) {
        let Some(sent) = self.sent.remove(number) else {
            return;
        };
        if let Some(batch) = self.batches.get_mut(sent.batch) {
            batch.unconfirmed -= 1;
            if let Err(error) = outcome {
                batch.failure.get_or_insert(error);
            }
        }
        self.close_if_done(sent.batch);
    }

    fn close_if_done(&mut self, number: u64) {
        let done = |batch: &mut OpenBatch| batch.unconfirmed == 0;
        if !self.batches.get_mut(number).is_some_and(done) {
            return;
        }
        if let Some(mut batch) = self.batches.remove(number)
            && let Some(done) = batch.done.take()
        {
            done.complete(batch.failure.map_or(Ok(()), Err));
        }
        self.report_flushes();
    }

    /// Answers when every batch that is open now is reported.
    pub(super) fn flush(&mut self, caller: oneshot::Sender<()>) {
        self.flushes.add(self.batches.next(), caller);
        self.report_flushes();
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let mut batches = self.batches.iter_mut();
        let first_open = batches.find(|(_, batch)| batch.done.is_some());
        for caller in self.flushes.take_done(first_open.map(|(number, _)| number)) {
            let _gone = caller.send(());
        }
    }

    /// Reports batches that are older than `limit` as failed and returns whether there were
    /// any. Their messages stay in flight until the broker answers: they may have arrived.
    pub(super) fn expire(&mut self, limit: Duration) -> bool {
        let mut expired = false;
        for (_, batch) in self.batches.iter_mut() {
            if batch.since.elapsed() >= limit
                && let Some(done) = batch.done.take()
            {
                expired = true;
                done.complete(Err(TransportError::Unconfirmed));
            }
        }
        if expired {
            self.report_flushes();
        }
        expired
    }

    /// Removes the last `unsent` messages of a batch, if the batch was reported as failed.
    /// Returns `false` if they must still be sent.
    pub(super) fn withdraw(&mut self, number: u64, unsent: usize) -> bool {
        let Some(batch) = self.batches.get_mut(number) else {
            return true;
        };
        if batch.done.is_some() {
            return false;
        }
        batch.unconfirmed -= unsent;
        if batch.unconfirmed == 0 {
            self.batches.remove(number);
        }
        true
    }

    /// Reports every open batch as failed.
    pub(super) fn fail_all(&mut self, error: &TransportError) {
        for (_, batch) in self.batches.iter_mut() {
            if let Some(done) = batch.done.take() {
                done.complete(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_batch_succeeds_when_all_its_messages_are_released() {
        let mut window = ConfirmWindow::default();
        let (done, outcome) = Completion::channel();
        let mut outcome = Box::pin(outcome);
        let batch = window.open(2, Instant::now(), done);
        let mandatory = window.add(batch, Some(("app".into(), "topic".into(), None)));
        let optional = window.add(batch, None);
        window.confirmed(mandatory, Ok(()));
        window.confirmed(optional, Ok(()));
        assert_eq!((window.held_back(), window.in_flight()), (1, 1));
        assert!((&mut outcome).now_or_never().is_none());
        window.release(1);
        assert!(outcome.await.is_ok());
        assert_eq!((window.batches(), window.in_flight()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_batch_fails_and_its_messages_stay_in_flight() {
        let mut window = ConfirmWindow::default();
        let (done, outcome) = Completion::channel();
        let batch = window.open(3, Instant::now(), done);
        let sent = window.add(batch, None);
        assert!(!window.withdraw(batch, 2), "it can still succeed");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(window.expire(Duration::from_secs(1)));
        assert!(matches!(outcome.await, Err(TransportError::Unconfirmed)));
        assert!(window.withdraw(batch, 2));
        assert_eq!((window.batches(), window.in_flight()), (1, 1));
        window.confirmed(sent, Ok(()));
        assert_eq!((window.batches(), window.in_flight()), (0, 0));
    }
}
