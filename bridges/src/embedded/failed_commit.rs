//! What is done about a group that can't be written: one that fails by itself, or all.

use std::sync::Arc;

use brickwork::sqlite::SqliteError;
use brickwork::transport::TransportError;
use tracing::error;

use super::delays::due_ms;
use super::queue::{Change, Queue};
use super::recovery;
use super::state::TransportState;
use super::statements::{Corruption, is_damage};
use super::write_op::{CommitGroup, WriteOp, refuse};

/// The one thing that failed by itself: it won't work the next time either.
pub(super) fn blame(core: &Arc<TransportState>, group: CommitGroup, error: &SqliteError) {
    let text = error.to_string();
    if !group.acks.is_empty() {
        error!(error = text, rows = ?group.acks, "what was done can't be deleted: it comes again when the app is started again");
    }
    for op in group.ops {
        match op {
            WriteOp::Publish { .. } | WriteOp::Declare { .. } | WriteOp::Flush { .. } => {
                let error = match is_damage(error) {
                    true => TransportError::Lost(text.clone()),
                    false => TransportError::Refused(text.clone()),
                };
                refuse(op, &error);
            }
            WriteOp::Load { queue } if is_damage(error) => recovery::load(core, &queue),
            WriteOp::Load { queue } => {
                error!(error = text, %queue.id, "what is on the disk can't be loaded, trying again");
                recovery::load_later(core, &queue);
            }
            WriteOp::Wait { id, queue, .. } => {
                error!(error = text, %queue.id, id = id.row(), "a message can't be put off: it comes again when the app is started again");
                core.let_in(
                    &queue,
                    Change {
                        due: 1,
                        due_retrying: 1,
                        ..Change::default()
                    },
                );
            }
            WriteOp::Bury { id, queue, .. } => {
                error!(error = text, %queue.id, id = id.row(), "a message can't be dead-lettered: it comes again when the app is started again");
                core.let_in(
                    &queue,
                    Change {
                        buried: 1,
                        ..Change::default()
                    },
                );
            }
            WriteOp::Due if is_damage(error) => recovery::due(core),
            WriteOp::DueRow { it, copy: false } if is_damage(error) => recovery::copy(core, it),
            WriteOp::Due | WriteOp::DueRow { .. } => {
                error!(
                    error = text,
                    "what waits for its time can't be read, trying again"
                );
                core.delays.add(due_ms(recovery::LATER));
            }
            WriteOp::LoadSuspect { id, .. } if is_damage(error) => core.found(vec![Corruption {
                place: format!("suspect {}", id.row()),
                why: text.clone(),
            }]),
            WriteOp::Attempt { .. }
            | WriteOp::Forget { .. }
            | WriteOp::LoadSuspect { .. }
            | WriteOp::Note(_)
            | WriteOp::Probe
            | WriteOp::Vacuum => error!(error = text, "the file of the queues can't be changed"),
        }
    }
}

impl TransportState {
    /// Nothing can be written, for now.
    pub(super) fn is_down(&self, group: CommitGroup, error: &SqliteError) {
        let error = self.note_outage(error);
        self.desk.down(group, &error);
    }

    /// Nor can this one thing.
    pub(super) fn is_still_down(&self, lone: CommitGroup, error: &SqliteError) {
        let error = self.note_outage(error);
        self.desk.still_down(lone, &error);
    }

    fn note_outage(&self, error: &SqliteError) -> TransportError {
        if error.is_full() {
            self.reserve.give_up();
        }
        let text = error.to_string();
        self.health.down(&text);
        TransportError::Lost(text)
    }

    pub(super) fn let_in(self: &Arc<Self>, queue: &Arc<Queue>, change: Change) {
        let buried = change.buried > 0;
        if queue.apply(change) {
            self.desk.load(self, queue);
        }
        if buried {
            self.ward.on_settled();
        }
    }
}
