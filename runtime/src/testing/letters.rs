//! Dead letters of the app under test, read from their queues.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::future::poll_fn;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::dead_letter::DeadLetter;
use crate::delivery::Delivery;
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::{Consumer, Transport, TransportError};

/// A dead-lettered message.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The reason, the service, the number of attempts.
    pub dead_letter: DeadLetter,
    /// The message as stored in the dead-letter queue.
    pub message: Message,
}

/// The dead letters of an app under test.
pub(super) struct Letters(Mutex<State>);

struct State {
    queues: Vec<Box<dyn Consumer>>,
    letters: Vec<Letter>,
    /// Kept unsettled, so that the letters stay in their queues.
    deliveries: Vec<Delivery>,
    /// Number of letters that the test has expected.
    read: usize,
}

impl Letters {
    /// Consumes the dead-letter queues of these services.
    pub(super) async fn open(
        transport: &Arc<dyn Transport>,
        services: &[Arc<str>],
    ) -> Result<Self, TransportError> {
        let mut queues = Vec::with_capacity(services.len());
        for service in services {
            let queue = QueueId::dead_letters(service);
            queues.push(transport.consume(&queue, usize::MAX).await?);
        }
        Ok(Self(Mutex::new(State {
            queues,
            letters: Vec::new(),
            deliveries: Vec::new(),
            read: 0,
        })))
    }

    /// The next letter that was not expected before, if it comes by `deadline`.
    pub(super) async fn next(&self, deadline: Instant) -> Option<Letter> {
        let next = poll_fn(|cx| {
            let mut state = self.0.lock();
            state.fetch(cx);
            match state.letters.get(state.read).cloned() {
                Some(letter) => {
                    state.read += 1;
                    Poll::Ready(letter)
                }
                None => Poll::Pending,
            }
        });
        timeout_at(deadline, next).await.ok()
    }

    /// All letters so far.
    pub(super) fn all(&self) -> Vec<Letter> {
        let mut state = self.0.lock();
        state.fetch(&mut Context::from_waker(Waker::noop()));
        state.letters.clone()
    }
}

impl State {
    /// Takes new letters, in the order of their failures.
    fn fetch(&mut self, cx: &mut Context<'_>) {
        let mut taken = VecDeque::new();
        for queue in &mut self.queues {
            // After the stop of the app, a queue has ended and has no more letters.
            while let Poll::Ready(Ok(())) = queue.poll_take(cx, &mut taken, usize::MAX) {}
        }
        let known = self.letters.len();
        for delivery in taken {
            let message = delivery.message().clone();
            if let Some(dead_letter) = DeadLetter::from_letter(&message) {
                self.letters.push(Letter {
                    dead_letter,
                    message,
                });
            }
            self.deliveries.push(delivery);
        }
        self.letters[known..].sort_by_key(|letter| letter.dead_letter.failed_at_ms);
    }
}
