//! What tests that cross crates share.
//!
//! | where | what |
//! | --- | --- |
//! | [`answerer`] | a service that answers questions, some late, and one that asks |
//! | [`app`] | an app in the test's process, with virtual time |
//! | [`binary`] | the shipped binary, as fresh as the sources |
//! | [`broker`] | a private RabbitMQ |
//! | [`certificates`] | authorities and certificates for TLS |
//! | [`checker`] | what came of messages: lost, unexpected, again, dead-lettered |
//! | [`cluster`] | three RabbitMQ nodes that are one cluster |
//! | [`conformance`] | the laws of the transport contract, one function each |
//! | [`disk`] | a small disk that can be filled, or not be written |
//! | [`feeder`] | a program outside that publishes until all is accepted |
//! | [`http`] | a very small HTTP client |
//! | [`kept`] | what lies in the folder of an `embedded:` transport |
//! | [`leaky`] | a careless service that shows its secret wherever it can |
//! | [`polyglot`] | an app among programs in other languages |
//! | [`numbers`] | a database, as little as it takes to see what was written |
//! | [`pair`] | a service with two inputs |
//! | [`parts`] | parts of manifests, and starting what they make |
//! | [`process`] | processes that tests start: private, bounded, stopped by process id |
//! | [`proxy`] | a network between app and broker that fails as told |
//! | [`puppet`] | a service that does what messages tell it to |
//! | [`raw`] | AMQP as bytes, for what no client library would send |
//! | [`seed`] | what a run draws at random, and how it is run again |
//! | [`subject`] | a service that fails when its test says so |
//! | [`syscalls`] | what a process asked of the system, in order |
//! | [`tally`] | a service that counts in its store how often it has done something |
//! | [`watch`] | what an app said of itself, and whether it worked, over time |

pub mod answerer;
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
pub mod leaky;
pub mod numbers;
pub mod pair;
pub mod parts;
pub mod polyglot;
pub mod process;
pub mod proxy;
pub mod puppet;
pub mod raw;
pub mod seed;
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
