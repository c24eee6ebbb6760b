//! The contract between the engine and a journal, and the values that they exchange.
//!
//! The engine sends commands by the methods of [`Journal`]. The journal answers with events,
//! by [`JournalEvents`], which the engine implements. The engine knows nothing of files. The
//! journal knows queues by their numbers and never sees a consumer.

use std::time::Duration;

use crate::message::Message;
use crate::transport::{Completion, TransportError};

/// Slot of a message that no in-flight log records.
pub const NO_SLOT: u32 = (1 << 24) - 1;

/// Durable storage behind an engine.
///
/// # Contract
/// - **Threading.** Every method may be called from any thread, and must not block. The
///   engine calls [`blocks`](Journal::blocks) and
///   [`record_in_flight`](Journal::record_in_flight) while it holds the lock of a queue, so
///   these two must not call the engine.
/// - **Ordering.** The journal executes the commands of one thread in the order of its calls,
///   and reports changes of a queue in the order in which it wrote them.
/// - **Failure.** A command that cannot be written yet is kept until it can, except
///   [`append`](Journal::append), which then fails.
pub trait Journal: Send + Sync + 'static {
    /// Stores messages, all or none, and then completes `done`. The change of each queue is
    /// applied before that.
    fn append(&self, messages: Vec<Append>, done: Completion);

    /// Deletes a handled message.
    fn ack(&self, id: EntryId);

    /// Stores the attempt number of a requeued message.
    fn set_attempt(&self, id: EntryId, attempt: u32);

    /// Moves a message to the delayed ones. It arrives in its queue again, as the given
    /// attempt. `bytes` is its size.
    fn delay(&self, id: EntryId, after: Duration, attempt: u32, bytes: usize);

    /// Deletes a message and stores its dead letter, in one commit.
    fn dead_letter(&self, id: EntryId, letter: Append);

    /// Loads the next messages of a queue into its window.
    fn load(&self, queue: u32, request: LoadRequest);

    /// Records messages as in flight before they are handed out, and adds a slot for each.
    /// A crash of the process leaves this record behind.
    fn record_in_flight(
        &self,
        queue: u32,
        sequences: &mut dyn ExactSizeIterator<Item = u64>,
        slots: &mut Vec<u32>,
    );

    /// Ends the record of a message that is deleted by a command.
    fn free_slot(&self, slot: u32);

    /// Ends the record of a message that stays in its queue.
    fn erase_slot(&self, slot: u32);

    /// Whether consumers of a queue must wait although messages are ready.
    fn blocks(&self, queue: u32) -> bool;

    /// Whether disk space is low: then a retried message waits in memory, since moving it
    /// takes space.
    fn has_low_space(&self) -> bool;

    /// The reason why the journal accepts nothing at present.
    fn error(&self) -> Option<TransportError>;

    /// Called after a delivery was settled or a dead letter was stored.
    fn on_settled(&self);
}

/// Events of a journal.
pub trait JournalEvents: Send + Sync + 'static {
    /// A commit changed a queue. A queue that no topology of this process has is ignored.
    fn changed(&self, queue: u32, change: Change);

    /// Consumers that [`Journal::blocks`] may take again.
    fn resumed(&self);

    /// Returns whether consumers work on messages, or soon will, which frees disk space.
    fn is_draining(&self) -> bool;
}

/// A stored message: the number of its queue and its sequence number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryId {
    /// Number of the queue.
    pub queue: u32,
    /// Sequence number in the queue.
    pub sequence: u64,
}

/// A message to store.
#[derive(Debug)]
pub struct Append {
    /// Number of its queue.
    pub queue: u32,
    /// The message.
    pub message: Message,
    /// Delay before it arrives in the queue; zero means now.
    pub delay: Duration,
    /// Whether the queue has reserved capacity for it.
    pub reserved: bool,
}

/// A message in the window of a queue.
#[derive(Debug)]
pub struct Entry {
    /// Sequence number: the position in the order of arrival.
    pub sequence: u64,
    /// The message.
    pub message: Message,
    /// Number of the next attempt, from 1.
    pub attempt: u32,
}

/// Contents of a queue when the engine opens it.
#[derive(Debug, Clone, Copy, Default)]
pub struct InitialCounts {
    /// Sequence number of the next message that arrives.
    pub next_sequence: u64,
    /// Messages in the queue, without suspects.
    pub messages: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Delayed messages that wait for another attempt.
    pub retrying: u64,
    /// Suspects.
    pub suspects: u64,
}

/// Part of a queue to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadRequest {
    /// The part begins after this sequence number.
    pub after: u64,
    /// Maximum messages.
    pub max: usize,
}

/// Changes of one queue by one commit.
#[derive(Debug, Default)]
pub struct Change {
    /// Appended messages, in order.
    pub arrived: Vec<Entry>,
    /// Reserved capacity that these messages used.
    pub reserved: u64,
    /// Messages that wait for their time from now on.
    pub scheduled: u64,
    /// Messages that wait no longer.
    pub due: u64,
    /// Messages of `due` that waited for another attempt.
    pub due_retrying: u64,
    /// Messages that were in flight and are dead letters now.
    pub dead_lettered: u64,
    /// Answer to a [`LoadRequest`].
    pub loaded: Option<Loaded>,
    /// Whether a [`LoadRequest`] failed: the engine repeats it.
    pub load_failed: bool,
}

/// Messages that the journal loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The readable messages, in order.
    pub entries: Vec<Entry>,
    /// Every sequence number up to this one was looked at.
    pub last: u64,
    /// Whether the queue has no more messages beyond, as of the commit.
    pub end: bool,
    /// Number of messages that are known to be unreadable.
    pub damaged: u64,
}
