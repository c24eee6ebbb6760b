//! Trace context: the trace that a message belongs to, in the form of the W3C.
//!
//! Owns parsing, printing and derivation. Source: W3C Trace Context, level 1.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::MessageId;

/// The content of `traceparent` and `tracestate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, shared by all messages that descend from one message.
    pub trace_id: u128,
    /// The span of this message.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
    /// `tracestate`, passed on unchanged.
    pub state: Option<Arc<str>>,
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent has the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")]
pub struct InvalidTraceParent;

impl TraceContext {
    /// Returns the context of a message that starts a trace: both ids are derived from its id.
    pub fn root(id: &MessageId) -> Self {
        let bits = id.as_u128();
        Self {
            trace_id: bits.max(1),
            span_id: (bits as u64).max(1),
            flags: 1,
            state: None,
        }
    }

    /// Returns the context of a message that this one led to.
    pub fn child(&self, id: &MessageId) -> Self {
        Self {
            span_id: (id.as_u128() as u64).max(1),
            ..self.clone()
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
            ..
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().ok_or(InvalidTraceParent)?;
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if part.len() == digits && part.bytes().all(hex) {
                Ok(part)
            } else {
                Err(InvalidTraceParent)
            }
        };
        let version = part(2)?;
        let (trace, span, flags) = (part(32)?, part(16)?, part(2)?);
        let number =
            |text, radix| u128::from_str_radix(text, radix).map_err(|_| InvalidTraceParent);
        let (trace_id, span_id) = (number(trace, 16)?, number(span, 16)? as u64);
        let extra = parts.next().is_some();
        if version == "ff" || (version == "00" && extra) || trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace_id,
            span_id,
            flags: number(flags, 16)? as u8,
            state: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_parsing_and_printing() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
    }

    #[test]
    fn a_text_that_is_no_traceparent_is_an_error() {
        for text in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(
                text.parse::<TraceContext>(),
                Err(InvalidTraceParent),
                "{text}"
            );
        }
    }

    #[test]
    fn a_child_keeps_the_trace_and_gets_its_own_span() {
        let (first, second) = (MessageId::new(), MessageId::new());
        let root = TraceContext::root(&first);
        let child = root.child(&second);
        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
    }
}
