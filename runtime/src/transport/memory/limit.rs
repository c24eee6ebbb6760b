//! Limits: what comes beyond what a queue may hold.
//!
//! Owns the letting-in of a batch by queues that reject: all of it or nothing. A place is
//! kept for each message before the first is put, so that no other publisher takes it.

use std::sync::Arc;

use super::queue::Queue;
use crate::message::Message;
use crate::transport::TransportError;

/// The places that queues keep for a batch. What isn't used when it is dropped is free
/// again.
#[derive(Default)]
pub(super) struct Places(Vec<(Arc<Queue>, usize)>);

impl Places {
    /// Asks for a place for each arrival, where a queue may reject it.
    ///
    /// # Errors
    /// One of the queues is full; no place is kept in any.
    pub(super) fn ask<'a>(
        arrivals: impl Iterator<Item = &'a Arc<Queue>>,
    ) -> Result<Self, TransportError> {
        let mut wanted: Vec<(Arc<Queue>, usize)> = Vec::new();
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
                return Err(limit.refusal(queue.id()));
            }
            kept.0.push((queue, places));
        }
        Ok(kept)
    }

    /// Puts a message that was published by topic into a queue, in its place if one was
    /// kept.
    pub(super) fn put(&mut self, queue: &Arc<Queue>, message: Message) {
        match self.0.iter_mut().find(|(kept, _)| Arc::ptr_eq(kept, queue)) {
            Some((_, places)) if *places > 0 => {
                *places -= 1;
                queue.push_into_place(message);
            }
            _ => queue.push_by_topic(message),
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for (queue, places) in &self.0 {
            queue.free_places(*places);
        }
    }
}
