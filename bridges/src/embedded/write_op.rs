//! Commands to the journal, and the group of commands that one commit executes.

use std::collections::{HashMap, VecDeque};

use brickwork::transport::engine::{Append, InitialCounts, LoadRequest};
use brickwork::transport::{Completion, Topology, TransportError};
use brickwork::{Message, QueueId};
use tokio::sync::oneshot;

use super::delays::due_ms;
use super::record::EncodedRecord;
use super::schema::Id;
use super::statements::{Corruption, DueRow, StoredSuspect};

/// A message to insert.
#[derive(Debug)]
pub(super) struct PendingMessage {
    pub(super) queue: u32,
    pub(super) message: Message,
    pub(super) record: EncodedRecord,
    /// When it arrives in the queue, in milliseconds since 1970-01-01 UTC; `None` is now.
    pub(super) due_ms: Option<u64>,
    /// Whether the queue has reserved capacity for it.
    pub(super) reserved: bool,
}

impl PendingMessage {
    /// Encodes a message, on the caller's thread.
    pub(super) fn new(append: Append) -> Self {
        let record = EncodedRecord::new(&append.message);
        Self::with_record(append, record)
    }

    /// Encodes messages. Copies of one message for several queues are encoded once.
    pub(super) fn all(messages: Vec<Append>) -> Vec<Self> {
        let mut pending: Vec<Self> = Vec::with_capacity(messages.len());
        for append in messages {
            let row = match pending.last() {
                Some(last) if std::ptr::eq(&*last.message, &*append.message) => {
                    Self::with_record(append, last.record.clone())
                }
                _ => Self::new(append),
            };
            pending.push(row);
        }
        pending
    }

    fn with_record(append: Append, record: EncodedRecord) -> Self {
        Self {
            queue: append.queue,
            message: append.message,
            record,
            due_ms: (!append.delay.is_zero()).then(|| due_ms(append.delay)),
            reserved: append.reserved,
        }
    }

    fn bytes(&self) -> usize {
        self.record.head.len() + self.message.payload.len()
    }
}

/// Numbers and contents of the queues in the file.
pub(super) type KnownQueues = HashMap<QueueId, (u32, InitialCounts)>;
/// Called between two commits, so that the counts agree with later changes.
pub(super) type Declared = Box<dyn FnOnce(Result<KnownQueues, TransportError>) + Send>;

/// One command.
pub(super) enum WriteOp {
    /// Inserts messages.
    Publish {
        rows: Vec<PendingMessage>,
        done: Completion,
    },
    /// Stores the attempt number of a message that stays in its queue.
    SetAttempt { id: Id, suspect: bool, attempt: u32 },
    /// Moves a message to the delayed ones.
    Delay {
        id: Id,
        suspect: bool,
        due_ms: u64,
        attempt: u32,
        /// Size of the message.
        bytes: usize,
    },
    /// Deletes a message and inserts its dead letter.
    DeadLetter {
        id: Id,
        suspect: bool,
        letter: PendingMessage,
    },
    /// Deletes a suspect.
    AckSuspect { id: Id },
    /// Loads messages into the window of a queue.
    LoadWindow { queue: u32, request: LoadRequest },
    /// Loads a suspect; the reply is `None` if it is unreadable.
    LoadSuspect {
        id: Id,
        reply: oneshot::Sender<Option<StoredSuspect>>,
    },
    /// Looks up the delayed messages that are due.
    PromoteDue,
    /// Moves a delayed message to its queue. `copy` leaves the row in place: it cannot be deleted.
    PromoteRow { row: DueRow, copy: bool },
    /// Lists the queues of a topology, and makes the missing ones if `make` is set.
    Declare {
        topology: Topology,
        make: bool,
        done: Declared,
    },
    /// Replies after all earlier commands.
    Flush {
        reply: oneshot::Sender<Result<(), TransportError>>,
    },
    /// Stores which rows are unreadable.
    RecordCorruption(Vec<Corruption>),
    /// Checks whether the disk has space again.
    Probe,
    /// Returns free pages to the disk, if there are many.
    Vacuum,
}

impl WriteOp {
    /// Returns the share of a commit, in messages and bytes.
    pub(super) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Publish { rows, .. } => (rows.len(), self.bytes_kept()),
            Self::Delay { bytes, .. } => (1, *bytes),
            _ => (1, self.bytes_kept()),
        }
    }

    /// Returns the bytes of messages that the command keeps in memory.
    pub(super) fn bytes_kept(&self) -> usize {
        match self {
            Self::Publish { rows, .. } => rows.iter().map(PendingMessage::bytes).sum(),
            Self::DeadLetter { letter, .. } => letter.bytes(),
            _ => 0,
        }
    }

    /// Whether the command fails during an outage instead of waiting for its end.
    pub(super) fn fails_at_once(&self) -> bool {
        matches!(self, Self::Publish { .. } | Self::Flush { .. })
    }

    /// Whether the command changes rows.
    pub(super) fn writes(&self) -> bool {
        !matches!(
            self,
            Self::LoadWindow { .. }
                | Self::LoadSuspect { .. }
                | Self::PromoteDue
                | Self::Flush { .. }
                | Self::Probe
                | Self::Vacuum
        )
    }

    /// Whether the command reads messages.
    pub(super) fn reads(&self) -> bool {
        matches!(
            self,
            Self::LoadWindow { .. }
                | Self::LoadSuspect { .. }
                | Self::PromoteDue
                | Self::PromoteRow { .. }
        )
    }

    /// Whether the command settles a delivery. Such a command can wait for the next commit:
    /// if it is lost, the message is redelivered.
    pub(super) fn is_settlement(&self) -> bool {
        matches!(
            self,
            Self::SetAttempt { .. }
                | Self::Delay { .. }
                | Self::DeadLetter { .. }
                | Self::AckSuspect { .. }
        )
    }

    /// Reports failure to the caller, if one waits.
    pub(super) fn fail(self, error: &TransportError) {
        match self {
            Self::Publish { done, .. } => done.complete(Err(error.clone())),
            Self::Declare { done, .. } => done(Err(error.clone())),
            Self::Flush { reply } => {
                // The caller may no longer wait.
                let _gone = reply.send(Err(error.clone()));
            }
            _ => {}
        }
    }
}

/// Commands of one commit.
#[derive(Default)]
pub(super) struct CommitGroup {
    pub(super) ops: VecDeque<WriteOp>,
    pub(super) acks: Vec<Id>,
}

impl CommitGroup {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.acks.is_empty()
    }

    /// Splits the group into two halves, in order: one of them contains the command that
    /// failed.
    ///
    /// # Errors
    /// Returns the group if it is a single command.
    pub(super) fn bisect(mut self) -> Result<[Self; 2], Self> {
        if !self.ops.is_empty() && !self.acks.is_empty() {
            let acks = std::mem::take(&mut self.acks);
            let acks = Self {
                acks,
                ..Self::default()
            };
            return Ok([self, acks]);
        }
        if self.ops.len() + self.acks.len() < 2 {
            return Err(self);
        }
        let second = Self {
            ops: self.ops.split_off(self.ops.len() / 2),
            acks: self.acks.split_off(self.acks.len() / 2),
        };
        Ok([self, second])
    }
}
