//! A job: what is done with a database within a commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::{SqliteError, Transaction};

/// One piece of work that writes.
///
/// # Contract
/// - `run` is called once, on a thread of [`WriterPool`](super::Writers), within a transaction
///   that it must leave open, and within a savepoint if other jobs share the transaction.
///   What it did is undone if it returns an error or panics.
/// - `done` is called once, after the commit or when there will be none, on the same thread
///   or, when the database closes, on another. It must be short and must not block.
pub trait Job: Send + 'static {
    /// Whose work it is, for messages about it.
    fn name(&self) -> &str;

    /// Does it.
    ///
    /// # Errors
    /// It is to be undone.
    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError>;

    /// Tells how it went: `Ok` means that it is on the disk.
    fn done(self: Box<Self>, outcome: Result<(), SqliteError>);
}

/// A closure as a job, for somebody who waits.
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
            // Whoever waited may have gone: what was done stays done.
            let _gone = waiter.send(result);
        }
    }
}

/// Does something so that its panic is an error.
pub(super) fn caught<R>(name: &str, work: impl FnOnce() -> R) -> Result<R, SqliteError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| SqliteError::Panicked {
        name: name.to_owned(),
        text: crate::panic::panic_text(payload),
    })
}

/// Tells a job how it went. What it does then must not harm others.
pub(super) fn tell(job: Box<dyn Job>, outcome: Result<(), SqliteError>) {
    if catch_unwind(AssertUnwindSafe(|| job.done(outcome))).is_err() {
        tracing::error!("what was to be done after a commit panicked");
    }
}
