//! Port names and helpers that several service types share.

use brickwork::Message;
use brickwork::prelude::*;

/// The input of messages, payload undecoded.
pub(crate) const IN: Input<Raw> = Input::new("in");
/// The output of messages, payload undecoded.
pub(crate) const OUT: Output<Raw> = Output::new("out");

/// The message that the handler handles, and the number of the attempt.
///
/// # Panics
/// Outside of a handler of single messages: a bug of the caller.
pub(crate) fn current_message(cx: &Context) -> (&Message, u32) {
    let message = cx.message().expect("a handler has a current message");
    (message, cx.attempt())
}

/// The message at an index of the batch, and the number of the attempt.
///
/// # Panics
/// If the batch has no such index: a bug of the caller.
pub(crate) fn batch_message(cx: &Context, index: usize) -> (&Message, u32) {
    let message = cx.batch_message(index);
    message.expect("every value of a batch has a message")
}
