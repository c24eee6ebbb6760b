//! The engine's view of this transport: turns its calls into commands to the journal, and
//! entries of the in-flight log.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::engine::{Append, EntryId, Journal as EngineContract, LoadRequest};
use brickwork::transport::{Completion, TransportError};

use super::delays::due_ms;
use super::exclusive_trial::ExclusiveMode;
use super::in_flight_log::InFlightLog;
use super::journal::Journal;
use super::schema::Id;
use super::write_op::{PendingMessage, WriteOp};

/// See the module.
pub(super) struct EngineJournal {
    pub(super) journal: Arc<Journal>,
    pub(super) in_flight_log: Arc<InFlightLog>,
    pub(super) exclusive: Arc<ExclusiveMode>,
}

impl EngineContract for EngineJournal {
    fn append(&self, messages: Vec<Append>, done: Completion) {
        let rows = PendingMessage::all(messages);
        self.journal.push(WriteOp::Publish { rows, done });
    }

    fn ack(&self, id: EntryId) {
        self.journal.ack(id.into());
    }

    fn set_attempt(&self, id: EntryId, attempt: u32) {
        let id = id.into();
        self.journal.push(WriteOp::SetAttempt {
            id,
            suspect: false,
            attempt,
        });
    }

    fn delay(&self, id: EntryId, after: Duration, attempt: u32, bytes: usize) {
        self.journal.push(WriteOp::Delay {
            id: id.into(),
            suspect: false,
            due_ms: due_ms(after),
            attempt,
            bytes,
        });
    }

    fn dead_letter(&self, id: EntryId, letter: Append) {
        self.journal.push(WriteOp::DeadLetter {
            id: id.into(),
            suspect: false,
            letter: PendingMessage::new(letter),
        });
    }

    fn load(&self, queue: u32, request: LoadRequest) {
        self.journal.push(WriteOp::LoadWindow { queue, request });
    }

    fn record_in_flight(
        &self,
        queue: u32,
        sequences: &mut dyn ExactSizeIterator<Item = u64>,
        slots: &mut Vec<u32>,
    ) {
        let ids = sequences.map(|sequence| Id::new(queue, sequence));
        self.in_flight_log.record(ids, slots);
    }

    fn free_slot(&self, slot: u32) {
        self.in_flight_log.free(slot);
    }

    fn erase_slot(&self, slot: u32) {
        self.in_flight_log.erase(slot);
    }

    fn blocks(&self, queue: u32) -> bool {
        self.exclusive.blocks(queue) || self.journal.queue.is_backlogged()
    }

    fn has_low_space(&self) -> bool {
        self.journal.queue.has_low_space()
    }

    fn error(&self) -> Option<TransportError> {
        self.journal.health.error()
    }

    fn on_settled(&self) {
        self.exclusive.on_settled();
    }
}
