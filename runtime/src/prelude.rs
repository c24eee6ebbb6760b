//! Imports for writing a service.

pub use schemars::JsonSchema;
pub use serde::{Deserialize, Serialize};

pub use crate::failure::Failure;
#[cfg(feature = "store")]
pub use crate::service::Tx;
pub use crate::service::{
    Batch, Catalog, ConfigError, Context, Handle, HandleBatch, Input, MessageBuilder, NoConfig,
    Output, Ports, Raw, Request, Service, Source, SourceContext, SourcePorts, Tick,
};
pub use crate::sqlite::Migration;
