//! Limits: what comes beyond what a queue may hold.
//!
//! Owns the letting-in of a batch by queues that reject: all of it or nothing. A place is
//! kept for each message until it is on the disk, so that no other publisher takes it.

use std::sync::Arc;

use brickwork::transport::{Overflow, QueueSpec, TransportError};
use brickwork::{Clock, DeadLetter, QueueId, Reason};

use super::queue::Queue;

/// How much a queue holds at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) messages: u64,
    pub(super) overflow: Overflow,
}

impl Limit {
    pub(super) fn of(spec: &QueueSpec) -> Option<Self> {
        spec.limit.map(|messages| Self {
            messages,
            overflow: spec.overflow,
        })
    }

    /// Why a message was given up that came to a full queue.
    pub(super) fn letter(self, queue: &QueueId) -> DeadLetter {
        DeadLetter {
            reason: Reason::Overflow,
            error: format!("the queue {queue} was full: its limit is {}", self.messages),
            service: queue.service.clone().into(),
            input: queue.input.clone().into(),
            attempts: 0,
            failed_at_ms: Clock::SYSTEM.unix_ms(),
        }
    }

    fn refusal(self, queue: &QueueId) -> TransportError {
        let limit = self.messages;
        TransportError::Refused(format!("the queue {queue} is full: its limit is {limit}"))
    }
}

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
