//! Capacity that queues reserve for a batch, so that they accept all of it or nothing.

use std::sync::Arc;

use super::queue::Queue;
use crate::transport::TransportError;

/// Reserved capacity of several queues. A drop releases the part that was not used.
#[derive(Debug, Default)]
pub(super) struct Reservation(Vec<(Arc<Queue>, u64)>);

impl Reservation {
    /// Reserves capacity for each arrival in a queue that rejects messages beyond its limit.
    ///
    /// # Errors
    /// Returns [`TransportError::Refused`] if one of the queues is full. Then nothing is
    /// reserved.
    pub(super) fn new<'a>(
        arrivals: impl Iterator<Item = &'a Arc<Queue>>,
    ) -> Result<Self, TransportError> {
        let rejects = |queue: &&Arc<Queue>| queue.limit().is_some_and(|limit| limit.rejects());
        let mut wanted: Vec<(Arc<Queue>, u64)> = Vec::new();
        for queue in arrivals.filter(rejects) {
            match wanted.iter_mut().find(|(it, _)| Arc::ptr_eq(it, queue)) {
                Some((_, messages)) => *messages += 1,
                None => wanted.push((queue.clone(), 1)),
            }
        }
        let mut reserved = Self::default();
        for (queue, messages) in wanted {
            if let Some(limit) = queue.limit()
                && !queue.reserve(messages)
            {
                return Err(limit.refusal(queue.id()));
            }
            reserved.0.push((queue, messages));
        }
        Ok(reserved)
    }

    /// Uses capacity for one message, if any is reserved in this queue. The caller then
    /// appends the message or releases the capacity.
    pub(super) fn take(&mut self, queue: &Arc<Queue>) -> bool {
        let mut reserved = self.0.iter_mut();
        match reserved.find(|(it, _)| Arc::ptr_eq(it, queue)) {
            Some((_, messages)) if *messages > 0 => {
                *messages -= 1;
                true
            }
            _ => false,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for (queue, messages) in &self.0 {
            queue.release(*messages);
        }
    }
}
