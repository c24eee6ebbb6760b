//! What is asked: a message by its id, or all of a trace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{InvalidId, MessageId};
use crate::transport::SearchQuery;

/// A message, or a trace, whose way is asked for.
///
/// ```
/// use brickwork::message_trace::Question;
///
/// let order: Question = "order-17".parse().unwrap();
/// assert_eq!(order.to_string(), "order-17");
/// assert!("".parse::<Question>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceQuery {
    id: MessageId,
    /// The text is also a trace's id: 32 hexadecimal digits.
    trace: Option<u128>,
}

impl TraceQuery {
    /// The message that is meant, if it is one.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// The trace that is meant, if the text can be one.
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
    fn from(question: TraceQuery) -> Self {
        question.to_string()
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

/// The message that a trace begins with, if it began here with an id that was made here.
pub(super) fn root_of(trace: u128) -> MessageId {
    let digits = format!("{trace:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    let id = groups.join("-").parse();
    id.expect("hexadecimal digits are no control characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_context::TraceContext;

    #[test]
    fn a_trace_names_the_message_that_it_begins_with() {
        let id = MessageId::new();
        let trace = TraceContext::root(&id).trace_id;
        assert_eq!(root_of(trace), id);
        let question: TraceQuery = format!("{trace:032x}").parse().unwrap();
        assert_eq!(question.trace_id(), Some(trace));
        assert!(question.wanted().ids.contains(&id));
    }

    #[test]
    fn what_can_be_no_trace_is_an_id_alone() {
        let zero = "0".repeat(32);
        for text in ["order-17", "4BF92F3577B34DA6A3CE929D0E0E4736", &zero] {
            let question: TraceQuery = text.parse().unwrap();
            assert_eq!(question.trace_id(), None, "{text}");
            assert_eq!(question.to_string(), text);
        }
        assert!("a\nb".parse::<TraceQuery>().is_err());
    }
}
