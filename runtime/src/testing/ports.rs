//! Ports of a test: typed ports, or topic names with JSON.

use serde_json::Value;

use crate::message::Message;
use crate::service::{Input, Output, Payload, Request};

mod sealed {
    pub trait Sealed {}
}

use sealed::Sealed;

/// A port that a test sends to or asks: an [`Input`] with its type, or a name with JSON.
pub trait Takes: Sealed {
    /// The message.
    type Value: Payload;
    /// The reply.
    type Reply: Payload;
    /// The name of an input of the service under test; in a whole app, a topic.
    fn name(&self) -> &str;
}

/// A port that a test expects messages on: an [`Output`] with its type, or a name with JSON.
pub trait Gives: Sealed {
    /// The message.
    type Value: Payload;
    /// The name of an output of the service under test; in a whole app, a topic.
    fn name(&self) -> &str;
}

/// A port on which services ask the test: a [`Request`] with its types, or a name with JSON.
pub trait Asks: Sealed {
    /// The request.
    type Value: Payload;
    /// The reply.
    type Reply: Payload;
    /// The name of a request of the service under test; in a whole app, a topic.
    fn name(&self) -> &str;
}

impl<M: Payload, R: Payload> Sealed for Input<M, R> {}

impl<M: Payload, R: Payload> Takes for Input<M, R> {
    type Value = M;
    type Reply = R;

    fn name(&self) -> &str {
        self.name()
    }
}

impl<M: Payload> Sealed for Output<M> {}

impl<M: Payload> Gives for Output<M> {
    type Value = M;

    fn name(&self) -> &str {
        self.name()
    }
}

impl<M: Payload, R: Payload> Sealed for Request<M, R> {}

impl<M: Payload, R: Payload> Asks for Request<M, R> {
    type Value = M;
    type Reply = R;

    fn name(&self) -> &str {
        self.name()
    }
}

impl Sealed for str {}

impl Takes for str {
    type Value = Value;
    type Reply = Value;

    fn name(&self) -> &str {
        self
    }
}

impl Gives for str {
    type Value = Value;

    fn name(&self) -> &str {
        self
    }
}

impl Asks for str {
    type Value = Value;
    type Reply = Value;

    fn name(&self) -> &str {
        self
    }
}

/// The text of a payload, cut short, for error texts.
pub(super) fn shown(message: &Message) -> String {
    const CHARACTERS_MAX: usize = 200;
    let text = String::from_utf8_lossy(&message.payload);
    match text.char_indices().nth(CHARACTERS_MAX) {
        None => text.into_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
