//! Shared parts of tests that cross crates.
//!
//! | module | content |
//! | --- | --- |
//! | [`answerer`] | a service that answers requests, some late, and a service that asks |
//! | [`api`] | an outside API that a test scripts |
//! | [`app`] | an app in the test's process, with virtual time |
//! | [`binary`] | the shipped binary, built from the current sources |
//! | [`broker`] | a private RabbitMQ |
//! | [`certificates`] | authorities and certificates for TLS |
//! | [`checker`] | accounts of messages: lost, unexpected, duplicated, dead-lettered |
//! | [`cluster`] | a RabbitMQ cluster of three nodes |
//! | [`conformance`] | the laws of the transport contract, one function each |
//! | [`disk`] | a small disk that can be full or read-only |
//! | [`feeder`] | a publisher outside the app that repeats until all is confirmed |
//! | [`http`] | a small HTTP client |
//! | [`kept`] | the queue file of an `embedded:` transport |
//! | [`key_checker`] | a checker of order by key |
//! | [`key_witness`] | a service that writes a ledger for that checker |
//! | [`leaky`] | a careless service that shows its secret wherever it can |
//! | [`numbers`] | a small database that shows which writes arrived |
//! | [`outside`] | a service that calls an outside system, which its test switches |
//! | [`pair`] | a service with two inputs |
//! | [`parts`] | parts of manifests, and starting an app of them |
//! | [`polyglot`] | an app among programs in other languages |
//! | [`postgres`] | a private PostgreSQL |
//! | [`process`] | processes of tests: private, with time limits, stopped by process id |
//! | [`proxy`] | a TCP proxy that injects network faults |
//! | [`puppet`] | a service that does as each message tells it |
//! | [`raw`] | AMQP as bytes, for messages that no client library would send |
//! | [`seed`] | the seed of a random run, to repeat it |
//! | [`smtp`] | an SMTP server that misbehaves when it is told to |
//! | [`subject`] | a service that fails when its test tells it to |
//! | [`syscalls`] | the system calls of a process, in order |
//! | [`tally`] | a service that counts in its store how often it handled each message |
//! | [`watch`] | the reported readiness of an app and its real progress, over time |

pub mod answerer;
pub mod api;
pub mod app;
pub mod binary;
pub mod broker;
pub mod certificates;
pub mod checker;
pub mod cluster;
pub mod conformance;
pub mod disk;
pub mod feeder;
pub mod http;
pub mod kept;
pub mod key_checker;
pub mod key_witness;
pub mod leaky;
pub mod numbers;
pub mod outside;
pub mod pair;
pub mod parts;
pub mod polyglot;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod puppet;
pub mod raw;
pub mod seed;
pub mod smtp;
pub mod subject;
pub mod syscalls;
pub mod tally;
pub mod watch;

/// The Rust blocks of the README and the guide, compiled and run as tests of the documentation.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../runtime/guide/writing-a-service.md")]
    struct WritingAService;

    #[doc = include_str!("../../runtime/guide/store.md")]
    struct Store;

    #[doc = include_str!("../../runtime/guide/sources.md")]
    struct Sources;

    #[doc = include_str!("../../runtime/guide/testing.md")]
    struct Testing;
}
