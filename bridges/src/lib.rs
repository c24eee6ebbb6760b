//! Bridges: what carries messages between mailboxes and the queues of brokers.
//!
//! # Map
//!
//! | where | what |
//! | --- | --- |
//! | [`all`] | every transport of this crate, for `main` |
//! | [`embedded`] | `embedded:` |
//! | [`rabbitmq`] | `amqp:` and `amqps:` |
//!
//! The contract that they keep is [`brickwork::transport`]; nothing of a service is
//! known here.

use brickwork::transport::Transports;

pub mod embedded;
pub mod rabbitmq;

/// Every transport that there is: `memory:`, which the runtime brings, and this crate's.
pub fn all() -> Transports {
    Transports::new()
        .with(embedded::Embedded)
        .with(rabbitmq::RabbitMq)
}
