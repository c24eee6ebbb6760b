//! The host: what runs services.
//!
//! A service is an actix actor that owns a mailbox and instances. Each instance is a
//! loop on the actor's thread: it pulls a delivery, lends its value to the handler's
//! future under a guard, holds the outputs, and settles. Inbound bridges fill the
//! mailbox; outputs go straight to the transport, which reports when it has them.

mod abandon_hooks;
mod actor;
mod autoscale;
mod batch;
mod bridge;
mod guard;
mod handle;
mod in_flight;
mod input_consumer;
mod instance;
mod liveness;
mod local_service;
mod log_throttle;
mod mailbox;
pub mod panic;
mod pending_work;
pub(crate) mod position;
mod position_fence;
mod relay;
mod remote_stats;
mod service_handle;
mod service_run;
mod service_state;
mod settlement;
mod source;
mod status;
mod tick;

pub(crate) use self::service_state::{ServiceSetup, WiredOutput};
pub use abandon_hooks::AbandonHook;
pub(crate) use actor::{Drain, ServiceActor, Start, StopBy, Stopped};
pub(crate) use guard::panic_text;
pub use handle::CLOCK_TOLERANCE;
pub use pending_work::PendingWorkGuard;
pub(crate) use position_fence::RunNumber;
pub(crate) use remote_stats::RemoteStats;
pub(crate) use service_handle::ServiceHandle;
pub(crate) use service_run::ServiceRun;
pub(crate) use settlement::AttemptFailure;
pub(crate) use status::{LastFailure, Standing};
