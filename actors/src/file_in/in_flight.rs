//! What is under way, and how far everything has arrived.
//!
//! Owns the position: the end of the last line before which nothing is missing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// A position is saved at most this often, not after every message.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// A place between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinePosition {
    /// How often the file was read to its end before.
    pub(super) round: u64,
    /// Where the next line starts.
    pub(super) offset: u64,
}

/// Messages under way, in the order of their lines.
pub(super) struct InFlight<T> {
    /// Where each line ends, and its ticket; a line that is skipped has none.
    under_way: VecDeque<(LinePosition, Option<T>)>,
    arrived: LinePosition,
    saved: LinePosition,
    saved_at: Instant,
}

impl<T: Future<Output = Result<(), E>> + Unpin, E> InFlight<T> {
    pub(super) fn new(start: LinePosition) -> Self {
        Self {
            under_way: VecDeque::new(),
            arrived: start,
            saved: start,
            saved_at: Instant::now(),
        }
    }

    /// A message was sent.
    pub(super) fn sent(&mut self, end: LinePosition, ticket: T) {
        self.under_way.push_back((end, Some(ticket)));
    }

    /// A line is not to be sent.
    pub(super) fn skipped(&mut self, end: LinePosition) {
        self.under_way.push_back((end, None));
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Counts what has arrived, without waiting.
    ///
    /// # Errors
    /// A message was not taken over.
    pub(super) fn collect(&mut self) -> Result<(), E> {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(outcome) = self.poll_next(&mut cx) {
            outcome?;
        }
        Ok(())
    }

    /// Waits until the first of what is under way has arrived; for ever if nothing is.
    ///
    /// # Errors
    /// It was not taken over.
    pub(super) async fn next(&mut self) -> Result<(), E> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let Some((end, ticket)) = self.under_way.front_mut() else {
            return Poll::Pending;
        };
        let end = *end;
        let outcome = match ticket {
            Some(ticket) => match Pin::new(ticket).poll(cx) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => return Poll::Pending,
            },
            None => Ok(()),
        };
        if outcome.is_ok() {
            self.under_way.pop_front();
            self.arrived = end;
        } else {
            // It must not be polled again, and nothing behind it may be counted.
            self.under_way.clear();
        }
        Poll::Ready(outcome)
    }

    /// The position to save, if it has changed.
    pub(super) fn unsaved(&self) -> Option<LinePosition> {
        (self.arrived != self.saved).then_some(self.arrived)
    }

    /// When to save next, if there is anything to save.
    pub(super) fn save_due(&self) -> Option<Instant> {
        self.unsaved().map(|_| self.saved_at + SAVE_EVERY)
    }

    pub(super) fn saved(&mut self, mark: LinePosition) {
        self.saved = mark;
        self.saved_at = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Resolves when the other half says how it went.
    struct Fake(oneshot::Receiver<Result<(), &'static str>>);

    impl Future for Fake {
        type Output = Result<(), &'static str>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            Pin::new(&mut self.0).poll(cx).map(Result::unwrap)
        }
    }

    /// The other half.
    type Way = oneshot::Sender<Result<(), &'static str>>;

    fn at(offset: u64) -> LinePosition {
        LinePosition { round: 0, offset }
    }

    fn flight(ends: &[u64]) -> (InFlight<Fake>, Vec<Way>) {
        let mut flight = InFlight::new(at(0));
        let mut ways = Vec::new();
        for end in ends {
            let (way, ticket) = oneshot::channel();
            flight.sent(at(*end), Fake(ticket));
            ways.push(way);
        }
        (flight, ways)
    }

    #[tokio::test]
    async fn the_position_never_passes_a_line_that_is_under_way() {
        let (mut flight, ways) = flight(&[10, 20, 30]);
        let [first, second, third] = ways.try_into().unwrap();
        third.send(Ok(())).unwrap();
        second.send(Ok(())).unwrap();
        flight.collect().unwrap();
        assert_eq!(flight.unsaved(), None);
        first.send(Ok(())).unwrap();
        flight.next().await.unwrap();
        assert_eq!(flight.unsaved(), Some(at(10)));
        flight.collect().unwrap();
        assert_eq!((flight.unsaved(), flight.len()), (Some(at(30)), 0));
        flight.saved(at(30));
        assert_eq!((flight.unsaved(), flight.save_due()), (None, None));
    }

    #[tokio::test]
    async fn a_line_that_is_skipped_is_passed_when_those_before_have_arrived() {
        let (mut flight, mut ways) = flight(&[10]);
        flight.skipped(at(20));
        flight.collect().unwrap();
        assert_eq!(flight.unsaved(), None);
        ways.remove(0).send(Ok(())).unwrap();
        flight.collect().unwrap();
        assert_eq!(flight.unsaved(), Some(at(20)));
    }

    #[tokio::test]
    async fn the_position_stays_before_what_was_not_taken_over() {
        let (mut flight, ways) = flight(&[10, 20, 30]);
        let [first, second, third] = ways.try_into().unwrap();
        first.send(Ok(())).unwrap();
        second.send(Err("gone")).unwrap();
        third.send(Ok(())).unwrap();
        assert_eq!(flight.collect(), Err("gone"));
        assert_eq!(flight.collect(), Ok(()));
        assert_eq!(flight.unsaved(), Some(at(10)));
    }
}
