//! Jobs: pieces of work that run within a commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::error::SqliteError;
use super::transaction::Transaction;
use crate::panic::panic_text;

/// One piece of work that writes.
///
/// # Contract
/// - `run` is called once, on a thread of the [`WriterPool`](super::WriterPool), within a
///   transaction that it must leave open. Its changes are undone if it returns an error or
///   panics; other jobs of the same transaction keep their changes.
/// - `done` is called once, after the commit or when there will be none: on the same thread, or
///   on another one while the database closes. It must be short and must not block.
pub trait Job: Send + 'static {
    /// Returns a name for errors and log lines, such as the label of a service.
    fn name(&self) -> &str;

    /// Does the work.
    ///
    /// # Errors
    /// The changes of this job are undone.
    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError>;

    /// Receives the outcome: `Ok` means that the changes are on disk.
    fn done(self: Box<Self>, outcome: Result<(), SqliteError>);
}

/// A closure as a job, with a waiting receiver of its result.
pub(super) struct Closure<F, R, E> {
    name: Box<str>,
    work: Option<F>,
    result: Option<Result<R, E>>,
    waiter: Option<oneshot::Sender<Result<R, E>>>,
}

impl<F, R, E> Closure<F, R, E> {
    pub(super) fn new(name: &str, work: F) -> (Box<Self>, oneshot::Receiver<Result<R, E>>) {
        let (waiter, receiver) = oneshot::channel();
        let job = Self {
            name: name.into(),
            work: Some(work),
            result: None,
            waiter: Some(waiter),
        };
        (Box::new(job), receiver)
    }
}

impl<F, R, E> Job for Closure<F, R, E>
where
    F: FnOnce(&Transaction<'_>) -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: From<SqliteError> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        let work = self.work.take().expect("a job runs once");
        let result = work(tx);
        let outcome = match &result {
            Ok(_) => Ok(()),
            Err(_) => Err(SqliteError::Undone),
        };
        self.result = Some(result);
        outcome
    }

    fn done(mut self: Box<Self>, outcome: Result<(), SqliteError>) {
        let result = match (self.result.take(), outcome) {
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(error)), Ok(()) | Err(SqliteError::Undone)) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err(SqliteError::Closed.into()),
        };
        if let Some(waiter) = self.waiter.take() {
            // The receiver may be dropped; the commit stays.
            let _gone = waiter.send(result);
        }
    }
}

/// Runs work of the job `name`; a panic becomes an error.
pub(super) fn catch<R>(name: &str, work: impl FnOnce() -> R) -> Result<R, SqliteError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| SqliteError::Panicked {
        name: name.to_owned(),
        text: panic_text(payload),
    })
}

/// Reports the outcome to a job. Its panic must not harm other jobs.
pub(super) fn report(job: Box<dyn Job>, outcome: Result<(), SqliteError>) {
    if catch_unwind(AssertUnwindSafe(|| job.done(outcome))).is_err() {
        tracing::error!("completion of a database job panicked");
    }
}
