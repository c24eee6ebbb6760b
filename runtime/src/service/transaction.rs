//! The transaction of a message: a database job that writes the inbox entry, the changes of
//! the service and the emitted messages in one commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::entity::EntityWrite;
use super::tx::{Tx, TxInput};
use crate::failure::Failure;
use crate::sqlite::{Job, SqliteError, Transaction};
use crate::store::{Entry, OpenStore, Row, entities, inbox};

/// Delay before a message is retried whose transaction could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The result of a transaction.
pub(super) enum TxResult<R> {
    /// Committed, with the stored reply.
    Committed(R, Option<Bytes>),
    /// Nothing was done: the inbox has the message, with the stored reply.
    AlreadyDone(Option<Bytes>),
    /// Nothing was done: the outbox is full.
    OutboxFull,
    /// Nothing was done.
    Failed(Failure),
}

/// The database job of one transaction.
pub(super) struct TxJob<F, R> {
    store: Arc<OpenStore>,
    input: TxInput,
    uses_inbox: bool,
    work: Option<F>,
    result: Option<TxResult<R>>,
    /// Rows added to the outbox.
    rows: Vec<Row>,
    waiter: Option<oneshot::Sender<TxResult<R>>>,
}

impl<F, R> TxJob<F, R> {
    pub(super) fn new(
        store: Arc<OpenStore>,
        input: TxInput,
        uses_inbox: bool,
        work: F,
    ) -> (Box<Self>, oneshot::Receiver<TxResult<R>>) {
        let (waiter, receiver) = oneshot::channel();
        let job = Self {
            store,
            input,
            uses_inbox,
            work: Some(work),
            result: None,
            rows: Vec::new(),
            waiter: Some(waiter),
        };
        (Box::new(job), receiver)
    }
}

impl<F, R> TxJob<F, R>
where
    F: FnOnce(&mut Tx<'_>) -> Result<R, Failure>,
{
    fn transact(&mut self, tx: &Transaction<'_>) -> Result<TxResult<R>, SqliteError> {
        // An anonymous message gets another id when it comes again: the inbox can't find it.
        let entered = self.input.message.clone();
        let entered = entered.filter(|message| self.uses_inbox && !message.anonymous);
        if let Some(message) = &entered
            && let Entry::Done(reply) =
                inbox::enter(tx, message, &self.input.input, self.input.now_ms)?
        {
            return Ok(TxResult::AlreadyDone(reply.map(Bytes::from)));
        }
        let work = self.work.take().expect("a job runs once");
        let input = &self.input;
        let value = tx.restricted(|connection| work(&mut Tx::new(connection, input)));
        if tx.is_autocommit() {
            // SQLite itself rolled the transaction back, because of a full or failing disk.
            // The closure may have continued after that; none of it is in the database.
            let failure = value.err().unwrap_or_else(rolled_back);
            return Ok(TxResult::Failed(Failure::defer(RETRY_AFTER, failure)));
        }
        let value = match value {
            Ok(value) => value,
            Err(failure) => return Ok(TxResult::Failed(failure)),
        };
        let entity = self.input.entity.take();
        if let Some(entity) = &entity
            && !save(tx, entity, self.input.now_ms)?
        {
            return Ok(TxResult::Failed(saved_by_another()));
        }
        // A tick can't be deferred, so its emits may exceed the limit.
        let reminds = entity.as_ref().is_some_and(|it| !it.reminders.is_empty());
        let emits = reminds || !self.input.emits.get_mut().is_empty();
        let adds = self.input.message.is_some() && emits;
        if adds && self.store.outbox.is_full() {
            return Ok(TxResult::OutboxFull);
        }
        self.insert_emits(tx)?;
        if let Some(entity) = entity {
            self.write_reminders(tx, &entity)?;
        }
        let reply = self.input.reply.take();
        if let (Some(message), Some(reply)) = (&entered, &reply) {
            inbox::store_reply(tx, message, &self.input.input, reply)?;
        }
        Ok(TxResult::Committed(value, reply))
    }

    /// Sets the reminders of an entity, and removes those that are handled or cancelled.
    fn write_reminders(
        &mut self,
        tx: &Transaction<'_>,
        entity: &EntityWrite,
    ) -> Result<(), SqliteError> {
        let key = entity.key.as_str();
        for reminder in &entity.reminders {
            self.rows.push(entities::remind(tx, key, reminder)?);
        }
        for id in &entity.removed {
            entities::remove_reminder(tx, key, id)?;
        }
        Ok(())
    }

    fn insert_emits(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        let publisher = &self.input.publisher;
        for emit in self.input.emits.take() {
            let delay = emit.delay;
            let due_ms = (!delay.is_zero()).then(|| due_ms(self.input.now_ms, delay));
            let output = &publisher.outputs[emit.output].name;
            for outgoing in publisher.outgoing(emit.output, emit.envelope, delay) {
                self.rows
                    .push(Row::insert(tx, output, &outgoing.message, due_ms)?);
            }
        }
        Ok(())
    }
}

impl<F, R> Job for TxJob<F, R>
where
    F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    R: Send + 'static,
{
    fn name(&self) -> &str {
        &self.input.publisher.label
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        let result = self.transact(tx)?;
        let outcome = match &result {
            TxResult::OutboxFull | TxResult::Failed(_) => Err(SqliteError::Undone),
            TxResult::Committed(..) | TxResult::AlreadyDone(_) => Ok(()),
        };
        self.result = Some(result);
        outcome
    }

    fn done(mut self: Box<Self>, outcome: Result<(), SqliteError>) {
        let result = match (self.result.take(), outcome) {
            (Some(result), Ok(()) | Err(SqliteError::Undone)) => result,
            (_, Err(error)) => TxResult::Failed(write_failure(error)),
            (None, Ok(())) => TxResult::Failed(store_closed()),
        };
        match &result {
            TxResult::Committed(..) => self
                .store
                .outbox
                .add_committed(std::mem::take(&mut self.rows)),
            TxResult::AlreadyDone(_) => self.store.repeated.add(1),
            TxResult::OutboxFull | TxResult::Failed(_) => {}
        }
        if let Some(waiter) = self.waiter.take() {
            // A handler that timed out does not wait any more; the inbox informs its retry.
            let _gone = waiter.send(result);
        }
    }
}

/// Saves the state of an entity. Returns false if another handler has saved it since it was read.
fn save(tx: &Transaction<'_>, entity: &EntityWrite, now_ms: u64) -> Result<bool, SqliteError> {
    let EntityWrite {
        key,
        version,
        state,
        ..
    } = entity;
    entities::save(tx, key.as_str(), *version, state, now_ms)
}

/// A handler that ran out of time saved the entity after all, or the entity was evicted: not the
/// fault of the message, which finds the new state.
fn saved_by_another() -> Failure {
    Failure::defer(Duration::ZERO, "the entity was changed meanwhile")
}

/// The store was closed before the transaction ran: not the fault of the message.
pub(super) fn store_closed() -> Failure {
    Failure::defer(RETRY_AFTER, "the store is closed")
}

fn rolled_back() -> Failure {
    Failure::retry("SQLite rolled the transaction back")
}

/// Returns the due time as the store can keep it: at most `i64::MAX`.
fn due_ms(now_ms: u64, delay: Duration) -> u64 {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(delay_ms).min(i64::MAX as u64)
}

fn write_failure(error: SqliteError) -> Failure {
    match error {
        // Not the fault of the message.
        SqliteError::Full { .. } | SqliteError::Unusable { .. } | SqliteError::Closed => {
            Failure::defer(RETRY_AFTER, error)
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_without_end_is_the_latest_due_time_that_the_store_can_keep() {
        let now_ms = 1_700_000_000_000;
        assert_eq!(due_ms(now_ms, Duration::from_secs(1)), now_ms + 1_000);
        let latest = i64::MAX as u64;
        for delay in [Duration::MAX, Duration::from_millis(u64::MAX)] {
            assert_eq!(due_ms(now_ms, delay), latest);
        }
    }
}
