//! The guard: no panic gets past it, and no handler takes longer than it may.
//!
//! Owns `catch_unwind` and the timer. A timer is armed only when the future really
//! waits, and used again for the next one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::{Who, Worker};

/// How a guarded future ended.
#[derive(Debug)]
pub(crate) enum HandlerOutcome<T> {
    Done(T),
    Panicked(String),
    TimedOut,
}

/// A timer that is kept from one use to the next, and who it is for.
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    worker: Arc<Worker>,
    who: Who,
}

impl Timer {
    /// A timer for what `who` runs on the thread of `worker`.
    pub(crate) fn new(worker: Arc<Worker>, who: Who) -> Self {
        Self {
            sleep: None,
            worker,
            who,
        }
    }

    /// From now on this one is to blame if the thread doesn't turn.
    fn mark(&self) {
        self.worker.runs(self.who);
    }

    fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Polls a future; panics and time-outs become values.
pub(crate) struct HandlerGuard<'a, 't, T> {
    future: Option<LocalBoxFuture<'a, T>>,
    timer: &'t mut Timer,
    deadline: Instant,
}

impl<'a, 't, T> HandlerGuard<'a, 't, T> {
    pub(crate) fn new(
        future: LocalBoxFuture<'a, T>,
        timer: &'t mut Timer,
        deadline: Instant,
    ) -> Self {
        Self {
            future: Some(future),
            timer,
            deadline,
        }
    }

    fn end(&mut self, outcome: HandlerOutcome<T>) -> Poll<HandlerOutcome<T>> {
        // What the future holds may panic when it is dropped.
        let future = self.future.take();
        match (quietly(move || drop(future)), outcome) {
            (Err(text), HandlerOutcome::TimedOut) => Poll::Ready(HandlerOutcome::Panicked(text)),
            (_, outcome) => Poll::Ready(outcome),
        }
    }
}

impl<T> Future for HandlerGuard<'_, '_, T> {
    type Output = HandlerOutcome<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HandlerOutcome<T>> {
        let this = &mut *self;
        let future = this
            .future
            .as_mut()
            .expect("a guard is polled until it is ready");
        this.timer.mark();
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(value)) => {
                let future = this.future.take();
                match quietly(move || drop(future)) {
                    Ok(()) => Poll::Ready(HandlerOutcome::Done(value)),
                    Err(text) => Poll::Ready(HandlerOutcome::Panicked(text)),
                }
            }
            Err(payload) => {
                let text = panic_text(payload);
                this.end(HandlerOutcome::Panicked(text))
            }
            Ok(Poll::Pending) => match this.timer.poll_at(this.deadline, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => this.end(HandlerOutcome::TimedOut),
            },
        }
    }
}

impl<T> Drop for HandlerGuard<'_, '_, T> {
    fn drop(&mut self) {
        let future = self.future.take();
        if future.is_some() {
            // The hook has logged it; there is nobody left to tell.
            let _logged = quietly(move || drop(future));
        }
    }
}

/// Runs something that may panic.
///
/// # Errors
/// The text of the panic.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_text)
}

/// What a panic said. Its payload may panic itself when it is dropped.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // Dropping this payload could panic again, without end.
        #[expect(clippy::mem_forget, reason = "its destructor must not run")]
        std::mem::forget(second);
    }
    text
}
