//! Searching queues: the query, its bounds and the result.
//!
//! Plain data: transports search, [`message_trace`](crate::message_trace) builds a trace from it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::names::QueueId;
use crate::trace_context::TraceContext;

/// A query for messages: by id, and by trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchQuery {
    /// Ids of messages.
    pub ids: BTreeSet<MessageId>,
    /// Traces, with all their messages: [`TraceContext::trace_id`].
    pub traces: BTreeSet<u128>,
}

/// Bounds of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchBounds {
    /// Maximum messages in the result.
    pub messages: usize,
    /// Maximum duration.
    pub within: Duration,
}

impl Default for SearchBounds {
    fn default() -> Self {
        Self {
            messages: 1_000,
            within: Duration::from_secs(2),
        }
    }
}

/// Result of a search.
#[derive(Debug, Clone, Default)]
pub struct SearchResult {
    /// The messages. Each copy in a queue is one entry.
    pub messages: Vec<FoundMessage>,
    /// The parts that were not searched, with reasons. Empty if all were.
    pub missed: Vec<String>,
}

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct FoundMessage {
    /// The queue of an input, or of dead letters.
    pub queue: QueueId,
    /// Its section of the queue.
    pub place: QueueSection,
    /// Number of the current or next attempt.
    pub attempt: u32,
    /// The message, perhaps without its payload.
    pub message: Message,
}

/// Section of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueSection {
    /// Ready to be delivered.
    Ready {
        /// Number of messages before it, if known.
        ahead: Option<u64>,
    },
    /// Delivered and not settled, perhaps to a consumer that is gone.
    InHand,
    /// Waiting for its time.
    Delayed {
        /// The time, in milliseconds since 1970-01-01 UTC.
        due_ms: u64,
        /// The message waits for a retry. Otherwise it was published with a delay.
        retry: bool,
    },
    /// In quarantine: it was in flight during crashes of its process.
    Suspect,
}

impl SearchQuery {
    /// Returns the query for one message, and for its whole trace if the trace begins with it.
    pub fn id(id: MessageId) -> Self {
        Self {
            traces: BTreeSet::from([TraceContext::root(&id).trace_id]),
            ids: BTreeSet::from([id]),
        }
    }

    /// Returns whether a message matches.
    pub fn covers(&self, message: &Envelope) -> bool {
        let trace = || match &message.trace {
            Some(trace) => trace.trace_id,
            None => TraceContext::root(&message.id).trace_id,
        };
        self.ids.contains(&message.id)
            || (!self.traces.is_empty() && self.traces.contains(&trace()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_matches_by_its_id_or_by_its_trace() {
        let first = Envelope::new("order", "{}");
        let mut second = Envelope::new("reserved", "{}");
        second.trace = Some(first.trace().child(&second.id));
        let other = Envelope::new("order", "{}");
        let wanted = SearchQuery::id(first.id.clone());
        assert!(wanted.covers(&first) && wanted.covers(&second) && !wanted.covers(&other));
        let second_alone = SearchQuery::id(second.id.clone());
        assert!(second_alone.covers(&second) && !second_alone.covers(&first));
    }
}
