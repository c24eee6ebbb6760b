//! What tests of several crates share.
//!
//! | where | what |
//! | --- | --- |
//! | [`broker`] | a private RabbitMQ |
//! | [`conformance`] | the laws of the transport contract, one function each |

pub mod broker;
pub mod conformance;
