//! Events: what happens to the services of an app, as messages that its services may read.
//!
//! The runtime publishes to the topic [`EVENTS_TOPIC`] if a service or an external program reads
//! it. Telling an event never waits: it goes into a bounded queue, or is dropped and counted.
//!
//! An event must not lead to another one for ever, as that of a reader whose messages become dead
//! letters. So the traces of events are marked, descendants of a message have its trace, and a
//! failure of a message with such a trace is no event.

mod event;
mod outlet;

pub use event::Event;
pub(crate) use outlet::{Events, EventsOf};

use crate::id::MessageId;
use crate::message::Message;
use crate::trace_context::TraceContext;

/// Upper half of the trace ids of events, "brkevent" in ASCII. No id of a trace that starts with
/// a UUID of version 4 or 7 has it: their version stands in these bits.
const TRACE_MARK: u64 = 0x6272_6b65_7665_6e74;

/// Returns the trace that an event starts.
fn trace_of(id: &MessageId) -> TraceContext {
    let root = TraceContext::root(id);
    TraceContext {
        trace_id: u128::from(TRACE_MARK) << 64 | u128::from(root.span_id),
        ..root
    }
}

/// Returns whether the message is an event or follows from one.
pub(crate) fn follows_from_event(message: &Message) -> bool {
    message.trace().trace_id >> 64 == u128::from(TRACE_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Envelope;

    #[test]
    fn descendants_of_an_event_are_known_by_their_trace() {
        let mut envelope = Envelope::new("Event", "{}");
        assert!(!follows_from_event(&envelope.clone().into()));
        envelope.trace = Some(trace_of(&envelope.id));
        assert!(follows_from_event(&envelope.clone().into()));
        let mut child = Envelope::new("alert", "{}");
        child.trace = Some(envelope.trace().child(&child.id));
        // Brokers carry the trace as text.
        let text = child.trace().to_string();
        child.trace = Some(text.parse().unwrap());
        assert!(follows_from_event(&child.into()));
    }
}
