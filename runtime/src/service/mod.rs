//! The service API: everything that the author of a service uses.
//!
//! A service is a value with handlers for its inputs. It sees neither transport, thread nor
//! other services. The host (`crate::host`) runs services; this module knows nothing of it:
//! the two share [`Publisher`] (messages out) and [`RunControl`] (stop, pause, hooks).
//!
//! | module | content |
//! | --- | --- |
//! | `traits`, `source` | the traits of services and sources |
//! | `port`, `ports`, `handlers` | typed ports, their table, and the erased handlers |
//! | `payload`, `message_builder` | from values to messages |
//! | `context`, `source_context` | the arguments of hooks |
//! | `parameters`, `shared`, `source_parameters` | the parameters of functions that are written with attributes |
//! | `store_access`, `transaction`, `tx` | transactions on the service's own database |
//! | `entity` | entities: one instance for each key, with a saved state |
//! | `publisher`, `pending_emit`, `run_control` | the port between a service and its host |
//! | `catalog`, `config`, `descriptor`, `http_route` | service types by name, with config and description |
//! | `erased`, `actor` | service types without their Rust type, as the host runs them |

mod abandon_hooks;
mod actor;
mod answerers;
mod catalog;
mod config;
mod context;
mod descriptor;
#[cfg(feature = "store")]
mod entity;
mod erased;
mod handlers;
mod http_route;
mod message_builder;
mod parameters;
mod payload;
mod pending_emit;
mod pending_work;
mod port;
mod ports;
mod publisher;
mod run_control;
mod shared;
mod shared_values;
mod source;
mod source_context;
mod source_parameters;
#[cfg(feature = "store")]
mod store_access;
mod traits;
#[cfg(feature = "store")]
mod transaction;
#[cfg(feature = "store")]
mod tx;

pub use abandon_hooks::AbandonHook;
pub use actor::Outcome;
pub(crate) use answerers::{Answerer, Answerers, Readers};
#[cfg(feature = "testing")]
pub(crate) use catalog::TypeMetadata;
pub use catalog::{Catalog, ServiceType};
pub use config::{Config, ConfigError, NoConfig};
pub use context::Context;
pub(crate) use context::{TxState, Work};
pub use descriptor::{Descriptor, PortDescriptor};
#[cfg(all(feature = "store", feature = "testing"))]
pub(crate) use entity::EntityBlueprint;
#[cfg(feature = "store")]
pub use entity::{Entity, ReminderId};
pub(crate) use erased::{ConfiguredType, Instance, InstanceFactory, Kind, Run};
#[cfg(feature = "testing")]
pub(crate) use erased::{ServiceBlueprint, SourceBlueprint};
pub use http_route::{HttpAnswer, HttpContent, HttpRoute};
pub use message_builder::MessageBuilder;
pub use parameters::{Ask, BatchReturn, HandlerReturn, Meta, Out, key_of};
pub use payload::{CodecError, Payload, Raw};
pub(crate) use pending_emit::PendingEmit;
pub use pending_work::PendingWorkGuard;
pub use port::{Input, Output, Request, Tick};
#[cfg(any(test, feature = "testing"))]
pub(crate) use ports::PortTable;
pub use ports::{Batch, Ports};
pub(crate) use ports::{Reply, TickSpec};
pub(crate) use publisher::{Publisher, WiredOutput, WiredPort};
pub(crate) use run_control::{Pause, RunControl};
pub use shared::Shared;
pub use source::{Source, SourcePorts};
pub use source_context::{SendHandle, SourceContext, TrySubmitError};
pub use source_parameters::{Feed, Position};
#[cfg(feature = "store")]
pub use store_access::Store;
pub use traits::{Handle, HandleBatch, Service};
#[cfg(feature = "store")]
pub use tx::Tx;
