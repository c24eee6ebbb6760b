//! Limits: what comes beyond what a queue may hold.
//!
//! Owns the letting-in of a batch by queues that reject: all of it or nothing. A place is
//! kept for each message until it is on the disk, so that no other publisher takes it.

use std::sync::Arc;

use brickwork::transport::TransportError;

use super::queue::Queue;

/// The places that queues keep for a batch. What isn't used when it is dropped is free
/// again.
#[derive(Default)]
pub(super) struct Places(Vec<(Arc<Queue>, u64)>);

impl Places {
    /// Asks for a place for each arrival, where a queue may reject it.
    ///
    /// # Errors
    /// One of the queues is full; no place is kept in any.
    pub(super) fn ask<'a>(
        arrivals: impl Iterator<Item = &'a Arc<Queue>>,
    ) -> Result<Self, TransportError> {
        let mut wanted: Vec<(Arc<Queue>, u64)> = Vec::new();
        for queue in arrivals.filter(|queue| queue.rejects().is_some()) {
            match wanted
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, queue))
            {
                Some((_, places)) => *places += 1,
                None => wanted.push((queue.clone(), 1)),
            }
        }
        let mut kept = Self::default();
        for (queue, places) in wanted {
            if let Some(limit) = queue.rejects()
                && !queue.keep_places(places)
            {
                return Err(limit.refusal(&queue.id));
            }
            kept.0.push((queue, places));
        }
        Ok(kept)
    }

    /// Whether there is a place for a message that was published by topic, and if one was
    /// kept for it: then the message has it.
    pub(super) fn take(&mut self, queue: &Arc<Queue>) -> Place {
        if queue.limit().is_none() {
            return Place::Free;
        }
        match self.0.iter_mut().find(|(kept, _)| Arc::ptr_eq(kept, queue)) {
            Some((_, places)) if *places > 0 => {
                *places -= 1;
                Place::Kept
            }
            _ if queue.keep_places(1) => Place::Kept,
            _ => Place::None,
        }
    }
}

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody counts.
    Free,
    /// One is kept, and used or freed once.
    Kept,
    /// The queue is full.
    None,
}

impl Drop for Places {
    fn drop(&mut self) {
        for (queue, places) in &self.0 {
            queue.free_places(*places);
        }
    }
}
