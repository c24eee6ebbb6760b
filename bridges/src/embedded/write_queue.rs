//! Mailbox of the journal: commands that wait for a commit, and the write state.
//!
//! One commit runs at a time; commands that arrive meanwhile join the next one (group
//! commit). Acks alone do not start a commit: they wait for the next publication or for a
//! short time, since a lost ack only redelivers its message.
//!
//! The mailbox decides; the journal acts: methods return whether the caller submits a commit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brickwork::transport::TransportError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::disk_space::SpaceLevel;
use super::schema::Id;
use super::write_op::{CommitGroup, WriteOp};
use super::write_state::WriteState;

/// Interval of probes while the disk is full or almost full.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum messages per commit.
const COMMIT_MAX_MESSAGES: usize = 1024;
/// Maximum bytes of messages per commit, unless one command has more.
pub(super) const COMMIT_MAX_BYTES: usize = 2 * 1024 * 1024;
/// This many waiting acks and settlements start a commit.
const ACKS_MAX: usize = 512;
/// Maximum messages with an unwritten settlement before consumers must wait.
const BACKLOG_MAX_MESSAGES: usize = 4096;
/// Maximum bytes of such messages.
const BACKLOG_MAX_BYTES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct WriteQueue {
    mailbox: Mutex<Mailbox>,
    /// More settlements wait than may.
    backlogged: AtomicBool,
    /// Notified when a command waits that needs no commit at once.
    pub(super) later: Notify,
    idle: Notify,
}

#[derive(Default)]
struct Mailbox {
    state: WriteState,
    ops: VecDeque<WriteOp>,
    acks: Vec<Id>,
    /// Number of commands in `ops` that start a commit at once.
    immediate: usize,
    committing: bool,
    /// Halves of a failed group, written before everything else.
    bisected: VecDeque<CommitGroup>,
    /// Whether rows were written since the last vacuum.
    dirty: bool,
    last_probe: Option<Instant>,
}

/// Next step of the journal's background task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait until a command arrives.
    Sleep,
    /// Wait until a command arrives, at most for this time.
    Wait(Duration),
    /// Try again to write settlements, after a pause.
    RetrySettlements,
    /// Probe the disk.
    Probe,
    /// Let acks gather for a short time, then write them.
    WriteLater,
    /// Vacuum, if the journal stays idle.
    VacuumWhenIdle,
}

impl Mailbox {
    fn is_due(&self) -> bool {
        let waiting = self.acks.len() + self.ops.len();
        !self.state.is_outage() && (self.immediate > 0 || waiting >= ACKS_MAX)
    }

    fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.acks.is_empty() && self.bisected.is_empty()
    }

    fn starts_with_probe(&self) -> bool {
        matches!(self.ops.front(), Some(WriteOp::Probe))
    }

    /// Whether as many settlements wait as may.
    fn is_backlog_full(&self) -> bool {
        let (mut messages, mut bytes) = (self.acks.len(), 0);
        for op in self.ops.iter().filter(|op| op.is_settlement()) {
            messages += 1;
            bytes += op.bytes_kept();
        }
        messages >= BACKLOG_MAX_MESSAGES || bytes >= BACKLOG_MAX_BYTES
    }

    fn push_front(&mut self, group: CommitGroup) {
        let CommitGroup { ops, mut acks } = group;
        acks.append(&mut self.acks);
        self.acks = acks;
        for op in ops.into_iter().rev() {
            self.immediate += usize::from(!op.is_settlement());
            self.ops.push_front(op);
        }
    }

    /// Claims the next commit if one is due. Otherwise returns `false`.
    fn claim(&mut self, due: bool) -> bool {
        let claimed = due && !self.committing && self.state != WriteState::Closed;
        self.committing |= claimed;
        claimed
    }

    fn next_step(&self, now: Instant) -> Step {
        let until_probe = match self.state {
            WriteState::Blocked => return Step::RetrySettlements,
            WriteState::Full | WriteState::LowSpace => {
                let since = self.last_probe.map(|last| now.duration_since(last));
                Some(PROBE_INTERVAL.saturating_sub(since.unwrap_or_default()))
            }
            WriteState::Normal | WriteState::Closed => None,
        };
        match until_probe {
            Some(Duration::ZERO) => Step::Probe,
            _ if !self.is_empty() => Step::WriteLater,
            Some(until_probe) => Step::Wait(until_probe),
            None if self.dirty => Step::VacuumWhenIdle,
            None => Step::Sleep,
        }
    }
}

impl WriteQueue {
    /// Whether consumers must wait, since settlements cannot be written.
    pub(super) fn is_backlogged(&self) -> bool {
        self.backlogged.load(Relaxed)
    }

    /// Adds a command. Returns whether the caller submits a commit.
    ///
    /// # Errors
    /// Returns the command if it cannot be executed now.
    pub(super) fn push(&self, op: WriteOp) -> Result<bool, WriteOp> {
        let mut mailbox = self.mailbox.lock();
        let fails = mailbox.state.is_outage() && op.fails_at_once();
        if fails || mailbox.state == WriteState::Closed {
            return Err(op);
        }
        let was_empty = mailbox.is_empty();
        mailbox.immediate += usize::from(!op.is_settlement());
        mailbox.ops.push_back(op);
        Ok(self.pushed(&mut mailbox, was_empty))
    }

    /// Adds an ack. Returns whether the caller submits a commit.
    pub(super) fn ack(&self, id: Id) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.state == WriteState::Closed {
            return false;
        }
        let was_empty = mailbox.is_empty();
        mailbox.acks.push(id);
        self.pushed(&mut mailbox, was_empty)
    }

    fn pushed(&self, mailbox: &mut Mailbox, was_empty: bool) -> bool {
        self.update_backlog(mailbox);
        let due = mailbox.is_due();
        if !due && was_empty && !mailbox.committing {
            self.later.notify_one();
        }
        mailbox.claim(due)
    }

    fn update_backlog(&self, mailbox: &Mailbox) {
        if mailbox.state.is_outage() && !self.is_backlogged() && mailbox.is_backlog_full() {
            self.backlogged.store(true, Relaxed);
        }
    }

    /// Adds maintenance commands. Returns whether the caller submits a commit.
    pub(super) fn push_maintenance<const N: usize>(&self, ops: [WriteOp; N]) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.state == WriteState::Closed {
            return false;
        }
        mailbox.immediate += N;
        mailbox.ops.extend(ops);
        mailbox.claim(true)
    }

    /// Returns whether the caller submits a commit for the waiting commands, due or not.
    pub(super) fn write_now(&self) -> bool {
        let mut mailbox = self.mailbox.lock();
        let waits = !mailbox.is_empty();
        mailbox.claim(waits)
    }

    /// Takes the commands of the next commit.
    pub(super) fn take(&self) -> CommitGroup {
        let mut mailbox = self.mailbox.lock();
        if let Some(half) = mailbox.bisected.pop_front() {
            return half;
        }
        // A probe is alone: the space may suffice for settlements only.
        if mailbox.starts_with_probe() {
            mailbox.immediate -= 1;
            return CommitGroup {
                ops: mailbox.ops.pop_front().into_iter().collect(),
                ..CommitGroup::default()
            };
        }
        let mut group = CommitGroup {
            ops: VecDeque::new(),
            acks: std::mem::take(&mut mailbox.acks),
        };
        let (mut messages, mut bytes) = (0, 0);
        while let Some(op) = mailbox.ops.front()
            && messages < COMMIT_MAX_MESSAGES
            && bytes < COMMIT_MAX_BYTES
            && !matches!(op, WriteOp::Probe)
        {
            let (more_messages, more_bytes) = op.weight();
            (messages, bytes) = (messages + more_messages, bytes + more_bytes);
            mailbox.immediate -= usize::from(!op.is_settlement());
            group.ops.extend(mailbox.ops.pop_front());
        }
        mailbox.dirty |= !group.acks.is_empty() || group.ops.iter().any(WriteOp::writes);
        group
    }

    /// Ends a commit, after its outcome was applied. Returns whether the caller submits the
    /// next one.
    pub(super) fn finished(&self) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.is_due() || mailbox.starts_with_probe() || !mailbox.bisected.is_empty() {
            return true;
        }
        mailbox.committing = false;
        let later = !mailbox.is_empty() || mailbox.dirty || mailbox.state.has_low_space();
        drop(mailbox);
        self.idle.notify_waiters();
        if later {
            self.later.notify_one();
        }
        false
    }

    /// Splits a failed group: its halves are written one after the other, until the command
    /// that fails is alone.
    ///
    /// # Errors
    /// Returns that command.
    pub(super) fn bisect(&self, group: CommitGroup) -> Result<(), CommitGroup> {
        let [first, second] = group.bisect()?;
        let mut mailbox = self.mailbox.lock();
        mailbox.bisected.push_front(second);
        mailbox.bisected.push_front(first);
        Ok(())
    }

    /// Begins an outage, or continues it: `group` could not be written. Settlements are kept;
    /// publications fail. Commands other than a single one may succeed: they stay apart from it.
    pub(super) fn on_write_failure(
        &self,
        mut group: CommitGroup,
        is_single: bool,
        error: &TransportError,
    ) {
        // A failed probe says nothing about settlements; any other failure blocks them.
        let is_probe = |op: &WriteOp| matches!(op, WriteOp::Probe);
        let only_probe =
            !group.is_empty() && group.acks.is_empty() && group.ops.iter().all(is_probe);
        // A declaration fails, although it might need no space: it is rare.
        let is_maintenance = |op: &WriteOp| matches!(op, WriteOp::Probe | WriteOp::Vacuum);
        let (mut failed, others): (VecDeque<_>, _) = std::mem::take(&mut group.ops)
            .into_iter()
            .filter(|op| !is_maintenance(op))
            .partition(|op| matches!(op, WriteOp::Declare { .. }));
        group.ops = others;
        {
            let mut mailbox = self.mailbox.lock();
            if !mailbox.state.is_outage() {
                mailbox.last_probe = Some(Instant::now());
            }
            mailbox.state = mailbox.state.after_failure(only_probe);
            if is_single {
                mailbox.acks.append(&mut group.acks);
                mailbox.ops.append(&mut group.ops);
            } else {
                while let Some(half) = mailbox.bisected.pop_back() {
                    mailbox.push_front(half);
                }
                mailbox.push_front(group);
                mailbox.ops.retain(|op| !is_maintenance(op));
            }
            let (fails, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut mailbox.ops)
                .into_iter()
                .partition(WriteOp::fails_at_once);
            mailbox.immediate = kept.iter().filter(|op| !op.is_settlement()).count();
            mailbox.ops = kept;
            failed.extend(fails);
            self.update_backlog(&mailbox);
        }
        self.later.notify_one();
        failed.into_iter().for_each(|op| op.fail(error));
    }

    /// Whether publications fail at present.
    pub(super) fn is_outage(&self) -> bool {
        self.mailbox.lock().state.is_outage()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.mailbox.lock().state == WriteState::Closed
    }

    pub(super) fn has_low_space(&self) -> bool {
        self.mailbox.lock().state.has_low_space()
    }

    /// Records a commit: settlements can be written.
    pub(super) fn settlements_unblocked(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.state = mailbox.state.after_commit();
    }

    /// Records a probe that succeeded.
    pub(super) fn up(&self, space: SpaceLevel) {
        let mut mailbox = self.mailbox.lock();
        mailbox.state = mailbox.state.after_probe(space);
    }

    /// Records that settlements are written. Returns whether consumers wait for that.
    pub(super) fn clear_backlog(&self) -> bool {
        self.backlogged.swap(false, Relaxed)
    }

    /// Returns the next step of the background task.
    pub(super) fn next_step(&self) -> Step {
        let now = Instant::now();
        let mut mailbox = self.mailbox.lock();
        let step = mailbox.next_step(now);
        if step == Step::Probe {
            mailbox.last_probe = Some(now);
        }
        step
    }

    /// Returns whether the task vacuums now: nothing waits, or `overdue`.
    pub(super) fn starts_vacuum(&self, overdue: bool) -> bool {
        let mut mailbox = self.mailbox.lock();
        let outage = mailbox.state.is_outage();
        let idle = mailbox.is_empty() && !mailbox.committing && !outage;
        mailbox.dirty &= !idle;
        idle || (overdue && !outage)
    }

    /// Waits until no commit runs.
    pub(super) async fn settled(&self) {
        loop {
            let idle = self.idle.notified();
            if !self.mailbox.lock().committing {
                return;
            }
            idle.await;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mailbox.lock().is_empty()
    }

    /// Accepts nothing from now on, and fails the commands that wait.
    pub(super) fn close(&self) {
        let ops = {
            let mut mailbox = self.mailbox.lock();
            mailbox.state = WriteState::Closed;
            mailbox.committing = false;
            mailbox.immediate = 0;
            mailbox.acks.clear();
            let bisected = std::mem::take(&mut mailbox.bisected);
            let mut ops: VecDeque<WriteOp> =
                bisected.into_iter().flat_map(|half| half.ops).collect();
            ops.append(&mut mailbox.ops);
            ops
        };
        for op in ops {
            op.fail(&TransportError::Closed);
        }
        self.idle.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use brickwork::transport::engine::Append;
    use brickwork::{Envelope, Message};

    use super::super::write_op::PendingMessage;
    use super::*;

    #[test]
    fn unwritten_settlements_are_bounded_in_number_and_in_bytes() {
        let dead_letter = |bytes: usize| WriteOp::DeadLetter {
            id: Id::new(1, 1),
            suspect: false,
            letter: PendingMessage::new(Append {
                queue: 2,
                message: Message::from(Envelope::new("e", vec![b' '; bytes])),
                delay: Duration::ZERO,
                reserved: false,
            }),
        };
        let large = BACKLOG_MAX_BYTES / 4;
        let mut mailbox = Mailbox::default();
        let three = [dead_letter(large), dead_letter(large), dead_letter(large)];
        mailbox.ops.extend(three);
        assert!(!mailbox.is_backlog_full());
        mailbox.ops.push_back(dead_letter(large));
        assert!(mailbox.is_backlog_full());

        let mut mailbox = Mailbox {
            acks: vec![Id::new(1, 1); BACKLOG_MAX_MESSAGES - 1],
            ..Mailbox::default()
        };
        assert!(!mailbox.is_backlog_full());
        mailbox.ops.push_back(dead_letter(1));
        assert!(mailbox.is_backlog_full());
    }
}
