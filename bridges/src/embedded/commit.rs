//! One commit: does what is on the desk, and tells everybody when it is on the disk.
//!
//! Nothing that is done here is seen by anybody before that: what changes in memory is
//! noted, and let in after the commit.

use std::sync::Arc;

use brickwork::Clock;
use brickwork::sqlite::{Job, SqliteError, Transaction};
use brickwork::transport::TransportError;

use super::catalog;
use super::commit_outcome::{CommitOutcome, Touched};
use super::disk_space::{self, RESERVE_BYTES, RESERVE_HALF_BYTES, SpaceLevel};
use super::failed_commit::blame;
use super::queue::{Change, Entry, Queue};
use super::schema::Id;
use super::state::TransportState;
use super::statements::{DueRow, Statements};
use super::write_op::{CommitGroup, PendingMessage, WriteOp, refuse};
use super::write_queue::{DUE_MAX, GROUP_BYTES};

/// See the module.
pub(super) struct GroupCommit {
    core: Arc<TransportState>,
    group: CommitGroup,
    effects: CommitOutcome,
}

impl GroupCommit {
    pub(super) fn new(core: Arc<TransportState>) -> Self {
        Self {
            core,
            group: CommitGroup::default(),
            effects: CommitOutcome::default(),
        }
    }
}

impl Job for GroupCommit {
    fn name(&self) -> &str {
        "the queues"
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        self.group = self.core.desk.take();
        let mut work = CommitBuilder {
            core: &self.core,
            pen: Statements(tx),
            effects: &mut self.effects,
            last: 0,
        };
        for op in &self.group.ops {
            work.op(op)?;
        }
        self.group.acks.sort_unstable();
        work.acks(&self.group.acks)?;
        // Last, so that what was written before is seen.
        for op in &self.group.ops {
            if let WriteOp::Load { queue } = op {
                work.load(queue)?;
            }
        }
        work.finish()
    }

    fn done(self: Box<Self>, outcome: Result<(), SqliteError>) {
        let Self {
            core,
            group,
            effects,
        } = *self;
        if let Err(SqliteError::Closed) = outcome {
            for op in group.ops {
                refuse(op, &TransportError::Closed);
            }
            return core.desk.ended();
        }
        // Whatever comes of it, what else there is will be done.
        let _next = SubmitNextOnDrop(&core);
        let Err(error) = outcome else {
            return effects.take_effect(&core, group);
        };
        let outage = is_outage(&error) || group.is_empty();
        if outage && !core.desk.is_down() {
            return core.is_down(group, &error);
        }
        // Where one thing fails, others may not: of what is large, or lies on a bad sector.
        let Err(lone) = core.desk.halve(group) else {
            return;
        };
        match outage {
            true if error.is_full() || !lone.ops.iter().any(WriteOp::reads) => {
                core.is_still_down(lone, &error);
            }
            _ => blame(&core, lone, &error),
        }
    }
}

/// Goes on when one group is dealt with, also if that panicked.
struct SubmitNextOnDrop<'a>(&'a Arc<TransportState>);

impl Drop for SubmitNextOnDrop<'_> {
    fn drop(&mut self) {
        self.0.desk.done(self.0);
    }
}

/// Whether the same may work later.
fn is_outage(error: &SqliteError) -> bool {
    matches!(
        error,
        SqliteError::Full { .. } | SqliteError::Unusable { .. }
    )
}

/// A commit that is being made.
struct CommitBuilder<'a> {
    core: &'a TransportState,
    pen: Statements<'a>,
    effects: &'a mut CommitOutcome,
    /// The number in `touched` of the queue that was touched last.
    last: usize,
}

impl CommitBuilder<'_> {
    fn op(&mut self, op: &WriteOp) -> Result<(), SqliteError> {
        match op {
            WriteOp::Publish { rows, .. } => {
                for row in rows {
                    self.keep(row)?;
                }
            }
            WriteOp::Attempt { id, attempt } => self.pen.set_attempt(*id, *attempt)?,
            WriteOp::Wait {
                id,
                suspect,
                due_ms,
                attempt,
                ..
            } => self.wait(*id, *suspect, *due_ms, *attempt)?,
            WriteOp::Bury {
                id,
                suspect,
                queue,
                row,
            } => {
                self.keep(row)?;
                self.forget(*id, *suspect)?;
                self.touch(queue.number).change.buried += 1;
            }
            WriteOp::Forget { id } => self.forget(*id, true)?,
            WriteOp::LoadSuspect { id, .. } => match self.pen.suspect(*id)? {
                Some(Ok(suspect)) => self.effects.suspect = Some(suspect),
                Some(Err(damage)) => self.effects.damage.push(damage),
                None => {}
            },
            WriteOp::Due => self.due()?,
            WriteOp::DueRow { it, copy } => drop(self.due_row(*it, *copy)?),
            WriteOp::Note(damage) => damage.iter().try_for_each(|it| self.pen.note(it))?,
            WriteOp::Declare { topology, make, .. } => {
                let found = catalog::declare(&self.pen, self.core, topology, *make)?;
                match found {
                    Ok(made) => self.effects.made.extend(made),
                    Err(error) => self.effects.refused = Some(error),
                }
            }
            WriteOp::Probe => {
                let reserve = &self.core.reserve;
                reserve.make(RESERVE_HALF_BYTES)?;
                disk_space::probe(self.pen.0)?;
                let plenty = reserve.is_plenty(self.pen.0)? || !self.core.is_at_work();
                let whole = plenty && reserve.fits() && reserve.make(RESERVE_BYTES).is_ok();
                self.effects.probed = match whole {
                    true => {
                        disk_space::relax(self.pen.0)?;
                        Some(SpaceLevel::Plenty)
                    }
                    false => Some(SpaceLevel::Scarce),
                };
            }
            WriteOp::Vacuum => {
                let scarce = self.core.desk.is_scarce().then_some(&self.core.reserve);
                self.effects.more_room = disk_space::nack_requeue(self.pen.0, scarce)?;
            }
            // Last of all, and after the commit.
            WriteOp::Load { .. } | WriteOp::Flush { .. } => {}
        }
        Ok(())
    }

    fn touch(&mut self, number: u32) -> &mut Touched {
        let touched = &mut self.effects.touched;
        if touched.get(self.last).is_none_or(|it| it.number != number) {
            let known = touched.iter().position(|it| it.number == number);
            self.last = known.unwrap_or_else(|| {
                let page = self.core.books.lock().pages.get(&number).copied();
                let page = page.unwrap_or_default();
                let queue = self.core.wires.read().by_number.get(&number).cloned();
                touched.push(Touched {
                    number,
                    queue,
                    before: page,
                    page,
                    change: Change::default(),
                });
                touched.len() - 1
            });
        }
        &mut touched[self.last]
    }

    /// The next place in a queue.
    fn place(&mut self, number: u32) -> u64 {
        let page = &mut self.touch(number).page;
        let place = page.next_place;
        page.next_place += 1;
        page.messages += 1;
        place
    }

    fn keep(&mut self, row: &PendingMessage) -> Result<(), SqliteError> {
        let PendingMessage {
            queue,
            message,
            written,
            due_ms,
            placed,
        } = row;
        let number = queue.number;
        if let Some(due_ms) = *due_ms {
            self.pen.schedule(number, due_ms, message, written)?;
            let touched = self.touch(number);
            touched.page.delayed += 1;
            touched.change.scheduled += 1;
            self.effects.due_ms.push(due_ms);
            return Ok(());
        }
        let place = self.place(number);
        self.pen
            .insert(Id::new(number, place), 1, 0, message, written)?;
        let change = &mut self.touch(number).change;
        change.places += u64::from(*placed);
        change.arrived.push(Entry {
            place,
            message: message.clone(),
            attempt: 1,
        });
        Ok(())
    }

    fn wait(
        &mut self,
        id: Id,
        suspect: bool,
        due_ms: u64,
        attempt: u32,
    ) -> Result<(), SqliteError> {
        let moved = self.pen.wait(id, suspect, due_ms, attempt)?;
        if moved {
            self.forget(id, suspect)?;
        }
        let touched = self.touch(id.queue());
        if moved {
            touched.page.delayed += 1;
            touched.page.retrying += 1;
            self.effects.due_ms.push(due_ms);
        } else {
            // Somebody has removed it from the file: it doesn't wait there.
            touched.change.due += 1;
            touched.change.due_retrying += 1;
        }
        Ok(())
    }

    fn forget(&mut self, id: Id, suspect: bool) -> Result<(), SqliteError> {
        if suspect {
            self.pen.delete_suspect(id)?;
        } else {
            self.delete(id, id)?;
        }
        Ok(())
    }

    fn delete(&mut self, first: Id, last: Id) -> Result<(), SqliteError> {
        let deleted = self.pen.delete(first, last)?;
        let page = &mut self.touch(first.queue()).page;
        page.messages = page.messages.saturating_sub(deleted);
        Ok(())
    }

    /// Deletes what was acked, in order: what lies side by side at once.
    fn acks(&mut self, acks: &[Id]) -> Result<(), SqliteError> {
        for run in acks.chunk_by(|one, next| next.row() - one.row() == 1) {
            let (first, last) = (run[0], run[run.len() - 1]);
            self.delete(first, last)?;
        }
        Ok(())
    }

    fn due(&mut self) -> Result<(), SqliteError> {
        let now = Clock::SYSTEM.unix_ms();
        let unreadable = self.core.unreadable.lock().clone();
        let max = DUE_MAX + unreadable.len();
        let rows = self.pen.due_rows(now, max)?;
        self.effects.more_due = rows.len() == max;
        let mut bytes = 0;
        for it in rows
            .into_iter()
            .filter(|it| !unreadable.contains_key(&it.row))
        {
            bytes += self.due_row(it, false)?;
            if bytes >= GROUP_BYTES {
                self.effects.more_due = true;
                break;
            }
        }
        self.effects.due_ms.extend(self.pen.next_due_ms(now)?);
        Ok(())
    }

    /// How large it was.
    fn due_row(&mut self, it: DueRow, copy: bool) -> Result<usize, SqliteError> {
        if self.effects.unreadable.contains(&it) {
            // Another one of this commit has found that out.
            return Ok(0);
        }
        let due = match self.pen.due(it.row)? {
            Some(Ok(due)) => due,
            Some(Err(damage)) => {
                self.effects.damage.push(damage);
                self.effects.unreadable.push(it);
                // It stays in the file; nobody waits for it.
                let change = &mut self.touch(it.queue).change;
                change.due += 1;
                change.due_retrying += u64::from(it.retry);
                return Ok(0);
            }
            None => return Ok(0),
        };
        let bytes = due.written.head.len() + due.message.payload.len();
        let place = self.place(due.queue);
        let id = Id::new(due.queue, place);
        self.pen
            .insert(id, due.attempt, due.held, &due.message, &due.written)?;
        let retry = u64::from(due.retry);
        let Touched { page, change, .. } = self.touch(due.queue);
        change.due += 1;
        change.due_retrying += retry;
        if !copy {
            page.delayed = page.delayed.saturating_sub(1);
            page.retrying = page.retrying.saturating_sub(retry);
        }
        change.arrived.push(Entry {
            place,
            message: due.message,
            attempt: due.attempt,
        });
        if !copy {
            self.pen.delete_due(due.row)?;
        }
        Ok(bytes)
    }

    fn load(&mut self, queue: &Queue) -> Result<(), SqliteError> {
        let (after, max) = queue.to_load();
        let before = self.touch(queue.number).page.next_place;
        let mut damage = Vec::new();
        let loaded = self
            .pen
            .load(queue.number, after, before, max, &mut damage)?;
        self.effects.damage.append(&mut damage);
        self.touch(queue.number).change.loaded = Some(loaded);
        Ok(())
    }

    /// Writes how much is in each queue now.
    fn finish(&mut self) -> Result<(), SqliteError> {
        for touched in &self.effects.touched {
            if touched.page != touched.before {
                catalog::write_page(&self.pen, touched.number, &touched.page)?;
            }
        }
        self.effects
            .damage
            .iter()
            .try_for_each(|damage| self.pen.note(damage))
    }
}
