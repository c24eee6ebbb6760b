//! The limit of a queue, and what is said of what comes beyond it.

use super::{Overflow, QueueSpec, TransportError};
use crate::clock::Clock;
use crate::dead_letter::{DeadLetter, Reason};
use crate::names::QueueId;

/// How much a queue holds at most: for transports that keep limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In messages.
    pub messages: u64,
    /// What becomes of what comes beyond.
    pub overflow: Overflow,
}

impl Limit {
    /// That of a queue, if it has one.
    pub fn of(spec: &QueueSpec) -> Option<Self> {
        spec.limit.map(|messages| Self {
            messages,
            overflow: spec.overflow,
        })
    }

    /// Whether what comes beyond it is rejected.
    pub fn rejects(&self) -> bool {
        self.overflow == Overflow::Reject
    }

    /// Why a message was given up that came to a full queue.
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

    /// Why a publication is refused that came to a full queue which rejects.
    pub fn refusal(self, queue: &QueueId) -> TransportError {
        let limit = self.messages;
        TransportError::Refused(format!("the queue {queue} is full: its limit is {limit}"))
    }
}
