//! The host: what runs services.
//!
//! A service is an actix actor that owns a mailbox and instances. Each instance is a
//! loop on the actor's thread: it pulls a delivery, lends its value to the handler's
//! future under a guard, holds the outputs, and settles. Inbound bridges fill the
//! mailbox; outputs go straight to the transport, which reports when it has them.

mod abandon;
mod actor;
mod apart;
mod batch;
mod bridge;
mod core;
mod elastic;
mod environment;
mod guard;
mod hand;
mod handling;
mod hosted;
mod instance;
mod mailbox;
pub mod panic;
pub(crate) mod position;
mod pulse;
mod relay;
mod saves;
mod scheduled;
mod seldom;
mod settle;
mod source;
mod state;
mod tap;
mod tick;

pub(crate) use self::core::{Settings, WiredOutput};
pub use abandon::AbandonHook;
pub(crate) use actor::{Drain, ServiceActor, Start, StopBy, Stopped};
pub(crate) use apart::Seen;
pub(crate) use environment::Environment;
pub(crate) use guard::panic_text;
pub use handling::CLOCK_TOLERANCE;
pub(crate) use hosted::Hosted;
pub(crate) use saves::RunNumber;
pub use scheduled::PendingWorkGuard;
pub(crate) use settle::Failed;
pub(crate) use state::{LastFailure, Standing};
