//! The question: the id of a message, or of a trace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{InvalidId, MessageId};
use crate::transport::SearchQuery;

/// The id of a message or of a trace. A text of 32 hexadecimal digits may be either.
///
/// ```
/// use brickwork::message_trace::TraceQuery;
///
/// let order: TraceQuery = "order-17".parse().unwrap();
/// assert_eq!(order.to_string(), "order-17");
/// assert!("".parse::<TraceQuery>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceQuery {
    id: MessageId,
    /// The same text as a trace id.
    trace: Option<u128>,
}

impl TraceQuery {
    /// The text as the id of a message.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// The text as the id of a trace, if it is 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<u128> {
        self.trace
    }

    pub(super) fn wanted(&self) -> SearchQuery {
        let mut wanted = SearchQuery::id(self.id.clone());
        if let Some(trace) = self.trace {
            wanted.traces.insert(trace);
            wanted.ids.insert(root_of(trace));
        }
        wanted
    }
}

impl From<MessageId> for TraceQuery {
    fn from(id: MessageId) -> Self {
        let trace = trace_in(&id.to_string());
        Self { id, trace }
    }
}

impl FromStr for TraceQuery {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(MessageId::into)
    }
}

impl TryFrom<String> for TraceQuery {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<TraceQuery> for String {
    fn from(query: TraceQuery) -> Self {
        query.to_string()
    }
}

impl fmt::Display for TraceQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

fn trace_in(text: &str) -> Option<u128> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let is_trace = text.len() == 32 && text.bytes().all(hex);
    let trace = is_trace.then(|| u128::from_str_radix(text, 16).ok())?;
    trace.filter(|trace| *trace != 0)
}

/// The first message of a trace, if it has a UUID made by the runtime: the trace id has the same
/// digits.
pub(super) fn root_of(trace: u128) -> MessageId {
    let digits = format!("{trace:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    let id = groups.join("-").parse();
    id.expect("a UUID is a valid message id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_context::TraceContext;

    #[test]
    fn a_trace_id_gives_the_id_of_its_first_message() {
        let id = MessageId::new();
        let trace = TraceContext::root(&id).trace_id;
        assert_eq!(root_of(trace), id);
        let query: TraceQuery = format!("{trace:032x}").parse().unwrap();
        assert_eq!(query.trace_id(), Some(trace));
        assert!(query.wanted().ids.contains(&id));
    }

    #[test]
    fn a_text_that_is_not_32_lower_case_hexadecimal_digits_is_a_message_id_only() {
        let zero = "0".repeat(32);
        for text in ["order-17", "4BF92F3577B34DA6A3CE929D0E0E4736", &zero] {
            let query: TraceQuery = text.parse().unwrap();
            assert_eq!(query.trace_id(), None, "{text}");
            assert_eq!(query.to_string(), text);
        }
        assert!("a\nb".parse::<TraceQuery>().is_err());
    }
}
