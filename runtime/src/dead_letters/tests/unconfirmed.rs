//! Removal that the transport does not confirm.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::*;
use crate::transport::{AskError, Consumer, Depth, Guarantees, Status};

/// Queues in memory that confirm settlements only so often.
struct Failing {
    memory: Arc<dyn Transport>,
    confirms: AtomicU32,
}

impl Transport for Failing {
    fn scheme(&self) -> &'static str {
        self.memory.scheme()
    }

    fn guarantees(&self) -> Guarantees {
        self.memory.guarantees()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        self.memory.declare(topology)
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        self.memory.publish(batch, done);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        self.memory.consume(queue, bound)
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        self.memory.ask(request, within)
    }

    fn late_replies(&self) -> u64 {
        0
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        self.memory.depth(queue)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.memory.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        let left = self
            .confirms
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        Box::pin(async move {
            match left {
                Ok(_) => Ok(()),
                Err(_) => Err(TransportError::Lost("channel closed".into())),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.memory.close()
    }
}

#[tokio::test(start_paused = true)]
async fn letters_whose_removal_is_not_confirmed_are_not_counted() {
    for replay in [true, false] {
        let (memory, letters) = stock(300).await;
        let failing = Failing {
            memory,
            confirms: AtomicU32::new(1),
        };
        let letters = DeadLetters::new(Arc::new(failing), letters.topology.clone());
        let all = options(Selection::All);
        let outcome = match replay {
            true => {
                letters
                    .replay("stock", &Destination::Original, &all, pending())
                    .await
            }
            false => letters.discard("stock", &all, pending()).await,
        };
        let outcome = outcome.expect("it says what was done");
        assert_eq!(outcome.removed, 128, "the first page");
        let error = outcome.error.expect("it says what failed");
        assert!(
            error.contains("channel closed: 128 more letters"),
            "{error}"
        );
    }
}
