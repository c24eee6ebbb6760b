//! The journal: stores messages for the engine in an SQLite file.
//!
//! Commands come in by [`Journal::push`] and [`Journal::ack`]. Events go out to
//! [`JournalEvents`] after their commit. The journal owns the mailbox, the file, the counts
//! of each queue, and the write state; it knows queues by number and never sees a consumer.
//!
//! # Way of a command
//! `push` puts it into the mailbox (`write_queue`). A commit takes a group of commands and
//! executes it in one transaction (`commit`). After the commit, the journal applies the
//! outcome: it sends changes to the queues, and then completes each command. A group that
//! fails is halved until the failing command is alone (`failed_commit`), unless nothing can
//! be written: then an outage begins.
//!
//! # Threads
//! Commits run on the writer thread of the database, one after the other. The index and the
//! events of commits therefore need no other order. `run` and the tasks of `recovery` run on
//! the tokio runtime.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use brickwork::sqlite::{Database, Job, SqliteError, Transaction};
use brickwork::transport::TransportError;
use brickwork::transport::engine::{Change, InitialCounts, JournalEvents};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::catalog::QueueIndex;
use super::commit::{self, CommitContext, CommitOutcome};
use super::delays::Delays;
use super::disk_space::ReserveFile;
use super::health::Health;
use super::schema::Id;
use super::statements::DueRow;
use super::write_op::{CommitGroup, KnownQueues, WriteOp};
use super::write_queue::{PROBE_INTERVAL, Step, WriteQueue};

/// Time in which acks gather.
const ACKS_WAIT: Duration = Duration::from_millis(10);
/// Idle time before a vacuum.
const IDLE_BEFORE_VACUUM: Duration = Duration::from_secs(1);
/// Interval of vacuums if the journal is never idle.
const VACUUM_INTERVAL: Duration = Duration::from_secs(10);

/// See the module. One for a transport.
pub(super) struct Journal {
    pub(super) queue: WriteQueue,
    /// `None` once the journal is closed.
    database: Mutex<Option<Database>>,
    pub(super) index: Mutex<QueueIndex>,
    /// Delayed rows that cannot be read or deleted.
    pub(super) unreadable: Mutex<HashMap<i64, DueRow>>,
    pub(super) reserve: ReserveFile,
    pub(super) health: Health,
    pub(super) delays: Delays,
    /// Runtime of the tasks that the writer thread starts.
    pub(super) runtime: Handle,
    events: OnceLock<Weak<dyn JournalEvents>>,
}

impl Journal {
    /// Makes a journal on an open file. Call it on the tokio runtime.
    pub(super) fn new(
        database: Database,
        index: QueueIndex,
        reserve: ReserveFile,
        health: Health,
        delays: Delays,
    ) -> Self {
        Self {
            queue: WriteQueue::default(),
            database: Mutex::new(Some(database)),
            index: Mutex::new(index),
            unreadable: Mutex::default(),
            reserve,
            health,
            delays,
            runtime: Handle::current(),
            events: OnceLock::new(),
        }
    }

    /// Sets the receiver of the events. Call it once, before the first command.
    pub(super) fn connect(&self, events: Weak<dyn JournalEvents>) {
        let set = self.events.set(events);
        debug_assert!(set.is_ok(), "a journal is connected once");
    }

    fn events(&self) -> Option<Arc<dyn JournalEvents>> {
        self.events.get()?.upgrade()
    }

    /// Sends the change of a queue to the engine.
    pub(super) fn changed(&self, queue: u32, change: Change) {
        if let Some(events) = self.events() {
            events.changed(queue, change);
        }
    }

    /// Accepts a command, or fails it if it cannot be executed now.
    pub(super) fn push(self: &Arc<Self>, op: WriteOp) {
        match self.queue.push(op) {
            Ok(true) => self.submit(),
            Ok(false) => {}
            Err(op) if self.queue.is_closed() => op.fail(&TransportError::Closed),
            Err(op) => {
                let error = self.health.error();
                op.fail(&error.unwrap_or(TransportError::Unconfirmed));
            }
        }
    }

    /// Accepts the ack of a message.
    pub(super) fn ack(self: &Arc<Self>, id: Id) {
        if self.queue.ack(id) {
            self.submit();
        }
    }

    /// Returns the file, while it is open.
    pub(super) fn database(&self) -> Option<Database> {
        self.database.lock().clone()
    }

    fn submit(self: &Arc<Self>) {
        match self.database() {
            Some(database) => database.submit(Box::new(GroupCommit {
                journal: self.clone(),
                group: CommitGroup::default(),
                outcome: CommitOutcome::default(),
            })),
            None => self.queue.close(),
        }
    }

    fn submit_if(self: &Arc<Self>, submits: bool) {
        if submits {
            self.submit();
        }
    }

    /// Executes a group within a transaction.
    fn execute(
        &self,
        tx: &Transaction<'_>,
        group: &mut CommitGroup,
    ) -> Result<CommitOutcome, SqliteError> {
        let is_draining = || self.events().is_some_and(|events| events.is_draining());
        let context = CommitContext {
            index: &self.index.lock(),
            unreadable: &self.unreadable.lock(),
            reserve: &self.reserve,
            low_space: self.queue.has_low_space(),
            is_draining: &is_draining,
        };
        commit::execute(tx, group, &context)
    }

    /// Applies a commit: updates the engine, and then completes each command.
    fn apply(self: &Arc<Self>, outcome: CommitOutcome, group: CommitGroup) {
        for damage in &outcome.damage {
            warn!(
                row = damage.place,
                error = damage.why,
                "keeping an unreadable row in the file, and not serving it"
            );
        }
        if !outcome.unreadable.is_empty() {
            let rows = outcome.unreadable.iter().map(|it| (it.row, *it));
            self.unreadable.lock().extend(rows);
        }
        {
            let mut index = self.index.lock();
            for queue in &outcome.changes {
                index.stats.insert(queue.number, queue.stats);
            }
            index.numbers.extend(outcome.made);
        }
        for queue in outcome.changes {
            self.changed(queue.number, queue.change);
        }
        for due_ms in outcome.due_ms {
            self.delays.add(due_ms);
        }
        let mut suspect = outcome.suspect;
        let mut refused = outcome.refused;
        for op in group.ops {
            match op {
                WriteOp::Publish { done, .. } => done.complete(Ok(())),
                WriteOp::Flush { reply } => {
                    // The caller may no longer wait.
                    let _gone = reply.send(Ok(()));
                }
                WriteOp::LoadSuspect { reply, .. } => {
                    let _gone = reply.send(suspect.take());
                }
                WriteOp::Declare { done, .. } => match refused.take() {
                    Some(error) => done(Err(error)),
                    None => self.with_known_queues(|known| done(Ok(known))),
                },
                _ => {}
            }
        }
        self.queue.settlements_unblocked();
        if let Some(space) = outcome.probed {
            self.queue.up(space);
            self.health.up(space);
        }
        if self.queue.clear_backlog()
            && let Some(events) = self.events()
        {
            events.resumed();
        }
        for row in outcome.due {
            self.push(WriteOp::PromoteRow { row, copy: false });
        }
        if outcome.more_due {
            self.push(WriteOp::PromoteDue);
        }
        if outcome.more_to_vacuum {
            self.push(WriteOp::Vacuum);
        }
    }

    /// Passes the queues in the file to `with`. The set of unreadable rows is locked for that
    /// time: a later change counts such a row, or the counts here do.
    fn with_known_queues(&self, with: impl FnOnce(KnownQueues)) {
        let unreadable = self.unreadable.lock();
        let count = |number: u32, also: fn(&DueRow) -> bool| {
            let rows = unreadable.values();
            rows.filter(|it| it.queue == number && also(it)).count() as u64
        };
        let index = self.index.lock();
        let numbers = index.numbers.iter();
        let known = numbers.map(|(id, number)| {
            let stats = index.stats(*number);
            let counts = InitialCounts {
                next_sequence: stats.next_sequence,
                messages: stats.messages,
                delayed: stats.delayed.saturating_sub(count(*number, |_| true)),
                retrying: stats.retrying.saturating_sub(count(*number, |it| it.retry)),
                suspects: 0,
            };
            (id.clone(), (*number, counts))
        });
        let known = known.collect();
        drop(index);
        with(known);
    }

    /// Background task: writes waiting acks, retries during an outage, and vacuums.
    pub(super) async fn run(self: Arc<Self>) {
        let mut last_vacuum = Instant::now();
        loop {
            match self.queue.next_step() {
                Step::Sleep => {
                    self.queue.later.notified().await;
                    continue;
                }
                Step::Wait(wait) => {
                    let _either = timeout(wait, self.queue.later.notified()).await;
                    continue;
                }
                Step::RetrySettlements => {
                    sleep(PROBE_INTERVAL).await;
                    self.submit_if(self.queue.push_maintenance([WriteOp::Vacuum]));
                }
                Step::Probe => {
                    let ops = [WriteOp::Vacuum, WriteOp::Probe];
                    self.submit_if(self.queue.push_maintenance(ops));
                }
                Step::WriteLater => {
                    sleep(ACKS_WAIT).await;
                    self.submit_if(self.queue.write_now());
                }
                Step::VacuumWhenIdle => {
                    let command = timeout(IDLE_BEFORE_VACUUM, self.queue.later.notified()).await;
                    let overdue = last_vacuum.elapsed() >= VACUUM_INTERVAL;
                    if command.is_ok() && !overdue {
                        continue;
                    }
                    if self.queue.starts_vacuum(overdue) {
                        last_vacuum = Instant::now();
                        self.submit_if(self.queue.push_maintenance([WriteOp::Vacuum]));
                    }
                }
            }
            // Under load commits follow each other without a pause: do not wait for its end.
            let _either = timeout(PROBE_INTERVAL, self.queue.settled()).await;
        }
    }

    /// Timer task: promotes delayed messages when they are due.
    pub(super) async fn run_timer(self: Arc<Self>) {
        loop {
            self.delays.due().await;
            self.push(WriteOp::PromoteDue);
        }
    }

    /// Writes the waiting commands as far as possible, and then closes the file.
    pub(super) async fn close(self: &Arc<Self>) {
        loop {
            self.queue.settled().await;
            let (empty, outage) = (self.queue.is_empty(), self.queue.is_outage());
            // During an outage this is the last try; lost settlements redeliver messages.
            if !empty {
                self.submit_if(self.queue.write_now());
                self.queue.settled().await;
            }
            if empty || outage {
                break;
            }
        }
        if let Some(database) = self.abort() {
            database.close().await;
        }
    }

    /// Drops the waiting commands, as a crash would, and returns the file.
    pub(super) fn abort(&self) -> Option<Database> {
        self.queue.close();
        self.database.lock().take()
    }
}

/// The job of one commit on the writer thread.
struct GroupCommit {
    journal: Arc<Journal>,
    group: CommitGroup,
    outcome: CommitOutcome,
}

impl Job for GroupCommit {
    fn name(&self) -> &str {
        "the queues"
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        self.group = self.journal.queue.take();
        self.outcome = self.journal.execute(tx, &mut self.group)?;
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self {
            journal,
            group,
            outcome,
        } = *self;
        if let Err(SqliteError::Closed) = result {
            for op in group.ops {
                op.fail(&TransportError::Closed);
            }
            return journal.queue.close();
        }
        let _next = SubmitNextOnDrop(&journal);
        match result {
            Ok(()) => journal.apply(outcome, group),
            Err(error) => journal.on_failure(group, &error),
        }
    }
}

/// Submits the next commit on every exit path, also after a panic.
struct SubmitNextOnDrop<'a>(&'a Arc<Journal>);

impl Drop for SubmitNextOnDrop<'_> {
    fn drop(&mut self) {
        let Self(journal) = self;
        journal.submit_if(journal.queue.finished());
    }
}
