//! What a commit changes in memory, and what it has found out: let in and told when it is on
//! the disk, and never before.

use std::sync::Arc;

use brickwork::QueueId;
use brickwork::transport::TransportError;
use tracing::warn;

use super::catalog;
use super::disk_space::SpaceLevel;
use super::queue::{Change, Queue};
use super::state::{QueueStats, TransportState};
use super::statements::{Corruption, DueRow};
use super::suspects::Suspect;
use super::write_op::{CommitGroup, WriteOp};

/// What a commit changes beside the file, and what it has found out.
#[derive(Default)]
pub(super) struct CommitOutcome {
    pub(super) touched: Vec<Touched>,
    pub(super) made: Vec<(QueueId, u32)>,
    pub(super) refused: Option<TransportError>,
    pub(super) damage: Vec<Corruption>,
    pub(super) unreadable: Vec<DueRow>,
    pub(super) suspect: Option<Suspect>,
    pub(super) due_ms: Vec<u64>,
    pub(super) more_due: bool,
    /// It was tried whether more can be taken over, and it can.
    pub(super) probed: Option<SpaceLevel>,
    pub(super) more_room: bool,
}

/// A queue that a commit changes.
pub(super) struct Touched {
    pub(super) number: u32,
    /// `None` if no manifest of this process has it.
    pub(super) queue: Option<Arc<Queue>>,
    pub(super) before: QueueStats,
    pub(super) page: QueueStats,
    pub(super) change: Change,
}

impl CommitOutcome {
    /// It is on the disk: everybody is told.
    pub(super) fn take_effect(self, core: &Arc<TransportState>, group: CommitGroup) {
        for damage in &self.damage {
            warn!(
                row = damage.place,
                error = damage.why,
                "a message isn't what was written: it stays in the file and is not handed out"
            );
        }
        if !self.unreadable.is_empty() {
            let rows = self.unreadable.iter().map(|it| (it.row, *it));
            core.unreadable.lock().extend(rows);
        }
        {
            let mut books = core.books.lock();
            for touched in &self.touched {
                books.pages.insert(touched.number, touched.page);
            }
            for (id, number) in self.made {
                books.numbers.insert(id, number);
                books.pages.insert(number, QueueStats::default());
            }
        }
        for touched in self.touched {
            if let Some(queue) = &touched.queue {
                core.let_in(queue, touched.change);
            }
        }
        for due_ms in self.due_ms {
            core.delays.add(due_ms);
        }
        let mut suspect = self.suspect;
        let mut refused = self.refused;
        for op in group.ops {
            match op {
                WriteOp::Publish { done, .. } => done.complete(Ok(())),
                WriteOp::Flush { reply } => {
                    // Whoever waited may have gone.
                    let _gone = reply.send(Ok(()));
                }
                WriteOp::LoadSuspect { reply, .. } => {
                    let _gone = reply.send(suspect.take());
                }
                WriteOp::Declare {
                    topology, reply, ..
                } => {
                    let outcome = match refused.take() {
                        Some(error) => Err(error),
                        None => {
                            catalog::wire(core, &topology);
                            Ok(())
                        }
                    };
                    let _gone = reply.send(outcome);
                }
                _ => {}
            }
        }
        if core.desk.is_down() {
            core.desk.moves();
        }
        if let Some(room) = self.probed {
            core.desk.up(room);
            core.health.up(room);
        }
        if core.desk.unclog() {
            core.wake_all();
        }
        if self.more_due {
            core.desk.push(core, WriteOp::Due);
        }
        if self.more_room {
            core.desk.push(core, WriteOp::Vacuum);
        }
    }
}
