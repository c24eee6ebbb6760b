//! The consumer of one input, where it can be stopped also while its thread is blocked.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::delivery::Delivery;
use crate::panic::catch_panic;
use crate::transport::{Consumer, TransportError};

/// Holds a consumer, or nothing.
#[derive(Default)]
pub(crate) struct InputConsumer(Mutex<State>);

#[derive(Default)]
struct State {
    consumer: Option<Box<dyn Consumer>>,
    shut: bool,
}

impl InputConsumer {
    /// Puts a new consumer in. One that comes after [`shut`](Tap::shut) is stopped.
    pub(super) fn open(&self, consumer: Box<dyn Consumer>) {
        let mut state = self.0.lock();
        if state.shut {
            drop(state);
            stop(consumer);
        } else {
            state.consumer = Some(consumer);
        }
    }

    /// Takes up to `max` deliveries; `Ready(Ok(false))` if there is no consumer any more.
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

    /// Stops the consumer: what it fetched ahead goes back.
    pub(super) fn close(&self) {
        let consumer = self.0.lock().consumer.take();
        if let Some(consumer) = consumer {
            stop(consumer);
        }
    }

    /// Stops the consumer, and any that comes later.
    pub(super) fn shut(&self) {
        self.0.lock().shut = true;
        self.close();
    }
}

/// What a consumer does when it goes is the transport's code, not ours.
fn stop(mut consumer: Box<dyn Consumer>) {
    let _logged = catch_panic(move || {
        consumer.stop();
        drop(consumer);
    });
}
