//! What is to be done with the file: one thing, and a group that is done with one commit.

use std::collections::VecDeque;
use std::sync::Arc;

use brickwork::Message;
use brickwork::transport::{BoundedQueue, Completion, Topology, TransportError};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::record::EncodedRecord;
use super::schema::Id;
use super::statements::{Corruption, DueRow};
use super::suspects::Suspect;

/// A message on its way into a queue.
#[derive(Debug)]
pub(super) struct PendingMessage {
    pub(super) queue: Arc<Queue>,
    pub(super) message: Message,
    pub(super) written: EncodedRecord,
    /// When it is to arrive there, in milliseconds since 1970-01-01 UTC; now, if there is
    /// none.
    pub(super) due_ms: Option<u64>,
    /// A place is kept for it.
    pub(super) placed: bool,
}

impl PendingMessage {
    /// One that arrives as soon as it is written. Encodes it, on the caller's thread.
    pub(super) fn new(queue: Arc<Queue>, message: Message) -> Self {
        let written = EncodedRecord::of(&message);
        Self::copy(queue, message, written)
    }

    pub(super) fn copy(queue: Arc<Queue>, message: Message, written: EncodedRecord) -> Self {
        Self {
            queue,
            message,
            written,
            due_ms: None,
            placed: false,
        }
    }

    fn bytes(&self) -> usize {
        self.written.head.len() + self.message.payload.len()
    }
}

/// One thing to do.
pub(super) enum WriteOp {
    /// Keep messages.
    Publish {
        rows: Vec<PendingMessage>,
        done: Completion,
    },
    /// A message was given back as another attempt.
    Attempt { id: Id, attempt: u32 },
    /// A message is to be tried again later.
    Wait {
        id: Id,
        suspect: bool,
        queue: Arc<Queue>,
        due_ms: u64,
        attempt: u32,
        /// So much is moved.
        bytes: usize,
    },
    /// A message goes to the dead letters, as this.
    Bury {
        id: Id,
        suspect: bool,
        queue: Arc<Queue>,
        row: PendingMessage,
    },
    /// A suspect was acked.
    Forget { id: Id },
    /// The window of a queue has room.
    Load { queue: Arc<Queue> },
    /// A suspect is to be tried; `None` if it can't be read.
    LoadSuspect {
        id: Id,
        reply: oneshot::Sender<Option<Suspect>>,
    },
    /// Something waits no longer.
    Due,
    /// The same, of one row alone: it is moved, or, if it can't be deleted, copied.
    DueRow { it: DueRow, copy: bool },
    /// Queues are to be known, and made if that is wanted.
    Declare {
        topology: Topology,
        make: bool,
        reply: oneshot::Sender<Result<(), TransportError>>,
    },
    /// Tell when all before it is done.
    Flush {
        reply: oneshot::Sender<Result<(), TransportError>>,
    },
    /// Something can't be read.
    Note(Vec<Corruption>),
    /// Look whether there is room again.
    Probe,
    /// Give space back, if there is much.
    Vacuum,
}

impl WriteOp {
    pub(super) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Publish { rows, .. } => (rows.len(), self.bytes_kept()),
            Self::Wait { bytes, .. } => (1, *bytes),
            _ => (1, self.bytes_kept()),
        }
    }

    /// How much of a message is kept in memory with it, in bytes.
    pub(super) fn bytes_kept(&self) -> usize {
        match self {
            Self::Publish { rows, .. } => rows.iter().map(PendingMessage::bytes).sum(),
            Self::Bury { row, .. } => row.bytes(),
            _ => 0,
        }
    }

    /// Whether somebody waits who can do something else while nothing can be written.
    pub(super) fn fails_at_once(&self) -> bool {
        matches!(self, Self::Publish { .. } | Self::Flush { .. })
    }

    /// Whether it changes what is in the file, and not only how large that is.
    pub(super) fn writes(&self) -> bool {
        !matches!(
            self,
            Self::Load { .. }
                | Self::LoadSuspect { .. }
                | Self::Flush { .. }
                | Self::Probe
                | Self::Vacuum
        )
    }

    /// Whether it only wants to read, or cannot begin without.
    pub(super) fn reads(&self) -> bool {
        matches!(
            self,
            Self::Load { .. } | Self::LoadSuspect { .. } | Self::Due | Self::DueRow { .. }
        )
    }

    /// Whether it is lost to nobody: it is done at another time, or again.
    pub(super) fn is_settlement(&self) -> bool {
        matches!(
            self,
            Self::Attempt { .. } | Self::Wait { .. } | Self::Bury { .. } | Self::Forget { .. }
        )
    }
}

/// What one commit does.
#[derive(Default)]
pub(super) struct CommitGroup {
    pub(super) ops: VecDeque<WriteOp>,
    pub(super) acks: Vec<Id>,
}

impl CommitGroup {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.acks.is_empty()
    }

    /// In two halves, in order; `None` if it is one thing alone. One half has the culprit.
    pub(super) fn halves(mut self) -> Result<[Self; 2], Self> {
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
        let more = Self {
            ops: self.ops.split_off(self.ops.len() / 2),
            acks: self.acks.split_off(self.acks.len() / 2),
        };
        Ok([self, more])
    }
}

/// Tells whoever waits that it isn't done.
pub(super) fn refuse(op: WriteOp, error: &TransportError) {
    match op {
        WriteOp::Publish { rows, done } => {
            free_places(&rows);
            done.complete(Err(error.clone()));
        }
        WriteOp::Declare { reply, .. } | WriteOp::Flush { reply } => {
            // Whoever waited may have gone.
            let _gone = reply.send(Err(error.clone()));
        }
        _ => {}
    }
}

/// What was to come doesn't: its places are free again.
pub(super) fn free_places(rows: &[PendingMessage]) {
    for row in rows.iter().filter(|row| row.placed) {
        row.queue.free_places(1);
    }
}
