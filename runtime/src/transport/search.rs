//! Looking for messages in queues: what is wanted, how hard to look, and what was found.
//!
//! Plain data: transports find them, [`trail`](crate::message_trace) makes a message's way of it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::names::QueueId;
use crate::trace_context::TraceContext;

/// Which messages are wanted: some by their ids, and all of some traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchQuery {
    /// These messages.
    pub ids: BTreeSet<MessageId>,
    /// Every message of these traces: [`TraceContext::trace_id`].
    pub traces: BTreeSet<u128>,
}

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchBounds {
    /// No more messages than this.
    pub messages: usize,
    /// No longer than this.
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

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct SearchResult {
    /// The messages, a copy in a queue each.
    pub messages: Vec<FoundMessage>,
    /// What wasn't looked at, and why; nothing if everything was.
    pub missed: Vec<String>,
}

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct FoundMessage {
    /// The queue: an input's, or a service's dead letters.
    pub queue: QueueId,
    /// Where it is there.
    pub place: QueueSection,
    /// Which attempt the next one, or the present one, is.
    pub attempt: u32,
    /// The message. Its payload may be missing.
    pub message: Message,
}

/// Where in a queue a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueSection {
    /// It is ready to be taken.
    Ready {
        /// How many are before it, where that is known.
        ahead: Option<u64>,
    },
    /// It was taken, and not settled; or nobody is there any more who had taken it.
    InHand,
    /// It waits for its time.
    Delayed {
        /// Until then, in milliseconds since 1970-01-01 UTC.
        due_ms: u64,
        /// For another attempt; otherwise it was published for later.
        retry: bool,
    },
    /// It was in hand when a process died, and is tried by itself.
    Suspect,
}

impl SearchQuery {
    /// One message, and all of its trace if that begins with it.
    pub fn id(id: MessageId) -> Self {
        Self {
            traces: BTreeSet::from([TraceContext::root(&id).trace_id]),
            ids: BTreeSet::from([id]),
        }
    }

    /// Whether a message is wanted.
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
    fn a_message_is_wanted_by_its_id_or_by_its_trace() {
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
