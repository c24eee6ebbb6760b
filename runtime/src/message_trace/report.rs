//! A message's way, as plain data: what `brickwork trace --json` prints.

use serde::{Deserialize, Serialize};

use crate::dead_letter::Reason;

/// The way of a message through an app, and of everything that it led to.
///
/// Times are RFC 3339, in UTC. What isn't known is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The app.
    pub app: String,
    /// The id that was asked for.
    pub asked: String,
    /// Whether anything is known of it.
    pub found: bool,
    /// The trace that it belongs to, in 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The messages that it came of, as far as that is known: its parent first.
    pub came_of: Vec<String>,
    /// The message that was asked for; of a trace, every message that it begins with.
    pub messages: Vec<TracedMessage>,
    /// What was looked at.
    pub looked_at: Vec<String>,
    /// What wasn't, and why: what was handled there isn't known here.
    pub missed: Vec<String>,
    /// Why there may be more than is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TracedMessage {
    /// Its id.
    pub id: String,
    /// The service that emitted it while it handled the message above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<EmittedBy>,
    /// What it is.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The topics that it was published to.
    pub topics: Vec<String>,
    /// The inputs that it came to, or should come to.
    pub hops: Vec<Hop>,
    /// The outboxes that it is still in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outboxes: Vec<Outboxed>,
    /// What it led to.
    pub led_to: Vec<TracedMessage>,
    /// It is shown in another place, with all that it led to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shown_before: bool,
}

/// Where in a service a message came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EmittedBy {
    /// The service.
    pub service: String,
    /// The output, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Its number among those that were emitted there for the same message, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// A message at one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// The service.
    pub service: String,
    /// The input.
    pub input: String,
    /// The attempts that are still known, the first one first.
    pub attempts: Vec<Attempt>,
    /// When it was entered in the inbox of the service's store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<String>,
    /// Where it is now.
    pub now: MessageState,
}

/// One attempt of a service at a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// How it ended: `ok`, `retry`, `reject`, `panic`, `timeout`, `defer` or `expired`, as in
    /// the metrics.
    pub outcome: String,
    /// When it ended.
    pub at: String,
    /// How long the handler took, in microseconds.
    pub took_us: u64,
}

/// Where a message is, as seen from one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum MessageState {
    /// It was handled, and is done with: an attempt, an inbox, or what came of it says so.
    Done,
    /// It was handled at least once, since something came of it; whether it comes again can't
    /// be seen.
    Handled,
    /// It was too late: nobody waited for its answer any more.
    Expired,
    /// It waits in the input's queue.
    Waiting {
        /// How many are before it.
        #[serde(skip_serializing_if = "Option::is_none")]
        ahead: Option<u64>,
    },
    /// A process has taken it.
    InHand {
        /// An instance handles it; otherwise it waits for one.
        handled: bool,
        /// Which attempt this is.
        attempt: u32,
    },
    /// It was in hand when a process died, and waits to be tried by itself.
    Suspect {
        /// Which attempt that will be.
        attempt: u32,
    },
    /// It waits for its time.
    Delayed {
        /// Until then.
        until: String,
        /// Which attempt that will be.
        attempt: u32,
    },
    /// It was given up.
    DeadLettered {
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
        /// The last failure's text.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// How many attempts were made.
        #[serde(skip_serializing_if = "Option::is_none")]
        attempts: Option<u32>,
        /// When.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<String>,
    },
    /// It was given up, and its letter is not in the dead-letter queue: it was taken out
    /// since, or could not be looked for.
    GivenUp,
    /// There is no trace of it: it was handled longer ago than what is kept, or never came.
    Unknown,
}

/// A message in an outbox: committed, and not yet taken over by the transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outboxed {
    /// The service whose store it is.
    pub service: String,
    /// The topic that it is to be published to.
    pub topic: String,
    /// When it is to be delivered, if later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why it can't be published, ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
