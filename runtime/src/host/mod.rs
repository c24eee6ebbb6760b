//! The host: runs services.
//!
//! A service is an actix actor that owns a mailbox and instances. An instance is a loop on the
//! thread of the actor: it pulls a delivery, runs the handler under a guard, and settles the
//! delivery when the emitted messages are confirmed. Inbound bridges fill the mailbox; outputs go
//! to the transport directly.
//!
//! | module | content |
//! | --- | --- |
//! | `service_handle`, `service_state`, `service_run` | a service, its lasting state, one run of it |
//! | `actor`, `autoscale`, `liveness`, `status` | start, stop, scaling, and the state for operators |
//! | `bridge`, `input_consumer`, `mailbox` | from the queue to an instance |
//! | `instance`, `handle`, `batch`, `tick`, `guard`, `in_flight` | the handler loop |
//! | `keyed` | order by key |
//! | `breaker` | the circuit breaker of a service |
//! | `events` | the events of a service, for those that read them |
//! | `settlement` | from an outcome to ack, retry or dead letter |
//! | `source` | the loop of a source |
//! | `relay` | publishes the outbox of a service with a store |
//! | `remote_stats` | statistics of a service in a child process |
//! | `local_service` | the view of a service for message traces |

mod actor;
mod autoscale;
mod batch;
mod breaker;
mod bridge;
mod events;
mod guard;
mod handle;
mod in_flight;
mod input_consumer;
mod instance;
mod keyed;
mod liveness;
mod local_service;
mod mailbox;
#[cfg(feature = "store")]
mod relay;
#[cfg(not(feature = "store"))]
#[path = "relay/absent.rs"]
mod relay;
mod remote_stats;
mod service_handle;
mod service_run;
mod service_state;
mod settlement;
mod source;
mod status;
mod tick;

pub(crate) use self::breaker::BreakerStatus;
pub(crate) use self::service_state::ServiceSetup;
pub(crate) use actor::{Drain, ServiceActor, Start, StopBy, Stopped};
pub use handle::CLOCK_TOLERANCE;
pub(crate) use keyed::KeysHeld;
pub(crate) use remote_stats::RemoteStats;
pub(crate) use service_handle::ServiceHandle;
pub(crate) use service_run::ServiceRun;
pub(crate) use settlement::AttemptFailure;
pub(crate) use status::{LastFailure, Standing};
