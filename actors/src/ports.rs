//! What the service types here have in common: the names of their ports.

use brickwork::Message;
use brickwork::prelude::*;

/// Where messages come in, as they are.
pub(crate) const IN: Input<Raw> = Input::new("in");
/// Where messages go out, as they are.
pub(crate) const OUT: Output<Raw> = Output::new("out");

/// The message in hand and the attempt at it.
///
/// # Panics
/// Outside of a handler of single messages: a mistake of ours.
pub(crate) fn in_hand(cx: &Context) -> (&Message, u32) {
    let message = cx.message().expect("a handler has a message in hand");
    (message, cx.attempt())
}

/// The message behind a value of a batch and the attempt at it.
///
/// # Panics
/// If the batch has no such value: a mistake of ours.
pub(crate) fn in_batch(cx: &Context, index: usize) -> (&Message, u32) {
    let message = cx.batch_message(index);
    message.expect("every value of a batch has a message")
}
