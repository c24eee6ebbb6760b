//! One commit: executes a group of commands in a transaction.
//!
//! Nothing outside of the transaction changes here. Changes in memory are collected in a
//! [`CommitOutcome`], which the journal applies after the commit.

use std::collections::HashMap;

use brickwork::sqlite::{SqliteError, Transaction};
use brickwork::transport::TransportError;
use brickwork::transport::engine::{Change, Entry, LoadRequest};
use brickwork::{Clock, QueueId};

use super::catalog::{self, QueueIndex, QueueStats};
use super::disk_space::{self, RESERVE_BYTES, RESERVE_HALF_BYTES, ReserveFile, SpaceLevel};
use super::schema::Id;
use super::statements::{Corruption, DueRow, Statements, StoredSuspect};
use super::write_op::{CommitGroup, PendingMessage, WriteOp};
use super::write_queue::COMMIT_MAX_BYTES;

/// Maximum delayed messages that one commit looks up.
const DUE_MAX: usize = 256;

/// State of the journal that a commit reads.
pub(super) struct CommitContext<'a> {
    pub(super) index: &'a QueueIndex,
    /// Delayed rows that cannot be read or deleted.
    pub(super) unreadable: &'a HashMap<i64, DueRow>,
    pub(super) reserve: &'a ReserveFile,
    pub(super) low_space: bool,
    /// Whether consumers free space. Called by a probe.
    pub(super) is_draining: &'a dyn Fn() -> bool,
}

/// Changes in memory after a commit.
#[derive(Default)]
pub(super) struct CommitOutcome {
    pub(super) changes: Vec<QueueChange>,
    pub(super) made: Vec<(QueueId, u32)>,
    /// Why the declaration of this commit is refused.
    pub(super) refused: Option<TransportError>,
    pub(super) damage: Vec<Corruption>,
    pub(super) unreadable: Vec<DueRow>,
    pub(super) suspect: Option<StoredSuspect>,
    pub(super) due_ms: Vec<u64>,
    /// Delayed messages that are due.
    pub(super) due: Vec<DueRow>,
    /// Whether more messages are due.
    pub(super) more_due: bool,
    /// Result of a probe.
    pub(super) probed: Option<SpaceLevel>,
    /// Whether another vacuum would free more.
    pub(super) more_to_vacuum: bool,
}

/// Changes of one queue.
pub(super) struct QueueChange {
    pub(super) number: u32,
    before: QueueStats,
    pub(super) stats: QueueStats,
    pub(super) change: Change,
}

/// Executes the commands of a group. The acks are sorted for that.
///
/// # Errors
/// A statement failed: the transaction must be rolled back.
pub(super) fn execute(
    tx: &Transaction<'_>,
    group: &mut CommitGroup,
    context: &CommitContext<'_>,
) -> Result<CommitOutcome, SqliteError> {
    let mut builder = CommitBuilder {
        context,
        statements: Statements(tx),
        outcome: CommitOutcome::default(),
        last: 0,
        promoted_bytes: 0,
        follows_clock: false,
    };
    for op in &group.ops {
        builder.execute(op)?;
    }
    group.acks.sort_unstable();
    builder.delete_acked(&group.acks)?;
    // Last: a load sees the messages of this commit.
    for op in &group.ops {
        if let WriteOp::LoadWindow { queue, request } = op {
            builder.load(*queue, *request)?;
        }
    }
    builder.finish()
}

struct CommitBuilder<'a> {
    context: &'a CommitContext<'a>,
    statements: Statements<'a>,
    outcome: CommitOutcome,
    /// Position of the last used queue in `outcome.changes`.
    last: usize,
    /// Bytes of the delayed messages that were moved.
    promoted_bytes: usize,
    /// Whether this commit has followed the clock.
    follows_clock: bool,
}

impl CommitBuilder<'_> {
    fn execute(&mut self, op: &WriteOp) -> Result<(), SqliteError> {
        match op {
            WriteOp::Publish { rows, .. } => {
                for row in rows {
                    self.insert_message(row)?;
                }
            }
            WriteOp::SetAttempt {
                id,
                suspect,
                attempt,
            } => self.statements.set_attempt(*id, *suspect, *attempt)?,
            WriteOp::Delay {
                id,
                suspect,
                due_ms,
                attempt,
                ..
            } => self.delay(*id, *suspect, *due_ms, *attempt)?,
            WriteOp::DeadLetter {
                id,
                suspect,
                letter,
            } => {
                self.insert_message(letter)?;
                self.delete_one(*id, *suspect)?;
                self.queue_change(id.queue()).change.dead_lettered += 1;
            }
            WriteOp::AckSuspect { id } => self.delete_one(*id, true)?,
            WriteOp::LoadSuspect { id, .. } => match self.statements.suspect(*id)? {
                Some(Ok(suspect)) => self.outcome.suspect = Some(suspect),
                Some(Err(damage)) => self.outcome.damage.push(damage),
                None => {}
            },
            WriteOp::PromoteDue => self.promote_due()?,
            WriteOp::PromoteRow { row, copy } => self.promote(*row, *copy)?,
            WriteOp::RecordCorruption(damage) => {
                let mut damage = damage.iter();
                damage.try_for_each(|it| self.statements.record_corruption(it))?;
            }
            WriteOp::Declare { topology, make, .. } => {
                let connection = self.statements.0;
                match catalog::declare(connection, self.context.index, topology, *make)? {
                    Ok(made) => self.outcome.made.extend(made),
                    Err(error) => self.outcome.refused = Some(error),
                }
            }
            WriteOp::Probe => self.probe()?,
            WriteOp::Vacuum => {
                let reserve = self.context.low_space.then_some(self.context.reserve);
                self.outcome.more_to_vacuum = disk_space::vacuum(self.statements.0, reserve)?;
            }
            // Executed last, and after the commit.
            WriteOp::LoadWindow { .. } | WriteOp::Flush { .. } => {}
        }
        Ok(())
    }

    fn queue_change(&mut self, number: u32) -> &mut QueueChange {
        let changes = &mut self.outcome.changes;
        if changes.get(self.last).is_none_or(|it| it.number != number) {
            let known = changes.iter().position(|it| it.number == number);
            self.last = known.unwrap_or_else(|| {
                let stats = self.context.index.stats(number);
                changes.push(QueueChange {
                    number,
                    before: stats,
                    stats,
                    change: Change::default(),
                });
                changes.len() - 1
            });
        }
        &mut changes[self.last]
    }

    /// Returns the sequence number of a new message.
    fn next_sequence(&mut self, number: u32) -> u64 {
        let stats = &mut self.queue_change(number).stats;
        let sequence = stats.next_sequence;
        stats.next_sequence += 1;
        stats.messages += 1;
        sequence
    }

    fn insert_message(&mut self, row: &PendingMessage) -> Result<(), SqliteError> {
        let PendingMessage {
            queue: number,
            message,
            record,
            due_ms,
            reserved,
        } = row;
        if let Some(due_ms) = *due_ms {
            self.follow_clock()?;
            self.statements.schedule(*number, due_ms, message, record)?;
            let queue = self.queue_change(*number);
            queue.stats.delayed += 1;
            queue.change.scheduled += 1;
            self.outcome.due_ms.push(due_ms);
            return Ok(());
        }
        let sequence = self.next_sequence(*number);
        let id = Id::new(*number, sequence);
        self.statements.insert(id, 1, 0, message, record)?;
        let change = &mut self.queue_change(*number).change;
        change.reserved += u64::from(*reserved);
        change.arrived.push(Entry {
            sequence,
            message: message.clone(),
            attempt: 1,
        });
        Ok(())
    }

    fn delay(
        &mut self,
        id: Id,
        suspect: bool,
        due_ms: u64,
        attempt: u32,
    ) -> Result<(), SqliteError> {
        self.follow_clock()?;
        let moved = self.statements.delay(id, suspect, due_ms, attempt)?;
        if moved {
            self.delete_one(id, suspect)?;
        }
        let queue = self.queue_change(id.queue());
        if moved {
            queue.stats.delayed += 1;
            queue.stats.retrying += 1;
            self.outcome.due_ms.push(due_ms);
        } else {
            // Another program deleted the row: the message will never be due.
            queue.change.due += 1;
            queue.change.due_retrying += 1;
        }
        Ok(())
    }

    fn delete_one(&mut self, id: Id, suspect: bool) -> Result<(), SqliteError> {
        if suspect {
            self.statements.delete_suspect(id)?;
        } else {
            self.delete(id, id)?;
        }
        Ok(())
    }

    fn delete(&mut self, first: Id, last: Id) -> Result<(), SqliteError> {
        let deleted = self.statements.delete(first, last)?;
        let stats = &mut self.queue_change(first.queue()).stats;
        stats.messages = stats.messages.saturating_sub(deleted);
        Ok(())
    }

    /// Deletes acked messages, given in order. Neighbours are deleted by one statement.
    fn delete_acked(&mut self, acks: &[Id]) -> Result<(), SqliteError> {
        for run in acks.chunk_by(|one, next| next.row() - one.row() == 1) {
            let (first, last) = (run[0], run[run.len() - 1]);
            self.delete(first, last)?;
        }
        Ok(())
    }

    /// Once per commit, before its first due time.
    fn follow_clock(&mut self) -> Result<(), SqliteError> {
        if !std::mem::replace(&mut self.follows_clock, true) {
            self.statements.follow_clock(Clock::SYSTEM.unix_ms())?;
        }
        Ok(())
    }

    /// Looks up the delayed messages that are due: later commands move each of them.
    fn promote_due(&mut self) -> Result<(), SqliteError> {
        self.follow_clock()?;
        let now = Clock::SYSTEM.unix_ms();
        let unreadable = self.context.unreadable;
        let max = DUE_MAX + unreadable.len();
        let rows = self.statements.due_rows(now, max)?;
        self.outcome.more_due |= rows.len() == max;
        let rows = rows.into_iter();
        let rows = rows.filter(|it| !unreadable.contains_key(&it.row));
        self.outcome.due.extend(rows);
        let next = self.statements.next_due_ms(now)?;
        self.outcome.due_ms.extend(next);
        Ok(())
    }

    /// Moves a delayed message to its queue, unless the commit is large already.
    fn promote(&mut self, row: DueRow, copy: bool) -> Result<(), SqliteError> {
        let is_excluded = self.context.unreadable.contains_key(&row.row)
            || self.outcome.unreadable.contains(&row);
        if !copy && is_excluded {
            return Ok(());
        }
        if !copy && self.promoted_bytes >= COMMIT_MAX_BYTES {
            self.outcome.more_due = true;
            return Ok(());
        }
        let due = match self.statements.delayed(row.row)? {
            Some(Ok(due)) => due,
            Some(Err(damage)) => {
                self.outcome.damage.push(damage);
                self.outcome.unreadable.push(row);
                // The row stays in the file, and no longer counts as delayed.
                let change = &mut self.queue_change(row.queue).change;
                change.due += 1;
                change.due_retrying += u64::from(row.retry);
                return Ok(());
            }
            None => return Ok(()),
        };
        self.promoted_bytes += due.record.head.len() + due.message.payload.len();
        let sequence = self.next_sequence(due.queue);
        let id = Id::new(due.queue, sequence);
        self.statements
            .insert(id, due.attempt, due.deaths, &due.message, &due.record)?;
        let retry = u64::from(due.retry);
        let QueueChange { stats, change, .. } = self.queue_change(due.queue);
        change.due += 1;
        change.due_retrying += retry;
        change.arrived.push(Entry {
            sequence,
            message: due.message,
            attempt: due.attempt,
        });
        if !copy {
            stats.delayed = stats.delayed.saturating_sub(1);
            stats.retrying = stats.retrying.saturating_sub(retry);
            self.statements.delete_delayed(row.row)?;
        }
        Ok(())
    }

    /// Makes half of the reserve and writes. Space is normal if all of the reserve fits, and
    /// either much is free or no consumer will free more.
    fn probe(&mut self) -> Result<(), SqliteError> {
        let (reserve, connection) = (self.context.reserve, self.statements.0);
        reserve.make(RESERVE_HALF_BYTES)?;
        disk_space::probe(connection)?;
        let enough = reserve.is_plenty(connection)? || !(self.context.is_draining)();
        let normal = enough && reserve.fits() && reserve.make(RESERVE_BYTES).is_ok();
        self.outcome.probed = match normal {
            true => {
                disk_space::relax(connection)?;
                Some(SpaceLevel::Normal)
            }
            false => Some(SpaceLevel::Low),
        };
        Ok(())
    }

    fn load(&mut self, number: u32, request: LoadRequest) -> Result<(), SqliteError> {
        let before = self.queue_change(number).stats.next_sequence;
        let damage = &mut self.outcome.damage;
        let loaded = self.statements.load(number, request, before, damage)?;
        self.queue_change(number).change.loaded = Some(loaded);
        Ok(())
    }

    /// Writes the counts of the changed queues, and the unreadable rows.
    fn finish(self) -> Result<CommitOutcome, SqliteError> {
        for queue in &self.outcome.changes {
            if queue.stats != queue.before {
                queue.stats.store(self.statements.0, queue.number)?;
            }
        }
        for damage in &self.outcome.damage {
            self.statements.record_corruption(damage)?;
        }
        Ok(self.outcome)
    }
}
