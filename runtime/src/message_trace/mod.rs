//! The trail of a message: where it went in an app, what became of it there, what it led to,
//! and where all of that is now.
//!
//! Nobody follows messages while they go. Their ids are enough: what a handler emits has an
//! id that is made of its parent's, so a message's way can be found afterwards, from what is
//! known of each: what services handled last (their trails, in memory), what is in queues and in
//! hands, dead letters, inboxes and outboxes of stores.
//!
//! Refuses to guess: what isn't known is said to be so, with what was looked at and what
//! couldn't be. Nothing is changed by looking; everything has bounds.
//!
//! | where | what |
//! | --- | --- |
//! | `ring` | what one service handled last |
//! | `question`, `report` | what is asked, what is answered |
//! | `gather`, `stores`, `evidence` | looking; what was found |
//! | `wiring`, `family`, `tree` | who reads what; what led to what; from what was found to the way |
//! | `words` | the same for people |
//!
//! ```
//! use brickwork::App;
//! use brickwork::message_trace::{Question, Whereabouts};
//!
//! /// Where a message stands with each service that it came to.
//! async fn where_is(app: &App, id: &str) -> Vec<(String, Whereabouts)> {
//!     let Ok(question) = id.parse::<Question>() else {
//!         return Vec::new();
//!     };
//!     let trace = app.trace(&question).await;
//!     let hops = trace.messages.into_iter().flat_map(|message| message.hops);
//!     hops.map(|hop| (hop.service, hop.now)).collect()
//! }
//! ```

mod collect;
mod descendants;
mod findings;
mod port_graph;
mod query;
mod report;
mod stores;
mod text;
mod tree;

pub(crate) use collect::{QueueAccess, TraceCollector};
pub(crate) use port_graph::Wiring;
pub use query::TraceQuery;
pub use report::{Attempt, EmittedBy, Hop, MessageState, Outboxed, Trace, TracedMessage};
