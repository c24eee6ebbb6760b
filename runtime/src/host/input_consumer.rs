//! The consumer of one input, which any thread can stop while its own thread is blocked.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::delivery::Delivery;
use crate::panic::catch_panic;
use crate::transport::{Consumer, TransportError};

/// A slot for a consumer.
#[derive(Default)]
pub(crate) struct InputConsumer(Mutex<State>);

#[derive(Default)]
struct State {
    consumer: Option<Box<dyn Consumer>>,
    /// Set once: no further consumer is accepted.
    shut: bool,
}

impl InputConsumer {
    /// Puts a new consumer in. After [`shut`](Self::shut) the consumer is stopped instead.
    pub(super) fn open(&self, consumer: Box<dyn Consumer>) {
        let mut state = self.0.lock();
        if state.shut {
            drop(state);
            stop(consumer);
        } else {
            state.consumer = Some(consumer);
        }
    }

    /// Takes up to `max` deliveries; `Ready(Ok(false))` if the consumer was stopped.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<bool, TransportError>> {
        match &mut self.0.lock().consumer {
            Some(consumer) => consumer.poll_take(cx, into, max).map_ok(|()| true),
            None => Poll::Ready(Ok(false)),
        }
    }

    /// Stops the consumer: its prefetched deliveries are requeued.
    pub(super) fn close(&self) {
        let consumer = self.0.lock().consumer.take();
        if let Some(consumer) = consumer {
            stop(consumer);
        }
    }

    /// Stops the consumer and every later one.
    pub(super) fn shut(&self) {
        self.0.lock().shut = true;
        self.close();
    }
}

/// Stops and drops a consumer, which is code of the transport and may panic.
fn stop(mut consumer: Box<dyn Consumer>) {
    let _logged = catch_panic(move || {
        consumer.stop();
        drop(consumer);
    });
}
