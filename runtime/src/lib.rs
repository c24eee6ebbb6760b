//! A runtime for applications that are assembled from small supervised services.
//!
//! A **service** is an actor with one job: it takes messages from a mailbox and emits messages on
//! named ports. A **manifest** picks service types, configures them and connects their ports to
//! topics. A **transport** moves the messages, in memory or over a broker. Services do not know
//! which.
//!
//! Start with [`Service`] to write one, [`Catalog`] to offer it, and [`cli::main`] to run
//! manifests with it.
//!
//! # Map
//!
//! | module | content |
//! | --- | --- |
//! | [`Message`], [`Delivery`], [`MessageId`] | messages, and the duty to settle them |
//! | [`transport`] | the contract of transports, and `memory:` |
//! | [`Service`], [`Handle`], [`Source`], [`Context`] | the interface for writing services |
//! | `admin`, `control`, `log`, `metrics` | observing a running app, and its command socket |
//! | `host` | runs services: actors, mailboxes, instances, consumers |
//! | `supervisors`, `child_process` | supervisors, and the child processes that some services run in |
//! | `http` | a server for HTTP/1.1 that no client can exhaust, behind the feature of that name |
//! | [`dead_letters`] | listing, replaying and discarding dead letters |
//! | [`manifest`] | from TOML files to a validated plan, or a report of the errors |
//! | [`message_trace`] | the path of a message and of its descendants |
//! | [`config`](mod@config) | types for service configs |
//! | [`Store`] | a service's own database: inbox, state and outbox in one transaction |
//! | [`sqlite`] | SQLite databases with few writer threads and group commit |
//! | [`supervision`] | policies for restarts, retries and quarantine, as functions over values |
//! | `testing` | test kit for services and apps, behind the feature of that name |
//!
//! A message passes these stations: queue, consumer, mailbox, instance (`host::instance`); then its
//! outputs are published and confirmed, and it is acked.
//!
//! # Features
//!
//! A library of services needs none of them: `default-features = false` builds without axum,
//! clap and SQLite. In such a build each missing part is a stub (`absent.rs`) behind the same
//! module name.
//!
//! | feature | default | content | dependency |
//! | --- | --- | --- | --- |
//! | `admin` | yes | the admin endpoint: health, metrics, status page | axum |
//! | `http` | with `admin` | `http`: a server for sources, such as `http-in` | hyper |
//! | `cli` | yes | `cli`: the command line | clap |
//! | `store` | yes | [`Store`] and [`sqlite`] | rusqlite, which builds SQLite |
//! | `testing` | no | `testing`: the test kit, for dev-dependencies | |

// A `print` waits for its reader, and panics without one.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]
// Code that only a missing feature calls stays compiled, so that the borders stay few.
#![cfg_attr(
    not(all(feature = "admin", feature = "cli", feature = "store")),
    allow(dead_code, unused_imports)
)]

#[cfg(feature = "admin")]
mod admin;
#[cfg(not(feature = "admin"))]
#[path = "admin/absent.rs"]
mod admin;
mod app;
mod child_process;
#[cfg(feature = "cli")]
pub mod cli;
mod clock;
pub mod config;
mod control;
mod dead_letter;
pub mod dead_letters;
mod delivery;
mod envelope_json;
mod events;
mod failure;
#[cfg(not(doctest))]
pub mod guide;
mod host;
#[cfg(feature = "http")]
pub mod http;
mod id;
mod key;
mod limits;
mod lock;
mod log;
mod log_throttle;
pub mod manifest;
mod message;
pub mod message_trace;
mod metrics;
mod names;
pub mod panic;
mod position;
pub mod prelude;
pub mod process;
mod rate_limit;
mod redact;
mod service;
mod service_thread;
mod settings;
#[cfg(feature = "store")]
pub mod sqlite;
#[cfg(not(feature = "store"))]
#[path = "sqlite/absent.rs"]
pub mod sqlite;
mod status;
mod stderr;
#[cfg(feature = "store")]
mod store;
#[cfg(not(feature = "store"))]
#[path = "store/absent.rs"]
mod store;
pub mod supervision;
mod supervisors;
#[cfg(feature = "testing")]
pub mod testing;
mod trace_context;
pub mod transport;

pub use brickwork_macros::{config, entity, message, service, source};

pub use app::{App, Plan, ServiceSummary, StartError, StopReport, Summary, Workers};
pub use clock::Clock;
pub use dead_letter::{DeadLetter, Reason};
pub use delivery::{Delivery, DeliveryParts, Reply, Settle, Settlement};
pub use envelope_json::{InvalidHead, read_head, write_head};
pub use events::Event;
pub use failure::{FAILURE_TEXT_BYTES_MAX, Failure, FailureKind};
pub use host::CLOCK_TOLERANCE;
pub use id::{ID_BYTES_MAX, InvalidId, MessageId};
pub use key::{CompileKey, KEY_BYTES_MAX, Key, KeyRule, ReadKey};
pub use limits::Limit;
pub use lock::Lock;
pub use log_throttle::LogThrottle;
pub use message::{Envelope, Headers, JSON, Message, ReplyTo};
pub use names::{
    EVENTS_TOPIC, InvalidName, NAME_BYTES_MAX, QueueId, RESERVED, TOPIC_BYTES_MAX, check_name,
    check_topic,
};
pub use rate_limit::RateLimiter;
pub use redact::{REDACTED, Redactor, password_of, without_password};
pub use service::{
    AbandonHook, Ask, Batch, Catalog, CodecError, Config, ConfigError, Context, Descriptor, Feed,
    Handle, HandleBatch, HttpAnswer, HttpContent, HttpRoute, Input, MessageBuilder, Meta, NoConfig,
    Out, Outcome, Output, Payload, PendingWorkGuard, PortDescriptor, Ports, Position, Raw, Request,
    SendHandle, Service, ServiceType, Shared, Source, SourceContext, SourcePorts, Tick,
    TrySubmitError,
};
#[cfg(feature = "store")]
pub use service::{Entity, ReminderId, Store, Tx};
/// The runtime that services run on, for timers and channels.
#[doc(no_inline)]
pub use tokio;

/// Names that the attributes of `brickwork_macros` write.
#[doc(hidden)]
pub mod __macros {
    pub use crate::service::{BatchReturn, HandlerReturn, key_of};
    pub use {schemars, serde};
}
pub use trace_context::{InvalidTraceParent, TraceContext};
