//! One consumer of two queues: the app's own, and one of somebody else that feeds it.
//!
//! Nothing is put back into a queue that isn't the app's: its owner may bound it, expire
//! what is in it, or have other readers, who would meet messages that failed here. So what
//! is tried again waits on the app's own ladder and returns to the app's own queue, as does
//! what is replayed, and an input that reads a foreign queue reads both.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use brickwork::Delivery;
use brickwork::transport::{Consumer, TransportError};

/// The part of the prefetch that goes to the app's own queue. There is little in it.
const APP_QUEUE_PART: usize = 8;

/// How a bound is shared: (own, theirs). Both get one at least: a bound of one is two.
pub(super) fn split_prefetch(bound: usize) -> (usize, usize) {
    let own = (bound / APP_QUEUE_PART).max(1);
    (own, bound.saturating_sub(own).max(1))
}

/// Takes from two consumers by turns. It ends when one of them does.
pub(super) struct Merged<C> {
    /// The one whose turn it is first.
    consumers: [C; 2],
    ended: Option<TransportError>,
}

impl<C: Consumer> Merged<C> {
    pub(super) fn new(own: C, external: C) -> Self {
        Self {
            consumers: [own, external],
            ended: None,
        }
    }
}

impl<C: Consumer> Consumer for Merged<C> {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        if let Some(error) = &self.ended {
            return Poll::Ready(Err(error.clone()));
        }
        // A queue that is never empty must not keep the other one waiting.
        self.consumers.swap(0, 1);
        for consumer in &mut self.consumers {
            match consumer.poll_take(cx, into, max) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    self.ended = Some(error.clone());
                    self.stop();
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }

    fn stop(&mut self) {
        for consumer in &mut self.consumers {
            consumer.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brickwork::{DeliveryParts, Envelope, Settle, Settlement};
    use futures_util::task::noop_waker;

    use super::*;

    struct NoSettler;

    impl Settle for NoSettler {
        fn settle(&self, _: DeliveryParts, _: Settlement) {}
    }

    /// Always has something, or nothing, or has ended.
    struct Fake {
        name: &'static str,
        has: Result<bool, TransportError>,
        stopped: bool,
    }

    fn fake(name: &'static str, has: Result<bool, TransportError>) -> Fake {
        Fake {
            name,
            has,
            stopped: false,
        }
    }

    impl Consumer for Fake {
        fn poll_take(
            &mut self,
            _: &mut Context<'_>,
            into: &mut VecDeque<Delivery>,
            _: usize,
        ) -> Poll<Result<(), TransportError>> {
            match &self.has {
                Ok(false) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error.clone())),
                Ok(true) => {
                    let parts = DeliveryParts {
                        message: Envelope::new(self.name, "").into(),
                        attempt: 1,
                        crashes: 0,
                        tag: 1,
                    };
                    into.push_back(Delivery::new(parts, Arc::new(NoSettler)));
                    Poll::Ready(Ok(()))
                }
            }
        }

        fn stop(&mut self) {
            self.stopped = true;
        }
    }

    fn take(merged: &mut Merged<Fake>) -> Poll<Result<String, TransportError>> {
        let (waker, mut taken) = (noop_waker(), VecDeque::new());
        let polled = merged.poll_take(&mut Context::from_waker(&waker), &mut taken, 8);
        polled.map_ok(|()| taken[0].message().kind.to_string())
    }

    #[test]
    fn a_queue_that_is_never_empty_does_not_keep_the_other_waiting() {
        let mut merged = Merged::new(fake("own", Ok(true)), fake("theirs", Ok(true)));
        let mut taken = Vec::new();
        for _ in 0..4 {
            let Poll::Ready(Ok(name)) = take(&mut merged) else {
                panic!("there is always something");
            };
            taken.push(name);
        }
        assert_eq!(taken, ["theirs", "own", "theirs", "own"]);
        let mut merged = Merged::new(fake("own", Ok(false)), fake("theirs", Ok(false)));
        assert!(take(&mut merged).is_pending());
        merged.consumers[1].has = Ok(true);
        assert!(take(&mut merged).is_ready() && take(&mut merged).is_ready());
    }

    #[test]
    fn when_one_ends_both_do() {
        let mut merged = Merged::new(fake("own", Ok(true)), fake("theirs", Ok(true)));
        merged.consumers[0].has = Err(TransportError::Closed);
        let ended = (0..2).any(|_| matches!(take(&mut merged), Poll::Ready(Err(_))));
        assert!(ended && merged.consumers.iter().all(|consumer| consumer.stopped));
        assert!(matches!(take(&mut merged), Poll::Ready(Err(_))));
    }

    #[test]
    fn the_prefetch_is_shared_and_not_doubled() {
        assert_eq!(split_prefetch(160), (20, 140));
        assert_eq!(split_prefetch(3), (1, 2));
        assert_eq!(split_prefetch(2), (1, 1));
        assert_eq!(split_prefetch(1), (1, 1));
    }
}
