//! What tests that cross crates share.
//!
//! | where | what |
//! | --- | --- |
//! | [`app`] | an app in the test's process, with virtual time |
//! | [`binary`] | the shipped binary, as fresh as the sources |
//! | [`broker`] | a private RabbitMQ |
//! | [`conformance`] | the laws of the transport contract, one function each |
//! | [`http`] | a very small HTTP client |
//! | [`leaky`] | a careless service that shows its secret wherever it can |
//! | [`polyglot`] | an app among programs in other languages |
//! | [`process`] | processes that tests start: private, bounded, stopped by process id |
//! | [`puppet`] | a service that does what messages tell it to |
//! | [`raw`] | AMQP as bytes, for what no client library would send |
//! | [`subject`] | a service that fails when its test says so |

pub mod app;
pub mod binary;
pub mod broker;
pub mod conformance;
pub mod http;
pub mod leaky;
pub mod polyglot;
pub mod process;
pub mod puppet;
pub mod raw;
pub mod subject;

/// The README's Rust is compiled as a test of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
