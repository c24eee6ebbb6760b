//! Places that queues keep for a batch: all of it is let in, or nothing.

use std::sync::Arc;

use super::{Limit, TransportError};
use crate::names::QueueId;

/// A queue that may hold no more than so many messages: for transports that keep limits.
pub trait BoundedQueue {
    /// Its name.
    fn id(&self) -> &QueueId;

    /// Its limit, if it has one.
    fn limit(&self) -> Option<Limit>;

    /// Keeps so many places, unless the queue is full: a batch is let in whole, or one that
    /// is larger than the limit never could be.
    fn keep_places(&self, places: u64) -> bool;

    /// What places were kept for doesn't come.
    fn free_places(&self, places: u64);
}

/// The places that queues keep for a batch, before any of it is let in, so that no other
/// publisher takes them. What isn't taken when it is dropped is free again.
#[derive(Debug)]
pub struct CapacityReservation<Q: BoundedQueue>(Vec<(Arc<Q>, u64)>);

impl<Q: BoundedQueue> CapacityReservation<Q> {
    /// None: for a transport whose queues reject nothing.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Asks for a place for each arrival, where a queue may reject it.
    ///
    /// # Errors
    /// [`TransportError::Refused`]: one of the queues is full; no place is kept in any.
    pub fn ask<'a>(arrivals: impl Iterator<Item = &'a Arc<Q>>) -> Result<Self, TransportError>
    where
        Q: 'a,
    {
        let rejects = |queue: &&Arc<Q>| {
            let limit = queue.limit();
            limit.is_some_and(|limit| limit.rejects())
        };
        let mut wanted: Vec<(Arc<Q>, u64)> = Vec::new();
        for queue in arrivals.filter(rejects) {
            match wanted.iter_mut().find(|(it, _)| Arc::ptr_eq(it, queue)) {
                Some((_, places)) => *places += 1,
                None => wanted.push((queue.clone(), 1)),
            }
        }
        let mut kept = Self::none();
        for (queue, places) in wanted {
            if let Some(limit) = queue.limit()
                && !queue.keep_places(places)
            {
                return Err(limit.refusal(queue.id()));
            }
            kept.0.push((queue, places));
        }
        Ok(kept)
    }

    /// Takes a place in a queue, if one was kept there: whoever has it uses or frees it.
    pub fn take(&mut self, queue: &Arc<Q>) -> bool {
        let mut kept = self.0.iter_mut();
        match kept.find(|(it, _)| Arc::ptr_eq(it, queue)) {
            Some((_, places)) if *places > 0 => {
                *places -= 1;
                true
            }
            _ => false,
        }
    }
}

impl<Q: BoundedQueue> Drop for CapacityReservation<Q> {
    fn drop(&mut self) {
        for (queue, places) in &self.0 {
            queue.free_places(*places);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::transport::Overflow;

    struct Shelf {
        id: QueueId,
        limit: Option<Limit>,
        kept: AtomicU64,
    }

    fn shelf(messages: u64, overflow: Overflow) -> Arc<Shelf> {
        Arc::new(Shelf {
            id: QueueId::new("stock", "requests"),
            limit: Some(Limit { messages, overflow }),
            kept: AtomicU64::new(0),
        })
    }

    impl BoundedQueue for Shelf {
        fn id(&self) -> &QueueId {
            &self.id
        }

        fn limit(&self) -> Option<Limit> {
            self.limit
        }

        fn keep_places(&self, places: u64) -> bool {
            let room = self
                .limit
                .is_none_or(|it| self.kept.load(Relaxed) < it.messages);
            self.kept.fetch_add(if room { places } else { 0 }, Relaxed);
            room
        }

        fn free_places(&self, places: u64) {
            self.kept.fetch_sub(places, Relaxed);
        }
    }

    #[test]
    fn a_batch_is_let_in_whole_or_leaves_no_place_behind() {
        let (small, large) = (shelf(1, Overflow::Reject), shelf(9, Overflow::Reject));
        let lenient = shelf(1, Overflow::DeadLetter);
        let kept = || [&small, &large, &lenient].map(|it| it.kept.load(Relaxed));
        let batch = [&large, &small, &large, &lenient];
        let mut places = CapacityReservation::ask(batch.into_iter()).expect("there is room");
        assert_eq!(kept(), [1, 2, 0]);
        assert!(CapacityReservation::ask([&large, &small].into_iter()).is_err());
        assert_eq!(kept(), [1, 2, 0], "a batch that is refused keeps nothing");
        assert!(places.take(&large) && places.take(&small));
        assert!(!places.take(&small) && !places.take(&lenient));
        drop(places);
        assert_eq!(kept(), [1, 1, 0], "what was taken is somebody's");
    }
}
