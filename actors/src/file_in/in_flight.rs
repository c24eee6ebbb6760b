//! Lines in flight, and the position up to which every line was confirmed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two saves of the position.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// A position between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinePosition {
    /// Number of times that the file was read to its end before.
    pub(super) round: u64,
    /// Offset of the next line.
    pub(super) offset: u64,
}

/// Lines in flight, in the order of the file.
pub(super) struct InFlight<T> {
    /// The end of each line, and the handle of its message; a skipped line has none.
    lines: VecDeque<(LinePosition, Option<T>)>,
    /// End of the last line before which every line was confirmed or skipped.
    confirmed: LinePosition,
    saved: LinePosition,
    saved_at: Instant,
}

impl<T: Future<Output = Result<(), E>> + Unpin, E> InFlight<T> {
    pub(super) fn new(start: LinePosition) -> Self {
        Self {
            lines: VecDeque::new(),
            confirmed: start,
            saved: start,
            saved_at: Instant::now(),
        }
    }

    /// Records a message that was sent.
    pub(super) fn sent(&mut self, end: LinePosition, handle: T) {
        self.lines.push_back((end, Some(handle)));
    }

    /// Records a line that is not sent.
    pub(super) fn skipped(&mut self, end: LinePosition) {
        self.lines.push_back((end, None));
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Collects the confirms so far, without waiting.
    ///
    /// # Errors
    /// The transport did not confirm a message.
    pub(super) fn collect(&mut self) -> Result<(), E> {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(outcome) = self.poll_next(&mut cx) {
            outcome?;
        }
        Ok(())
    }

    /// Waits for the confirm of the first line; for ever if no line is in flight.
    ///
    /// # Errors
    /// The transport did not confirm the message.
    pub(super) async fn next(&mut self) -> Result<(), E> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let Some((end, handle)) = self.lines.front_mut() else {
            return Poll::Pending;
        };
        let end = *end;
        let outcome = match handle {
            Some(handle) => match Pin::new(handle).poll(cx) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => return Poll::Pending,
            },
            None => Ok(()),
        };
        if outcome.is_ok() {
            self.lines.pop_front();
            self.confirmed = end;
        } else {
            // The handle must not be polled again, and no later line may be counted.
            self.lines.clear();
        }
        Poll::Ready(outcome)
    }

    /// The position to save, if it has changed since the last save.
    pub(super) fn unsaved(&self) -> Option<LinePosition> {
        (self.confirmed != self.saved).then_some(self.confirmed)
    }

    /// Time of the next save, if there is a position to save.
    pub(super) fn save_due(&self) -> Option<Instant> {
        self.unsaved().map(|_| self.saved_at + SAVE_EVERY)
    }

    pub(super) fn saved(&mut self, position: LinePosition) {
        self.saved = position;
        self.saved_at = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A send handle that resolves when the test sends its outcome.
    struct FakeHandle(oneshot::Receiver<Result<(), &'static str>>);

    impl Future for FakeHandle {
        type Output = Result<(), &'static str>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            Pin::new(&mut self.0).poll(cx).map(Result::unwrap)
        }
    }

    /// Sends the outcome of a message.
    type Confirm = oneshot::Sender<Result<(), &'static str>>;

    fn at(offset: u64) -> LinePosition {
        LinePosition { round: 0, offset }
    }

    fn in_flight(ends: &[u64]) -> (InFlight<FakeHandle>, Vec<Confirm>) {
        let mut in_flight = InFlight::new(at(0));
        let mut confirms = Vec::new();
        for end in ends {
            let (confirm, outcome) = oneshot::channel();
            in_flight.sent(at(*end), FakeHandle(outcome));
            confirms.push(confirm);
        }
        (in_flight, confirms)
    }

    #[tokio::test]
    async fn the_position_never_passes_a_line_that_is_in_flight() {
        let (mut in_flight, confirms) = in_flight(&[10, 20, 30]);
        let [first, second, third] = confirms.try_into().unwrap();
        third.send(Ok(())).unwrap();
        second.send(Ok(())).unwrap();
        in_flight.collect().unwrap();
        assert_eq!(in_flight.unsaved(), None);
        first.send(Ok(())).unwrap();
        in_flight.next().await.unwrap();
        assert_eq!(in_flight.unsaved(), Some(at(10)));
        in_flight.collect().unwrap();
        assert_eq!((in_flight.unsaved(), in_flight.len()), (Some(at(30)), 0));
        in_flight.saved(at(30));
        assert_eq!((in_flight.unsaved(), in_flight.save_due()), (None, None));
    }

    #[tokio::test]
    async fn a_skipped_line_is_passed_when_the_lines_before_it_are_confirmed() {
        let (mut in_flight, mut confirms) = in_flight(&[10]);
        in_flight.skipped(at(20));
        in_flight.collect().unwrap();
        assert_eq!(in_flight.unsaved(), None);
        confirms.remove(0).send(Ok(())).unwrap();
        in_flight.collect().unwrap();
        assert_eq!(in_flight.unsaved(), Some(at(20)));
    }

    #[tokio::test]
    async fn the_position_stays_before_a_message_that_was_not_confirmed() {
        let (mut in_flight, confirms) = in_flight(&[10, 20, 30]);
        let [first, second, third] = confirms.try_into().unwrap();
        first.send(Ok(())).unwrap();
        second.send(Err("gone")).unwrap();
        third.send(Ok(())).unwrap();
        assert_eq!(in_flight.collect(), Err("gone"));
        assert_eq!(in_flight.collect(), Ok(()));
        assert_eq!(in_flight.unsaved(), Some(at(10)));
    }
}
