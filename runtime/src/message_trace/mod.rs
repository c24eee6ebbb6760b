//! Traces one message through an app: the services that handled it, how each attempt ended, the
//! messages that it led to, and where all of them are now.
//!
//! The runtime keeps no trace records of its own. A trace is put together afterwards, from
//! facts that exist anyway: the last attempts of each service, queues, messages in flight, dead
//! letters, and the inboxes and outboxes of stores. A message is found by its id or its trace
//! id. It is linked to its parent by the parent id that it carries, or because its own id is
//! derived from the parent's ([`MessageId::child`]). The newest record of a message at an input
//! is its state there.
//!
//! Rules:
//! - A trace states facts. It says `unknown` where nothing is recorded, and lists the places
//!   that could not be read.
//! - Tracing changes nothing and has bounds: time, messages, ids.
//!
//! | file | content |
//! | --- | --- |
//! | `history` | the last attempts of one service, recorded while it runs |
//! | `query`, `report` | the question and the answer |
//! | `collect`, `stores`, `findings` | reads every place; the records that were found |
//! | `port_graph` | which service reads which topic |
//! | `tree`, `text` | builds the answer from the records; prints it |
//!
//! ```
//! use brickwork::App;
//! use brickwork::message_trace::{MessageState, TraceQuery};
//!
//! /// The state of a message at each service that it came to.
//! async fn states(app: &App, id: &str) -> Vec<(String, MessageState)> {
//!     let Ok(query) = id.parse::<TraceQuery>() else {
//!         return Vec::new();
//!     };
//!     let trace = app.trace(&query).await;
//!     let hops = trace.messages.into_iter().flat_map(|message| message.hops);
//!     hops.map(|hop| (hop.service, hop.now)).collect()
//! }
//! ```

mod collect;
mod findings;
mod history;
mod port_graph;
mod query;
mod report;
#[cfg(feature = "store")]
mod stores;
#[cfg(not(feature = "store"))]
#[path = "stores/absent.rs"]
mod stores;
mod text;
mod tree;

#[cfg(doc)]
use crate::id::MessageId;

pub(crate) use collect::{LocalService, QueueAccess, RunningServices, TraceCollector};
pub(crate) use findings::Findings;
pub(crate) use history::{AttemptHistory, AttemptRecord};
pub(crate) use port_graph::{GraphPort, GraphService, PortGraph};
pub use query::TraceQuery;
pub use report::{Attempt, EmittedBy, Hop, MessageState, Outboxed, Trace, TracedMessage};
