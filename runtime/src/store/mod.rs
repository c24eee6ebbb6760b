//! The store: a service's own database, with what makes its effects happen once.
//!
//! Owns the promise that a message's inbox entry, what the service changed and what it
//! emitted commit together, or not at all. A message that comes again is found in the inbox:
//! it is acked without effect, and who asked gets the reply that was kept. What was emitted
//! waits in the outbox until the transport has taken it over; the service's relay
//! ([`crate::host`]) sees to that.
//!
//! Refuses to open a file for another service, another app, or a second process.

mod inbox;
mod open_store;
mod outbox;
mod stores;
mod transact;
mod tx;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rusqlite::Connection;

use crate::failure::Failure;
use crate::service::Context;
use crate::sqlite::{Job, SqliteError};

pub(crate) use open_store::OpenStore;
pub(crate) use outbox::Row;
pub(crate) use stores::{Stores, file, lock_file};
pub(crate) use transact::Stored;
use transact::Transact;
pub(crate) use transact::{TxInput, TxResult};
pub use tx::Tx;

/// The service's database, with the message in hand.
///
/// Of several instances, each does its transactions one after the other with those of the
/// others, and many of them share one `fsync`: more instances make it faster.
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
    cx: &'a mut Context,
    keeps_inbox: bool,
}

impl<'a> Store<'a> {
    pub(crate) fn new(opened: Arc<OpenStore>, cx: &'a mut Context) -> Self {
        Self {
            opened,
            cx,
            keeps_inbox: true,
        }
    }

    /// Without a look at the inbox, and no entry in it: for effects that may as well happen
    /// again when the message does.
    #[must_use]
    pub fn without_inbox(mut self) -> Self {
        self.keeps_inbox = false;
        self
    }

    /// Does all that is to be done for the message in hand, in one transaction: what the
    /// closure changes and emits, what was emitted before it in this handler, and the inbox
    /// entry. When it returns `Ok`, it is done for good, whatever the handler does then. In a
    /// tick and in `start` there is no message, and no inbox entry.
    ///
    /// The closure runs on another thread, while the database waits: no place for anything
    /// slow. Its statements get 5 s.
    ///
    /// # Errors
    /// What the closure returns, or the database couldn't take it: nothing was done, and the
    /// message is dealt with as the failure says. Also if the message was done before: then
    /// the closure wasn't called, and whatever the handler returns, the message is acked: let
    /// the error out with `?`. And if the message has had its transaction.
    pub async fn transact<R: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let place = match self.cx.batch_len() {
            0 => 0,
            _ => {
                return Err(Failure::reject(
                    "a batch handler has a transaction for each value: transact_each",
                ));
            }
        };
        let (job, begun) = self.begin(place, work)?;
        self.opened.database.submit(job);
        let answer = begun.await;
        self.cx.end_transaction(place, answer)
    }

    /// In a batch handler: a transaction for each of some values, by their indexes, all at
    /// once; what is returned is in the same order.
    pub async fn transact_each<R, F>(
        mut self,
        works: impl IntoIterator<Item = (usize, F)>,
    ) -> Vec<(usize, Result<R, Failure>)>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    {
        let mut jobs = Vec::new();
        let begun: Vec<_> = works
            .into_iter()
            .map(|(index, work)| {
                let begun = match self.cx.batch_place(index) {
                    None => Err(Failure::reject(format!("the batch has no value {index}"))),
                    Some(place) => self.begin(place, work).map(|(job, begun)| {
                        jobs.push(job);
                        (place, begun)
                    }),
                };
                (index, begun)
            })
            .collect();
        // One by one, the first would have a commit for itself.
        self.opened.database.submit_all(jobs);
        let mut results = Vec::with_capacity(begun.len());
        for (index, begun) in begun {
            let result = match begun {
                Ok((place, begun)) => {
                    let answer = begun.await;
                    self.cx.end_transaction(place, answer)
                }
                Err(failure) => Err(failure),
            };
            results.push((index, result));
        }
        results
    }

    /// Reads what is committed, beside whoever writes: all statements of the closure see the
    /// same moment.
    ///
    /// # Errors
    /// What the closure returns, or it can't be read.
    pub async fn read<R: Send + 'static>(
        self,
        work: impl FnOnce(&Connection) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let name = self.cx.service().to_owned();
        let reading = self
            .opened
            .database
            .read(&name, move |connection| work(connection).map_err(Refused));
        reading.await.map_err(|Refused(failure)| failure)
    }

    fn begin<R, F>(
        &mut self,
        place: usize,
        work: F,
    ) -> Result<Begun<impl Future<Output = TxResult<R>> + use<R, F>>, Failure>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R, Failure> + Send + 'static,
    {
        let hand = self.cx.begin_transaction(place)?;
        let (job, answer) = Transact::new(self.opened.clone(), hand, self.keeps_inbox, work);
        let answer = async move { answer.await.unwrap_or(TxResult::Failed(closing())) };
        Ok((job, answer))
    }
}

/// What is to be handed to the database, and what becomes of it.
type Begun<A> = (Box<dyn Job>, A);

/// The database doesn't take it now: that is not the message's fault.
fn closing() -> Failure {
    Failure::defer(LATER, "the store is closed")
}

/// When something is tried again that couldn't be written.
const LATER: std::time::Duration = std::time::Duration::from_secs(1);

/// What a reader returned, past the errors of the database.
struct Refused(Failure);

impl From<SqliteError> for Refused {
    fn from(error: SqliteError) -> Self {
        Self(error.into())
    }
}
