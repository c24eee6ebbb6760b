//! Queue limits, for transports that enforce them.

use super::{Overflow, QueueSpec, TransportError};
use crate::clock::Clock;
use crate::dead_letter::{DeadLetter, Reason};
use crate::names::QueueId;

/// The limit of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Maximum messages.
    pub messages: u64,
    /// Policy for messages beyond the limit.
    pub overflow: Overflow,
}

impl Limit {
    /// Returns the limit of a queue, if it has one.
    pub fn of(spec: &QueueSpec) -> Option<Self> {
        spec.limit.map(|messages| Self {
            messages,
            overflow: spec.overflow,
        })
    }

    /// Returns whether messages beyond the limit are rejected.
    pub fn rejects(&self) -> bool {
        self.overflow == Overflow::Reject
    }

    /// Returns the dead letter for a message to a full queue.
    pub fn letter(self, queue: &QueueId) -> DeadLetter {
        DeadLetter {
            reason: Reason::Overflow,
            error: format!("the queue {queue} was full: its limit is {}", self.messages),
            service: queue.service.clone().into(),
            input: queue.input.clone().into(),
            attempts: 0,
            failed_at_ms: Clock::SYSTEM.unix_ms(),
        }
    }

    /// Returns the error for a publication to a full queue that rejects.
    pub fn refusal(self, queue: &QueueId) -> TransportError {
        let limit = self.messages;
        TransportError::Refused(format!("the queue {queue} is full: its limit is {limit}"))
    }
}
