//! The guard of a handler: panics and time-outs become values.
//!
//! The guard arms its timer only when the future really waits, and reuses it for the next
//! future.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::{InstanceRef, Worker};
use crate::panic::{catch_panic, panic_text};

/// The outcome of a guarded future.
#[derive(Debug)]
pub(crate) enum HandlerOutcome<T> {
    Done(T),
    Panicked(String),
    TimedOut,
}

/// The timer of one instance, reused for each of its handlers.
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    worker: Arc<Worker>,
    owner: InstanceRef,
}

impl Timer {
    /// Creates the timer of an instance that runs on the thread of `worker`.
    pub(crate) fn new(worker: Arc<Worker>, owner: InstanceRef) -> Self {
        Self {
            sleep: None,
            worker,
            owner,
        }
    }

    /// Tells the watchdog which instance runs on the thread now.
    fn mark(&self) {
        self.worker.runs(self.owner);
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

/// Polls a future until it is ready, panics, or its deadline has passed.
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

    /// Drops the future, which may panic too, and returns the outcome.
    fn finish(&mut self, outcome: HandlerOutcome<T>) -> Poll<HandlerOutcome<T>> {
        let future = self.future.take();
        match (catch_panic(move || drop(future)), outcome) {
            (Err(text), HandlerOutcome::Done(_) | HandlerOutcome::TimedOut) => {
                Poll::Ready(HandlerOutcome::Panicked(text))
            }
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
            Ok(Poll::Ready(value)) => this.finish(HandlerOutcome::Done(value)),
            Err(payload) => {
                let text = panic_text(payload);
                this.finish(HandlerOutcome::Panicked(text))
            }
            Ok(Poll::Pending) => match this.timer.poll_at(this.deadline, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => this.finish(HandlerOutcome::TimedOut),
            },
        }
    }
}

impl<T> Drop for HandlerGuard<'_, '_, T> {
    fn drop(&mut self) {
        let future = self.future.take();
        if future.is_some() {
            // The panic hook has logged a panic, and no caller is left to report it to.
            let _logged = catch_panic(move || drop(future));
        }
    }
}
