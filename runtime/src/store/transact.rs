//! The job that does a message's transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::inbox::{self, Entry};
use super::{LATER, OpenStore, Row, Tx};
use crate::failure::Failure;
use crate::host::ServiceRun;
use crate::message::Message;
use crate::service::PendingEmit;
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
pub(crate) struct TxInput {
    pub(crate) env: Arc<ServiceRun>,
    pub(crate) message: Option<Message>,
    pub(crate) input: Arc<str>,
    pub(crate) place: usize,
    /// What it emits: also what the handler had emitted before.
    pub(crate) held: Vec<PendingEmit>,
    /// Whether it may emit.
    pub(crate) emits: bool,
    pub(crate) now_ms: u64,
    pub(crate) reply: Option<Bytes>,
}

/// How a transaction went.
pub(crate) enum TxResult<R> {
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
    opened: Arc<OpenStore>,
    hand: TxInput,
    keeps_inbox: bool,
    work: Option<F>,
    answer: Option<TxResult<R>>,
    rows: Vec<Row>,
    waiter: Option<oneshot::Sender<TxResult<R>>>,
}

impl<F, R> Transact<F, R> {
    pub(super) fn new(
        opened: Arc<OpenStore>,
        hand: TxInput,
        keeps_inbox: bool,
        work: F,
    ) -> (Box<Self>, oneshot::Receiver<TxResult<R>>) {
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
    fn transact(&mut self, tx: &Transaction<'_>) -> Result<TxResult<R>, SqliteError> {
        // What has no id of its sender's has another one next time.
        let entered = self.hand.message.clone();
        let entered = entered.filter(|message| self.keeps_inbox && !message.anonymous);
        if let Some(message) = &entered
            && let Entry::Done(reply) =
                inbox::enter(tx, message, &self.hand.input, self.hand.now_ms)?
        {
            return Ok(TxResult::Before(reply.map(Bytes::from)));
        }
        let work = self.work.take().expect("a job runs once");
        let hand = &mut self.hand;
        let value = tx.fenced(|connection| work(&mut Tx::new(connection, hand)));
        if tx.is_autocommit() {
            // SQLite has rolled it back by itself: there is no room, or the disk is at fault. Who
            // goes on after that has nothing done either.
            let failure = value.err().unwrap_or_else(rolled_back);
            return Ok(TxResult::Failed(Failure::defer(LATER, failure)));
        }
        let value = match value {
            Ok(value) => value,
            Err(failure) => return Ok(TxResult::Failed(failure)),
        };
        // A tick is no message that could come again later.
        let adds = self.hand.message.is_some() && !self.hand.held.is_empty();
        if adds && self.opened.outbox.is_full() {
            return Ok(TxResult::NoRoom);
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
        Ok(TxResult::Done(value, reply))
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
            TxResult::NoRoom | TxResult::Failed(_) => Err(SqliteError::Undone),
            TxResult::Done(..) | TxResult::Before(_) => Ok(()),
        };
        self.answer = Some(answer);
        outcome
    }

    fn done(mut self: Box<Self>, outcome: Result<(), SqliteError>) {
        let answer = match (self.answer.take(), outcome) {
            (Some(answer), Ok(()) | Err(SqliteError::Undone)) => answer,
            (_, Err(error)) => TxResult::Failed(failed(error)),
            (None, Ok(())) => TxResult::Failed(super::closing()),
        };
        match &answer {
            TxResult::Done(..) => self.opened.outbox.committed(std::mem::take(&mut self.rows)),
            TxResult::Before(_) => self.opened.repeated.add(1),
            TxResult::NoRoom | TxResult::Failed(_) => {}
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
