//! Reading a dead-letter queue page by page.

use futures_util::future::BoxFuture;

use super::TransportError;
use crate::message::Message;

/// Reads the letters of one dead-letter queue, a page at a time: each letter of a page is either
/// removed or kept.
///
/// # Contract
/// - A letter that is kept is never lost, whatever limits the broker puts on deliveries. A process
///   that dies in between leaves each letter of its page at least once, under the same id.
/// - Dropping a reader keeps the letters of the page that is not settled.
pub trait LetterReader: Send {
    /// Takes ready letters from the front of the queue: at most `max`, and fewer as soon as they
    /// have `max_bytes`. No letter means that none is ready.
    ///
    /// The page before must be settled.
    fn take(
        &mut self,
        max: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, TransportError>>;

    /// Settles the page: removes the letters whose entry is true, and keeps the others.
    ///
    /// # Errors
    /// The transport did not confirm it: letters may still be there that should be removed. The
    /// reader can't be used any more.
    fn settle<'a>(&'a mut self, remove: &'a [bool]) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Returns whether kept letters go behind the other letters of the queue. Otherwise they stay
    /// where they were, and [`finish`](Self::finish) makes them ready again.
    fn rotates(&self) -> bool;

    /// Waits until the kept letters are ready again.
    fn finish(&mut self) -> BoxFuture<'_, Result<(), TransportError>>;
}
