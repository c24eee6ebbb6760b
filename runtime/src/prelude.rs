//! Imports for writing a service.

pub use schemars::JsonSchema;
pub use serde::{Deserialize, Serialize};

pub use crate::failure::Failure;
pub use crate::key::Key;
pub use crate::service::{
    Ask, Batch, Catalog, ConfigError, Context, Feed, Handle, HandleBatch, Input, MessageBuilder,
    Meta, NoConfig, Out, Output, Ports, Position, Raw, Request, Service, Shared, Source,
    SourceContext, SourcePorts, Tick,
};
#[cfg(feature = "store")]
pub use crate::service::{Entity, ReminderId, Tx};
pub use crate::sqlite::Migration;
pub use crate::{config, entity, message, service, source};

/// The result of a handler: `Ok`, with the reply if the service is asked, or a [`Failure`].
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;
