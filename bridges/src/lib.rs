//! Bridges: the transports that carry messages between mailboxes and durable queues.
//!
//! # Map
//!
//! | item | content |
//! | --- | --- |
//! | [`all`] | every transport, for `main` |
//! | [`embedded`] | `embedded:` |
//! | [`rabbitmq`] | `amqp:` and `amqps:` |
//!
//! Both keep the contract of [`brickwork::transport`] and know nothing about services.

use brickwork::transport::Transports;

pub mod embedded;
pub mod rabbitmq;

/// Returns every transport: `memory:` of the runtime, and those of this crate.
pub fn all() -> Transports {
    Transports::new()
        .with(embedded::Embedded)
        .with(rabbitmq::RabbitMq)
}
