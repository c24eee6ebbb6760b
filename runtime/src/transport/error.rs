//! Errors of transports and of asks.

use std::time::Duration;

use crate::names::QueueId;

/// An error of a transport.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The transport was closed by this process.
    #[error("the transport is closed")]
    Closed,
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Lost(String),
    /// The consumer has ended so that messages come again in time or in order: the reason.
    #[error("{0}")]
    ConsumerEnded(String),
    /// The broker can't be reached or refuses access.
    #[error("can't connect to {url}: {why}")]
    Connect {
        /// The URL, without secrets.
        url: String,
        /// The reason.
        why: String,
    },
    /// A queue or exchange can't be declared as required.
    #[error("can't declare {what}: {why}")]
    Declare {
        /// Its name on the broker.
        what: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// An external queue or exchange that the manifest names can't be used.
    #[error("can't use {what}: {why}")]
    OwnedByAnother {
        /// Its name on the broker.
        what: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// The queue was not declared.
    #[error("there is no queue {0}: declare the topology first")]
    NoQueue(QueueId),
    /// Publications were not confirmed: the messages may or may not have arrived.
    #[error("the publication was not confirmed")]
    Unconfirmed,
    /// The broker refused a publication, or a full queue rejected it.
    #[error("the publication was refused: {0}")]
    Refused(String),
    /// The message can't be published, now or later.
    #[error("the message can't be published: {0}")]
    Unpublishable(String),
    /// The transport does not support the operation.
    #[error("{0} is not supported by this transport")]
    Unsupported(&'static str),
}

impl TransportError {
    /// Returns whether the same operation would fail again.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unpublishable(_) | Self::Unsupported(_))
    }
}

/// The reason why a request has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// No reply came in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// No service can answer now: each one was given up, or its circuit breaker is open. Known at
    /// once on transports that processes don't share.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The handler failed or the message was given up.
    #[error("the request failed: {0}")]
    Failed(String),
    /// The request could not be published, or the reply can't arrive.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The reply does not have the expected form.
    #[error("the reply can't be read: {0}")]
    Decode(String),
}
