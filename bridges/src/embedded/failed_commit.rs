//! Policy for a commit that failed: an outage, or a command that fails by itself.

use std::sync::Arc;

use brickwork::sqlite::SqliteError;
use brickwork::transport::TransportError;
use brickwork::transport::engine::Change;
use tracing::error;

use super::delays::due_ms;
use super::journal::Journal;
use super::recovery::RETRY_AFTER;
use super::schema::Id;
use super::statements::{Corruption, is_damage};
use super::write_op::{CommitGroup, WriteOp};

impl Journal {
    /// Handles a group that was rolled back.
    ///
    /// The first error that may pass begins an outage. Otherwise, and during an outage, the
    /// group is halved: one command may fail where others succeed, since it is large or its
    /// row lies on a damaged page.
    pub(super) fn on_failure(self: &Arc<Self>, group: CommitGroup, error: &SqliteError) {
        let may_pass = matches!(
            error,
            SqliteError::Full { .. } | SqliteError::Unusable { .. }
        );
        let outage = may_pass || group.is_empty();
        if outage && !self.queue.is_outage() {
            return self.start_outage(group, error);
        }
        let Err(single) = self.queue.bisect(group) else {
            return;
        };
        let reads = single.ops.iter().any(WriteOp::reads);
        if outage && (error.is_full() || !reads) {
            self.continue_outage(single, true, error);
        } else {
            self.report_failure(single, error);
        }
    }

    /// Begins an outage with a group that could not be written.
    pub(super) fn start_outage(&self, group: CommitGroup, error: &SqliteError) {
        self.continue_outage(group, false, error);
    }

    fn continue_outage(&self, group: CommitGroup, is_single: bool, error: &SqliteError) {
        if error.is_full() {
            self.reserve.release();
        }
        let text = error.to_string();
        self.health.down(&text);
        let error = TransportError::Lost(text);
        self.queue.on_write_failure(group, is_single, &error);
    }

    /// Gives up a single command that fails by itself.
    fn report_failure(self: &Arc<Self>, group: CommitGroup, error: &SqliteError) {
        let text = error.to_string();
        if !group.acks.is_empty() {
            error!(error = text, rows = ?group.acks, "acked messages could not be deleted; they will be redelivered after a restart");
        }
        for op in group.ops {
            match op {
                WriteOp::Publish { .. } | WriteOp::Declare { .. } | WriteOp::Flush { .. } => {
                    op.fail(&match is_damage(error) {
                        true => TransportError::Lost(text.clone()),
                        false => TransportError::Refused(text.clone()),
                    });
                }
                WriteOp::LoadWindow { queue, request } if is_damage(error) => {
                    self.load_around_damage(queue, request.after);
                }
                WriteOp::LoadWindow { queue, .. } => {
                    error!(
                        error = text,
                        queue, "messages could not be loaded, trying again"
                    );
                    self.retry_load(queue);
                }
                WriteOp::Delay { id, .. } => {
                    error!(
                        error = text,
                        row = id.row(),
                        "a message could not be delayed; it will be redelivered after a restart"
                    );
                    let change = Change {
                        due: 1,
                        due_retrying: 1,
                        ..Change::default()
                    };
                    self.changed(id.queue(), change);
                }
                WriteOp::DeadLetter { id, .. } => self.dead_letter_failed(id, &text),
                WriteOp::PromoteRow { row, copy: false } if is_damage(error) => {
                    self.promote_copy(row, &text);
                }
                WriteOp::PromoteRow { row, copy: true } if is_damage(error) => {
                    self.record_corruption(vec![Corruption::new("delayed", row.row, &*text)]);
                    let change = Change {
                        due: 1,
                        due_retrying: u64::from(row.retry),
                        ..Change::default()
                    };
                    self.changed(row.queue, change);
                }
                WriteOp::PromoteDue | WriteOp::PromoteRow { .. } => {
                    error!(
                        error = text,
                        "delayed messages could not be read, trying again"
                    );
                    self.delays.add(due_ms(RETRY_AFTER));
                }
                WriteOp::LoadSuspect { id, .. } if is_damage(error) => {
                    self.record_corruption(vec![Corruption::new("suspect", id.row(), &*text)]);
                }
                WriteOp::SetAttempt { .. }
                | WriteOp::AckSuspect { .. }
                | WriteOp::LoadSuspect { .. }
                | WriteOp::RecordCorruption(_)
                | WriteOp::Probe
                | WriteOp::Vacuum => error!(error = text, "the queues could not be written"),
            }
        }
    }

    fn dead_letter_failed(&self, id: Id, text: &str) {
        error!(
            error = text,
            row = id.row(),
            "a dead letter could not be stored; its message will be redelivered after a restart"
        );
        let change = Change {
            dead_lettered: 1,
            ..Change::default()
        };
        self.changed(id.queue(), change);
    }
}
