//! Reads request bodies, with bounds on size, time and the memory of all bodies together.
//!
//! Memory is counted when bytes arrive, not when they are announced: a client that announces
//! a body and sends nothing takes no memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

/// Bytes that all bodies together may take. Clones share the budget.
#[derive(Debug, Clone)]
pub(super) struct MemoryBudget(Rc<Cell<u64>>);

/// A part of a budget, returned when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    pub(super) fn reserve_nothing(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Reservation {
    /// Reserves more bytes. Returns false if the budget has not enough left.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let Some(left) = self.budget.0.get().checked_sub(bytes) else {
            return false;
        };
        self.budget.0.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() + self.bytes);
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The body is larger than allowed.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// Other bodies take all the memory.
    NoMemory,
    /// The client closed the connection, or the chunks are invalid.
    Broken,
}

/// The announced length of a body.
pub(super) fn length(body: &impl Body) -> Option<u64> {
    body.size_hint().exact()
}

/// Reads a body of at most `max` bytes; `memory` counts the bytes.
pub(super) async fn read(
    body: &mut Incoming,
    max: usize,
    within: Duration,
    memory: &mut Reservation,
) -> Result<Bytes, BodyError> {
    match timeout(within, read_all(body, max, memory)).await {
        Ok(read) => read,
        Err(_) => Err(BodyError::TooSlow),
    }
}

async fn read_all<B>(body: &mut B, max: usize, memory: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    // Upper bound of the buffer's capacity.
    let most = match length(body) {
        Some(length) if length > max as u64 => return Err(BodyError::TooLarge),
        Some(length) => length as usize,
        None => max,
    };
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = next(body).await {
        // Trailers are not part of the body.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        let needed = read.len() + data.len();
        if needed > most {
            return Err(BodyError::TooLarge);
        }
        if needed > read.capacity() {
            let room = needed.max(read.capacity() * 2).min(most);
            if !memory.grow((room - read.capacity()) as u64) {
                return Err(BodyError::NoMemory);
            }
            read.reserve_exact(room - read.len());
        }
        // A copy: the frame is a part of a larger buffer, which it would keep in memory as
        // long as the message lives.
        read.extend_from_slice(&data);
    }
    read.shrink_to_fit();
    Ok(read.into())
}

/// Discards a refused body, so that the connection can be used again. Returns false if the
/// body does not end soon.
pub(super) async fn discard(body: &mut Incoming) -> bool {
    const WITHIN: Duration = Duration::from_millis(100);
    const BYTES_MAX: u64 = 64 * 1024;
    if length(body).is_some_and(|length| length > BYTES_MAX) {
        return false;
    }
    let all = async {
        let mut left = BYTES_MAX;
        while let Some(frame) = next(body).await {
            let bytes = match frame {
                Ok(frame) => frame.data_ref().map_or(0, Bytes::len) as u64,
                Err(_) => return false,
            };
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    timeout(WITHIN, all).await.unwrap_or(false)
}

async fn next<B: Body + Unpin>(
    body: &mut B,
) -> Option<Result<hyper::body::Frame<B::Data>, B::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use hyper::body::{Frame, SizeHint};

    use super::*;

    struct BodyStream(VecDeque<&'static [u8]>, Option<u64>);

    impl Body for BodyStream {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
        }

        fn size_hint(&self) -> SizeHint {
            self.1.map_or_else(SizeHint::new, SizeHint::with_exact)
        }
    }

    async fn read(
        pieces: &[&'static [u8]],
        length: Option<u64>,
        max: usize,
        budget: &MemoryBudget,
    ) -> Result<Bytes, BodyError> {
        let mut body = BodyStream(pieces.iter().copied().collect(), length);
        read_all(&mut body, max, &mut budget.reserve_nothing()).await
    }

    #[tokio::test]
    async fn a_body_of_the_maximum_size_is_read_and_a_larger_one_is_not() {
        let budget = MemoryBudget::new(100);
        for (max, expected) in [(6, Ok("abcdef".into())), (5, Err(BodyError::TooLarge))] {
            assert_eq!(
                read(&[b"abc", b"", b"def"], None, max, &budget).await,
                expected
            );
            assert_eq!(read(&[b"abcdef"], Some(6), max, &budget).await, expected);
        }
        assert_eq!(read(&[], Some(0), 5, &budget).await, Ok(Bytes::new()));
        assert_eq!(budget.0.get(), 100, "all memory was returned");
    }

    #[tokio::test]
    async fn bodies_share_a_budget_and_an_announced_length_takes_nothing() {
        let budget = MemoryBudget::new(8);
        assert_eq!(
            read(&[b"123456789"], Some(9), 100, &budget).await,
            Err(BodyError::NoMemory)
        );
        let mut held = budget.reserve_nothing();
        assert!(held.grow(5));
        assert_eq!(
            read(&[b"1234"], None, 100, &budget).await,
            Err(BodyError::NoMemory)
        );
        assert_eq!(
            read(&[b"123"], Some(3), 100, &budget).await,
            Ok("123".into())
        );
        drop(held);
        assert_eq!(
            read(&[b"1234"], None, 100, &budget).await,
            Ok("1234".into())
        );
        assert_eq!(budget.0.get(), 8);
    }

    #[tokio::test]
    async fn the_budget_counts_the_capacity_of_the_buffer() {
        let budget = MemoryBudget::new(1000);
        let mut memory = budget.reserve_nothing();
        let mut body = BodyStream([&b"1234567890"[..], b"1", b"2", b"3"].into(), None);
        let read = read_all(&mut body, 100, &mut memory).await.unwrap();
        assert_eq!(read.len(), 13);
        assert_eq!(memory.bytes, 20);
        let mut memory = budget.reserve_nothing();
        let mut body = BodyStream([&b"1234567890"[..], b"1", b"2", b"3"].into(), Some(13));
        read_all(&mut body, 100, &mut memory).await.unwrap();
        assert_eq!(memory.bytes, 13);
    }
}
