//! A runtime for applications that are assembled from small supervised services.
//!
//! A **service** is an actor with one job: it takes messages from a mailbox and emits
//! messages on named ports. A **manifest** picks service types, configures them and
//! connects their ports to topics. A **transport** moves the messages: in memory, or
//! over a broker; no service knows which.
//!
//! Start with [`Service`] to write one, [`Catalog`] to offer it, [`cli::main`] to run
//! manifests over it.
//!
//! # Map
//!
//! | where | what |
//! | --- | --- |
//! | [`Message`], [`Delivery`], [`MessageId`] | what travels, and the duty to settle it |
//! | [`transport`] | the contract of transports, and `memory:` |
//! | [`Service`], [`Handle`], [`Source`], [`Context`] | what one writes |
//! | `admin`, `control`, `log`, `metrics` | what is to be seen of a running app, and its command socket |
//! | `host` | runs services: actor, mailbox, instances, bridges |
//! | `tree`, `child` | supervisors, and the child processes that some services run in |
//! | [`dead_letters`] | what was given up: to be looked at, replayed, discarded |
//! | [`manifest`] | from TOML files to a checked plan, or a report of what is wrong |
//! | [`trail`] | where a message went: what is known of it and of what it led to |
//! | [`config`] | types that configs are made of |
//! | [`Store`] | a service's own database: inbox, state and outbox in one transaction |
//! | [`sqlite`] | databases, written by few threads in groups |
//! | [`supervision`] | decisions on restarts and retries, as functions over values |
//! | `testing` | for tests of services and apps: behind the feature of that name |
//!
//! The way of a message: queue → inbound bridge → mailbox → instance (`host::instance`)
//! → outputs published and confirmed → ack.

mod admin;
mod app;
mod child_process;
pub mod cli;
mod clock;
pub mod config;
mod control;
mod dead_letter;
pub mod dead_letters;
mod delivery;
mod envelope_json;
mod failure;
#[cfg(not(doctest))]
pub mod guide;
mod host;
mod id;
mod lock;
mod log;
pub mod manifest;
mod message;
pub mod message_trace;
mod metrics;
mod names;
pub mod prelude;
mod redact;
mod service;
mod service_thread;
mod settings;
pub mod sqlite;
mod store;
pub mod supervision;
mod supervisors;
#[cfg(feature = "testing")]
pub mod testing;
mod trace_context;
pub mod transport;

pub use app::{App, Plan, ServiceSummary, StartError, StopReport, Summary, Workers};
pub use clock::Clock;
pub use dead_letter::{DeadLetter, Reason};
pub use delivery::{Delivery, DeliveryParts, Reply, Settle, Settlement};
pub use envelope_json::{InvalidHead, read_head, write_head};
pub use failure::{FAILURE_TEXT_BYTES_MAX, Failure, FailureKind};
pub use host::{AbandonHook, CLOCK_TOLERANCE, PendingWorkGuard, panic};
pub use id::{ID_BYTES_MAX, InvalidId, MessageId};
pub use lock::Lock;
pub use message::{Envelope, Headers, JSON, Message, ReplyTo};
pub use names::{
    InvalidName, NAME_BYTES_MAX, QueueId, RESERVED, TOPIC_BYTES_MAX, check_name, check_topic,
};
pub use redact::{REDACTED, Redactor, password_of, without_password};
pub use service::{
    Batch, Catalog, CodecError, Config, ConfigError, Context, Descriptor, Handle, HandleBatch,
    Input, MessageBuilder, NoConfig, Outcome, Output, Payload, PortDescriptor, Ports, Raw, Request,
    SendHandle, Service, ServiceType, Source, SourceContext, SourcePorts, Tick, TrySubmitError,
};
pub use store::{Store, Tx};
pub use trace_context::{InvalidTraceParent, TraceContext};
