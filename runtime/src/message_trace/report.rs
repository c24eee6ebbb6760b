//! The answer as plain data: `brickwork trace --json` prints it.

use serde::{Deserialize, Serialize};

use crate::dead_letter::Reason;

/// A message's way through an app, with the messages that it led to.
///
/// Times are RFC 3339, in UTC. Unknown values are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The name of the app.
    pub app: String,
    /// The id that was asked for.
    pub asked: String,
    /// Whether anything is recorded about it.
    pub found: bool,
    /// The id of its trace: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The ids of its known ancestors, its parent first.
    pub came_of: Vec<String>,
    /// The message that was asked for; for a trace id, every first message of the trace.
    pub messages: Vec<TracedMessage>,
    /// The places that were read.
    pub looked_at: Vec<String>,
    /// The places that could not be read, with the reason. Attempts and copies there are not in
    /// this answer.
    pub missed: Vec<String>,
    /// Why the answer is cut, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TracedMessage {
    /// The message's id.
    pub id: String,
    /// The output that emitted the message, for a message that another one led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<EmittedBy>,
    /// The message's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The topics that the message was published to.
    pub topics: Vec<String>,
    /// The inputs that the message came to, or should come to.
    pub hops: Vec<Hop>,
    /// The outboxes that still hold the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outboxes: Vec<Outboxed>,
    /// The messages that this one led to, each once in the answer.
    pub led_to: Vec<TracedMessage>,
}

/// The output that emitted a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EmittedBy {
    /// The label of the service.
    pub service: String,
    /// The name of the output, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The number of the message among those emitted there for the same parent, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// A message at one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// The label of the service.
    pub service: String,
    /// The name of the input.
    pub input: String,
    /// The recorded attempts, the first one first.
    pub attempts: Vec<Attempt>,
    /// When the message was entered in the inbox of the service's store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<String>,
    /// The present state.
    pub now: MessageState,
}

/// One attempt of a service at a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The outcome: `ok`, `retry`, `reject`, `panic`, `timeout`, `defer` or `expired`, as in
    /// the metrics.
    pub outcome: String,
    /// When the attempt ended.
    pub at: String,
    /// The duration of the handler, in microseconds.
    pub took_us: u64,
    /// The number of messages that the handler emitted. Those of a transaction are not counted.
    #[serde(default)]
    pub emitted: u32,
}

/// The state of a message at one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum MessageState {
    /// Handled successfully: an attempt, an inbox entry or an emitted message says so.
    #[serde(alias = "handled")]
    Done,
    /// Dropped, because its deadline had passed.
    Expired,
    /// In the input's queue.
    Waiting {
        /// The number of messages before it.
        #[serde(skip_serializing_if = "Option::is_none")]
        ahead: Option<u64>,
    },
    /// Taken from the queue and not settled.
    #[serde(alias = "in-hand")]
    InFlight {
        /// Whether a handler works on it; otherwise it waits for an instance.
        handled: bool,
        /// The number of the present attempt.
        attempt: u32,
    },
    /// In quarantine: it was in flight during crashes of its process, and is retried alone.
    Suspect {
        /// The number of the next attempt.
        attempt: u32,
    },
    /// Delayed by a retry or by its sender.
    Delayed {
        /// The end of the delay.
        until: String,
        /// The number of the next attempt.
        attempt: u32,
    },
    /// Given up. Without details, its dead letter was removed, or could not be read.
    #[serde(alias = "given-up")]
    DeadLettered {
        /// The reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
        /// The text of the last failure.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The number of attempts.
        #[serde(skip_serializing_if = "Option::is_none")]
        attempts: Option<u32>,
        /// When the message was given up.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<String>,
    },
    /// Nothing is recorded: the records are gone already, or the message never came.
    Unknown,
}

impl MessageState {
    /// The state of a dead-lettered message without a readable record.
    pub(super) fn dead_lettered() -> Self {
        Self::DeadLettered {
            reason: None,
            error: None,
            attempts: None,
            at: None,
        }
    }
}

/// A message in an outbox: committed, and not yet confirmed by the transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outboxed {
    /// The label of the service that owns the store.
    pub service: String,
    /// The topic that the message will be published to.
    pub topic: String,
    /// When the message is to be delivered, if it is delayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why the message can never be published, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
