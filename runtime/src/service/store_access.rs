//! Access to the service's own database, from a handler.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use tracing::warn;

use super::context::{Context, TxState, Work};
use super::entity::EntityWrite;
use super::transaction::{TxJob, TxResult, store_closed};
use super::tx::{Tx, TxInput};
use crate::failure::Failure;
use crate::sqlite::{Job, SqliteError};
use crate::store::OpenStore;

/// Pause of a service whose outbox is full, before it takes messages again.
const OUTBOX_FULL_PAUSE: Duration = Duration::from_secs(1);

/// The service's own database, for the handled message. Obtained from [`Context::store`].
///
/// The transactions of all instances run one after the other. Several of them share one
/// `fsync`, so more instances give more throughput.
///
/// ```
/// use brickwork::prelude::*;
/// use brickwork::sqlite::Migration;
/// # #[derive(Serialize, Deserialize, JsonSchema)]
/// # struct Reserve { sku: String, quantity: u32 }
/// # #[derive(Serialize, Deserialize, JsonSchema)]
/// # struct Reserved { left: u32 }
/// # const REQUESTS: Input<Reserve> = Input::new("requests");
/// # const RESERVED: Output<Reserved> = Output::new("reserved");
///
/// struct Stock;
///
/// impl Service for Stock {
///     const NAME: &'static str = "stock";
///     const STORE: &'static [Migration] = &[Migration::new(
///         "items",
///         "CREATE TABLE item (sku TEXT PRIMARY KEY, quantity INTEGER NOT NULL) STRICT",
///     )];
/// #   type Config = NoConfig;
/// #   fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
/// #       ports.input(&REQUESTS).output(&RESERVED);
/// #   }
/// #   async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
/// }
///
/// impl Handle<Reserve> for Stock {
///     async fn handle(&mut self, wanted: Reserve, cx: &mut Context) -> Result<(), Failure> {
///         let work = move |tx: &mut Tx<'_>| {
///             let left: u32 = tx
///                 .prepare_cached(
///                     "UPDATE item SET quantity = quantity - ?2 WHERE sku = ?1 RETURNING quantity",
///                 )?
///                 .query_row((&wanted.sku, wanted.quantity), |row| row.get(0))?;
///             tx.emit(&RESERVED, Reserved { left })
///         };
///         cx.store()?.transact(work).await
///     }
/// }
/// ```
pub struct Store<'a> {
    opened: Arc<OpenStore>,
    cx: &'a Context,
    uses_inbox: bool,
}

impl Context {
    /// Returns the service's own database. The manifest entry of the service needs
    /// `store = true`.
    ///
    /// # Errors
    /// A [`Failure::reject`] if the service has no store.
    pub fn store(&self) -> Result<Store<'_>, Failure> {
        Ok(Store {
            opened: self.opened_store()?,
            cx: self,
            uses_inbox: true,
        })
    }

    pub(super) fn opened_store(&self) -> Result<Arc<OpenStore>, Failure> {
        self.store.clone().ok_or_else(|| {
            Failure::reject(format!(
                "the service has no store: set services.{}.store = true in the manifest",
                self.publisher.label
            ))
        })
    }
}

impl Store<'_> {
    /// Leaves the inbox out: the message is neither looked up nor entered. For effects that
    /// may happen again when the message is redelivered.
    #[must_use]
    pub fn without_inbox(mut self) -> Self {
        self.uses_inbox = false;
        self
    }

    /// Runs the one transaction of the handled message: the changes and emits of the closure,
    /// the earlier emits of this handler, and the inbox entry commit together or not at all.
    ///
    /// After `Ok` the message is done, whatever the handler does next. A tick and `start` have
    /// no message, so they write no inbox entry.
    ///
    /// The closure runs on a writer thread and holds up other transactions: it must be short.
    /// Its statements are stopped after 5 s.
    ///
    /// # Errors
    /// - The error of the closure, or the database can't be written: nothing was done, and
    ///   the failure decides about a retry.
    /// - The inbox has the message: the closure was not called. The host acks the message and
    ///   sends the stored reply, whatever the handler returns, so return the error with `?`.
    /// - The message had its transaction already.
    pub async fn transact<R: Send + 'static>(
        self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.check_no_entity()?;
        if !self.cx.batch.is_empty() {
            return Err(Failure::reject(
                "a batch handler has a transaction for each value: transact_each",
            ));
        }
        let message = 0;
        let (job, result) = self.prepare(message, work)?;
        self.opened.database.submit(job);
        let result = result.await;
        self.finish(message, result)
    }

    /// Runs a transaction apart from the handled message: it is committed whatever the handler does
    /// next, and runs again when the message is delivered again. It can't emit. For the things that
    /// a service learns while it fails, such as the number of tries.
    ///
    /// # Errors
    /// The error of the closure, or the database can't be written: nothing was done.
    pub async fn transact_apart<R: Send + 'static>(
        self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.check_no_entity()?;
        let input = TxInput {
            message: None,
            publisher: self.cx.publisher.clone(),
            input: self.cx.input_name(),
            index: 0,
            emits: RefCell::default(),
            may_emit: false,
            now_ms: self.cx.now_ms(),
            reply: RefCell::default(),
            entity: None,
        };
        let (job, result) = TxJob::new(self.opened.clone(), input, false, work);
        self.opened.database.submit(job);
        match result.await.unwrap_or(TxResult::Failed(store_closed())) {
            TxResult::Committed(value, _) => Ok(value),
            TxResult::Failed(failure) => Err(failure),
            TxResult::AlreadyDone(_) | TxResult::OutboxFull => {
                unreachable!("it has no message and emits nothing")
            }
        }
    }

    /// Runs one transaction for each of several values of a batch, given by index. They are
    /// submitted together and share commits. The results are in the order of `works`.
    ///
    /// Each result has the errors of [`transact`](Store::transact), and one for an index that
    /// the batch does not have.
    pub async fn transact_each<R, F>(
        self,
        works: impl IntoIterator<Item = (usize, F)>,
    ) -> Vec<(usize, Result<R, Failure>)>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    {
        let mut jobs = Vec::new();
        let submitted: Vec<_> = works
            .into_iter()
            .map(|(index, work)| {
                let submitted = match self.cx.message_of_value(index) {
                    None => Err(Failure::reject(format!("the batch has no value {index}"))),
                    Some(message) => self.prepare(message, work).map(|(job, result)| {
                        jobs.push(job);
                        (message, result)
                    }),
                };
                (index, submitted)
            })
            .collect();
        // Submitted one by one, the first job would get a commit of its own.
        self.opened.database.submit_all(jobs);
        let mut results = Vec::with_capacity(submitted.len());
        for (index, submitted) in submitted {
            let result = match submitted {
                Ok((message, result)) => {
                    let result = result.await;
                    self.finish(message, result)
                }
                Err(failure) => Err(failure),
            };
            results.push((index, result));
        }
        results
    }

    /// Runs the transaction of an entity's message: its state, reminders, the emits of the handler
    /// and the inbox entry commit together or not at all.
    pub(super) async fn save_entity(
        self,
        write: EntityWrite,
        reply: Option<Bytes>,
    ) -> Result<(), Failure> {
        let mut input = self.cx.tx_input(0)?;
        input.entity = Some(write);
        input.reply = RefCell::new(reply);
        let (job, result) = TxJob::new(self.opened.clone(), input, true, |_: &mut Tx<'_>| Ok(()));
        self.opened.database.submit(job);
        let result = result.await;
        self.finish(0, result.unwrap_or(TxResult::Failed(store_closed())))
    }

    /// The message of an entity has one transaction, which saves the entity.
    fn check_no_entity(&self) -> Result<(), Failure> {
        match &self.cx.entity {
            None => Ok(()),
            Some(_) => Err(Failure::reject(
                "an entity has no transactions of its own: its state is saved when the handler \
                 succeeds",
            )),
        }
    }

    /// Reads committed data without waiting for writers. All statements of the closure see
    /// the same snapshot.
    ///
    /// # Errors
    /// The error of the closure, or the database can't be read.
    pub async fn read<R: Send + 'static>(
        self,
        work: impl FnOnce(&Connection) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let name = self.cx.service().to_owned();
        let reading = self
            .opened
            .database
            .read(&name, move |connection| work(connection).map_err(ReadError));
        reading.await.map_err(|ReadError(failure)| failure)
    }

    /// Returns the job of a message's transaction, and the future of its result.
    fn prepare<R, F>(
        &self,
        message: usize,
        work: F,
    ) -> Result<PreparedTx<impl Future<Output = TxResult<R>> + use<R, F>>, Failure>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    {
        let input = self.cx.tx_input(message)?;
        let (job, result) = TxJob::new(self.opened.clone(), input, self.uses_inbox, work);
        let result = async move { result.await.unwrap_or(TxResult::Failed(store_closed())) };
        Ok((job, result))
    }

    /// Records the result of a message's transaction in the context.
    fn finish<R>(&self, message: usize, result: TxResult<R>) -> Result<R, Failure> {
        let (state, result) = match result {
            TxResult::Committed(value, reply) => (Some(TxState::Committed(reply)), Ok(value)),
            TxResult::AlreadyDone(reply) => {
                let failure = Failure::defer(Duration::ZERO, "the message was done before");
                (Some(TxState::AlreadyDone(reply)), Err(failure))
            }
            TxResult::OutboxFull => (None, Err(self.outbox_full())),
            TxResult::Failed(failure) => (None, Err(failure)),
        };
        let mut transactions = self.cx.transactions.borrow_mut();
        let entry = transactions.iter().position(|(index, _)| *index == message);
        if let Some(entry) = entry {
            match state {
                Some(state) => transactions[entry].1 = state,
                None => drop(transactions.swap_remove(entry)),
            }
        }
        result
    }

    /// Pauses the service, because this message can't emit into a full outbox.
    ///
    /// After the pause some messages are tried: those that emit nothing succeed. So a service
    /// that waits for a reply of this one gets it even if all queues of a cycle are full.
    fn outbox_full(&self) -> Failure {
        let waiting = self.opened.outbox.waiting();
        if let Some(suppressed) = self.cx.control.publish_log.event() {
            let service = self.cx.service();
            warn!(
                service,
                waiting, suppressed, "outbox full: messages wait until it is half empty"
            );
        }
        self.cx.control.pause(OUTBOX_FULL_PAUSE);
        Failure::defer(
            OUTBOX_FULL_PAUSE,
            format!("the outbox is full, it holds {waiting} messages"),
        )
    }
}

impl Context {
    /// Returns the index of the message behind a value of a batch.
    fn message_of_value(&self, index: usize) -> Option<usize> {
        match (&self.work, self.batch.get(index)) {
            (Work::Batch(_) | Work::Message(..), Some(message)) => Some(*message),
            _ => None,
        }
    }

    /// Returns the input of a message's transaction, with the emits of the handler so far.
    fn tx_input(&self, message: usize) -> Result<TxInput, Failure> {
        if self.transaction(message).is_some() {
            return Err(Failure::reject("a message has one transaction"));
        }
        let mut emits = self.emits.borrow_mut();
        let emits = emits.extract_if(.., |emit| emit.message == message);
        let emits = RefCell::new(emits.collect());
        if !matches!(self.work, Work::None | Work::Tick) {
            let submitted = (message, TxState::Submitted);
            self.transactions.borrow_mut().push(submitted);
        }
        Ok(TxInput {
            message: self.message_at(message).cloned(),
            publisher: self.publisher.clone(),
            input: self.input_name(),
            index: message,
            emits,
            may_emit: !matches!(self.work, Work::None),
            now_ms: self.now_ms(),
            reply: RefCell::default(),
            entity: None,
        })
    }
}

/// A job to submit and the future of its result.
type PreparedTx<A> = (Box<dyn Job>, A);

/// The failure of a reading closure, or of the database.
struct ReadError(Failure);

impl From<SqliteError> for ReadError {
    fn from(error: SqliteError) -> Self {
        Self(error.into())
    }
}
