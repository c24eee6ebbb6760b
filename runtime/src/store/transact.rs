//! The job that does a message's transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::inbox::{self, Entry};
use super::{LATER, Opened, Row, Tx};
use crate::failure::Failure;
use crate::host::Environment;
use crate::message::Message;
use crate::service::Held;
use crate::sqlite::{Job, SqliteError, Transaction};

/// How far the transaction of a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It was handed over, and nobody has heard of it yet.
    Begun,
    /// It is done; with the reply that was kept.
    Done(Option<Bytes>),
    /// The message was done before; with the reply that was kept.
    Before(Option<Bytes>),
}

/// What a transaction has in hand.
pub(crate) struct Hand {
    pub(crate) env: Arc<Environment>,
    pub(crate) message: Option<Message>,
    pub(crate) input: Arc<str>,
    pub(crate) place: usize,
    /// What it emits: also what the handler had emitted before.
    pub(crate) held: Vec<Held>,
    /// Whether it may emit.
    pub(crate) emits: bool,
    pub(crate) now_ms: u64,
    pub(crate) reply: Option<Bytes>,
}

/// How a transaction went.
pub(crate) enum Answer<R> {
    /// It is on the disk.
    Done(R, Option<Bytes>),
    /// The message was done before.
    Before(Option<Bytes>),
    /// Nothing was done: the outbox is full.
    NoRoom,
    /// Nothing was done.
    Failed(Failure),
}

pub(super) struct Transact<F, R> {
    opened: Arc<Opened>,
    hand: Hand,
    keeps_inbox: bool,
    work: Option<F>,
    answer: Option<Answer<R>>,
    rows: Vec<Row>,
    waiter: Option<oneshot::Sender<Answer<R>>>,
}

impl<F, R> Transact<F, R> {
    pub(super) fn new(
        opened: Arc<Opened>,
        hand: Hand,
        keeps_inbox: bool,
        work: F,
    ) -> (Box<Self>, oneshot::Receiver<Answer<R>>) {
        let (waiter, receiver) = oneshot::channel();
        let job = Self {
            opened,
            hand,
            keeps_inbox,
            work: Some(work),
            answer: None,
            rows: Vec::new(),
            waiter: Some(waiter),
        };
        (Box::new(job), receiver)
    }
}

impl<F, R> Transact<F, R>
where
    F: FnOnce(&mut Tx<'_>) -> Result<R, Failure>,
{
    fn transact(&mut self, tx: &Transaction<'_>) -> Result<Answer<R>, SqliteError> {
        // What has no id of its sender's has another one next time.
        let entered = self.hand.message.clone();
        let entered = entered.filter(|message| self.keeps_inbox && !message.anonymous);
        if let Some(message) = &entered
            && let Entry::Done(reply) =
                inbox::enter(tx, message, &self.hand.input, self.hand.now_ms)?
        {
            return Ok(Answer::Before(reply.map(Bytes::from)));
        }
        let work = self.work.take().expect("a job runs once");
        let hand = &mut self.hand;
        let value = tx.fenced(|connection| work(&mut Tx::new(connection, hand)));
        if tx.is_autocommit() {
            // SQLite has rolled it back by itself: there is no room, or the disk is at fault. Who
            // goes on after that has nothing done either.
            let failure = value.err().unwrap_or_else(rolled_back);
            return Ok(Answer::Failed(Failure::defer(LATER, failure)));
        }
        let value = match value {
            Ok(value) => value,
            Err(failure) => return Ok(Answer::Failed(failure)),
        };
        // A tick is no message that could come again later.
        let adds = self.hand.message.is_some() && !self.hand.held.is_empty();
        if adds && self.opened.outbox.is_full() {
            return Ok(Answer::NoRoom);
        }
        for held in std::mem::take(&mut self.hand.held) {
            let delay = held.delay;
            let due_ms = (!delay.is_zero()).then(|| due_ms(self.hand.now_ms, delay));
            let output = self.hand.env.outputs[held.output].name.clone();
            for outgoing in self.hand.env.outgoing(held.output, held.envelope, delay) {
                self.rows
                    .push(Row::insert(tx, &output, &outgoing.message, due_ms)?);
            }
        }
        let reply = self.hand.reply.take();
        if let (Some(message), Some(reply)) = (&entered, &reply) {
            inbox::keep_reply(tx, message, &self.hand.input, reply)?;
        }
        Ok(Answer::Done(value, reply))
    }
}

impl<F, R> Job for Transact<F, R>
where
    F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    R: Send + 'static,
{
    fn name(&self) -> &str {
        &self.hand.env.label
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        let answer = self.transact(tx)?;
        let outcome = match &answer {
            Answer::NoRoom | Answer::Failed(_) => Err(SqliteError::Undone),
            Answer::Done(..) | Answer::Before(_) => Ok(()),
        };
        self.answer = Some(answer);
        outcome
    }

    fn done(mut self: Box<Self>, outcome: Result<(), SqliteError>) {
        let answer = match (self.answer.take(), outcome) {
            (Some(answer), Ok(()) | Err(SqliteError::Undone)) => answer,
            (_, Err(error)) => Answer::Failed(failed(error)),
            (None, Ok(())) => Answer::Failed(super::closing()),
        };
        match &answer {
            Answer::Done(..) => self.opened.outbox.committed(std::mem::take(&mut self.rows)),
            Answer::Before(_) => self.opened.repeated.add(1),
            Answer::NoRoom | Answer::Failed(_) => {}
        }
        if let Some(waiter) = self.waiter.take() {
            // A handler that ran out of time has gone: the inbox tells the next one.
            let _gone = waiter.send(answer);
        }
    }
}

fn rolled_back() -> Failure {
    Failure::retry("SQLite has rolled the transaction back")
}

/// When something is due, as the store can keep it: at most as late as its numbers go.
fn due_ms(now_ms: u64, delay: Duration) -> u64 {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(delay_ms).min(i64::MAX as u64)
}

fn failed(error: SqliteError) -> Failure {
    match error {
        // Not the message's fault.
        SqliteError::Full { .. } | SqliteError::Unusable { .. } | SqliteError::Closed => {
            Failure::defer(LATER, error)
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_never_is_not_due_before() {
        let now_ms = 1_700_000_000_000;
        assert_eq!(due_ms(now_ms, Duration::from_secs(1)), now_ms + 1_000);
        let ends = i64::MAX as u64;
        for delay in [Duration::MAX, Duration::from_millis(u64::MAX)] {
            assert_eq!(due_ms(now_ms, delay), ends);
        }
    }
}
