//! What a transport can't do, and why an ask got no answer.

use std::time::Duration;

use crate::names::QueueId;

/// What a transport can't do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// It was closed, by this side.
    #[error("the transport is closed")]
    Closed,
    /// The connection is gone.
    #[error("the connection is lost: {0}")]
    Lost(String),
    /// It can't be reached, or refused to let us in.
    #[error("can't connect to {url}: {why}")]
    Connect {
        /// Where, without secrets.
        url: String,
        /// Why not.
        why: String,
    },
    /// A queue or exchange can't be made as it must be.
    #[error("can't declare {what}: {why}")]
    Declare {
        /// Its name there.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// Something of somebody else that the manifest names can't be used.
    #[error("can't use {what}: {why}")]
    OwnedByAnother {
        /// Its name there.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// There is no such queue: it was not declared.
    #[error("there is no queue {0}: declare the topology first")]
    NoQueue(QueueId),
    /// Publications were not confirmed: they may or may not have arrived.
    #[error("the publication was not confirmed")]
    Unconfirmed,
    /// The broker refused a publication, or a queue is full and rejects.
    #[error("the publication was refused: {0}")]
    Refused(String),
    /// A message that can't be published, now or later.
    #[error("the message can't be published: {0}")]
    Unpublishable(String),
    /// Something that this transport doesn't do.
    #[error("{0} is not supported by this transport")]
    Unsupported(&'static str),
}

impl TransportError {
    /// Whether trying the same again can't help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unpublishable(_) | Self::Unsupported(_))
    }
}

/// Why an ask got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// Nobody answered in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The other side gave the request up.
    #[error("the request failed: {0}")]
    Failed(String),
    /// The request could not be sent, or the way back is gone.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The reply isn't what was expected.
    #[error("the reply can't be read: {0}")]
    Decode(String),
}
