//! Where what is to be done with the file is handed over by whoever publishes, takes and
//! settles, and done in groups, one commit after the other.
//!
//! One group is under way at a time; what comes meanwhile gathers for the next. Acks alone
//! needn't be written at once: what is acked and not yet written would only come again. They
//! go with the next publication, or after a moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brickwork::sqlite::Database;
use brickwork::transport::TransportError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::commit::GroupCommit;
use super::disk_space::SpaceLevel;
use super::probe_backoff::{ProbeBackoff, TRY_EVERY};
use super::queue::Queue;
use super::schema::Id;
use super::state::TransportState;
use super::write_op::{CommitGroup, WriteOp, refuse};

/// So much is done with one commit at most: messages,
const GROUP_ROWS: usize = 1024;
/// or their bytes.
pub(super) const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// So many messages whose time has come are moved with one commit.
pub(super) const DUE_MAX: usize = 256;
/// So many acks are written without waiting for anything else to write,
const ACKS_MAX: usize = 512;
/// or after this time.
const ACKS_WAIT: Duration = Duration::from_millis(10);
/// So much that was settled may wait to be written before nothing more is handed out: messages,
const UNWRITTEN_MAX: usize = 4096;
/// or their bytes.
const UNWRITTEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// After so long without anything to do, space is given back.
const QUIET: Duration = Duration::from_secs(1);
/// or, where there is always something, after this.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);

/// See the module. One for a transport.
pub(super) struct WriteQueue {
    state: Mutex<State>,
    /// `None` once it is closed.
    database: Mutex<Option<Database>>,
    /// More settlements wait to be written than may.
    clogged: AtomicBool,
    /// Something waits that needn't be done at once.
    later: Notify,
    idle: Notify,
}

#[derive(Default)]
struct State {
    ops: VecDeque<WriteOp>,
    acks: Vec<Id>,
    /// Ops that are done at once, not with what comes next.
    urgent: usize,
    under_way: bool,
    /// Parts of a group that failed, done before anything else: one of them has a culprit.
    parts: VecDeque<CommitGroup>,
    /// Nothing can be written, for now;
    down: bool,
    /// nor, when it can be, what sources send: there is little room;
    scarce: bool,
    /// also not what was settled.
    stuck: bool,
    closed: bool,
    /// Something was written since space was last given back.
    used: bool,
    /// When it is tried again whether more can be taken over.
    tries: ProbeBackoff,
}

impl State {
    fn is_due(&self) -> bool {
        !self.down && (self.urgent > 0 || self.acks.len() + self.ops.len() >= ACKS_MAX)
    }

    fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.acks.is_empty() && self.parts.is_empty()
    }

    /// Whether so much that was settled waits that no more may.
    fn is_full(&self) -> bool {
        let (mut messages, mut bytes) = (self.acks.len(), 0);
        for op in self.ops.iter().filter(|op| op.is_settlement()) {
            messages += 1;
            bytes += op.bytes_kept();
        }
        messages >= UNWRITTEN_MAX || bytes >= UNWRITTEN_BYTES_MAX
    }
}

impl WriteQueue {
    pub(super) fn new(database: Database) -> Self {
        Self {
            state: Mutex::default(),
            database: Mutex::new(Some(database)),
            clogged: AtomicBool::new(false),
            later: Notify::new(),
            idle: Notify::new(),
        }
    }

    /// Whether nothing more is to be handed out: what was settled can't be written.
    pub(super) fn is_clogged(&self) -> bool {
        self.clogged.load(Relaxed)
    }

    /// Hands something over.
    pub(super) fn push(&self, core: &Arc<TransportState>, op: WriteOp) {
        let waits = op.is_settlement();
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return refuse(op, &TransportError::Closed);
        }
        if state.down && op.fails_at_once() {
            drop(state);
            let error = core.health.error();
            return refuse(op, &error.unwrap_or(TransportError::Unconfirmed));
        }
        let first = state.is_empty();
        state.ops.push_back(op);
        state.urgent += usize::from(!waits);
        self.note(&state);
        self.start(core, state, first);
    }

    /// A message is done with.
    pub(super) fn ack(&self, core: &Arc<TransportState>, id: Id) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let first = state.is_empty();
        state.acks.push(id);
        self.note(&state);
        self.start(core, state, first);
    }

    /// The window of a queue has room.
    pub(super) fn load(&self, core: &Arc<TransportState>, queue: &Arc<Queue>) {
        let queue = queue.clone();
        self.push(core, WriteOp::Load { queue });
    }

    fn note(&self, state: &State) {
        if state.down && !self.is_clogged() && state.is_full() {
            self.clogged.store(true, Relaxed);
        }
    }

    fn start(
        &self,
        core: &Arc<TransportState>,
        mut state: parking_lot::MutexGuard<'_, State>,
        first: bool,
    ) {
        if state.under_way {
            return;
        }
        if state.is_due() {
            state.under_way = true;
            drop(state);
            self.submit(core);
        } else if first {
            drop(state);
            self.later.notify_one();
        }
    }

    /// The file, while it is open.
    pub(super) fn database(&self) -> Option<Database> {
        self.database.lock().clone()
    }

    fn submit(&self, core: &Arc<TransportState>) {
        match self.database() {
            Some(database) => database.submit(Box::new(GroupCommit::new(core.clone()))),
            None => self.ended(),
        }
    }

    /// What is done next, with one commit.
    pub(super) fn take(&self) -> CommitGroup {
        let mut state = self.state.lock();
        if let Some(part) = state.parts.pop_front() {
            return part;
        }
        // By itself: there may be room for what was settled, and no more.
        if matches!(state.ops.front(), Some(WriteOp::Probe)) {
            state.urgent -= 1;
            return CommitGroup {
                ops: state.ops.pop_front().into_iter().collect(),
                ..CommitGroup::default()
            };
        }
        let mut group = CommitGroup {
            ops: VecDeque::new(),
            acks: std::mem::take(&mut state.acks),
        };
        let (mut rows, mut bytes) = (0, 0);
        while let Some(op) = state.ops.front()
            && rows < GROUP_ROWS
            && bytes < GROUP_BYTES
        {
            if matches!(op, WriteOp::Probe) {
                break;
            }
            let (more_rows, more_bytes) = op.weight();
            (rows, bytes) = (rows + more_rows, bytes + more_bytes);
            state.urgent -= usize::from(!op.is_settlement());
            group.ops.extend(state.ops.pop_front());
        }
        state.used |= !group.acks.is_empty() || group.ops.iter().any(WriteOp::writes);
        group
    }

    /// A group is done, and all who wait were told.
    pub(super) fn done(&self, core: &Arc<TransportState>) {
        let mut state = self.state.lock();
        let probes = matches!(state.ops.front(), Some(WriteOp::Probe));
        if state.is_due() || probes || !state.parts.is_empty() {
            drop(state);
            return self.submit(core);
        }
        state.under_way = false;
        let later = !state.is_empty() || state.used || state.scarce;
        drop(state);
        self.idle.notify_waiters();
        if later {
            self.later.notify_one();
        }
    }

    /// A group failed for what is to be blamed on a part of it: it is done in halves, until
    /// the part is one thing alone. That is given back.
    pub(super) fn halve(&self, group: CommitGroup) -> Result<(), CommitGroup> {
        let [first, then] = group.halves()?;
        let mut state = self.state.lock();
        state.parts.push_front(then);
        state.parts.push_front(first);
        Ok(())
    }

    /// Nothing can be written. What was settled is kept; what was to be published was told
    /// so, and what waits to be is told now.
    pub(super) fn down(&self, mut group: CommitGroup, error: &TransportError) {
        // That more can't be taken over doesn't say that nothing can be written.
        let only_looked = !group.is_empty()
            && group.acks.is_empty()
            && group.ops.iter().all(|op| matches!(op, WriteOp::Probe));
        // What needs no room is done nevertheless: this needed some.
        let (declared, tried) = std::mem::take(&mut group.ops)
            .into_iter()
            .partition(|op| matches!(op, WriteOp::Declare { .. }));
        group.ops = tried;
        let mut refused: VecDeque<WriteOp> = declared;
        refused.extend({
            let mut state = self.state.lock();
            state.stuck |= !only_looked;
            state.scarce = true;
            if !std::mem::replace(&mut state.down, true) {
                state.tries.down(Instant::now());
            }
            while let Some(part) = state.parts.pop_back() {
                Self::put_back(&mut state, part);
            }
            Self::put_back(&mut state, group);
            let all = std::mem::take(&mut state.ops);
            let (refused, kept): (VecDeque<WriteOp>, VecDeque<WriteOp>) = all
                .into_iter()
                .filter(|op| !matches!(op, WriteOp::Probe | WriteOp::Vacuum))
                .partition(WriteOp::fails_at_once);
            state.urgent = kept.iter().filter(|op| !op.is_settlement()).count();
            state.ops = kept;
            self.note(&state);
            refused
        });
        self.later.notify_one();
        for op in refused {
            refuse(op, error);
        }
    }

    /// It is known that not everything can be written, and this one thing can't: others may
    /// be.
    pub(super) fn still_down(&self, lone: CommitGroup, error: &TransportError) {
        let mut refused = VecDeque::new();
        {
            let mut state = self.state.lock();
            let CommitGroup { ops, mut acks } = lone;
            state.stuck |= !acks.is_empty() || ops.iter().any(|op| !matches!(op, WriteOp::Probe));
            state.acks.append(&mut acks);
            for op in ops {
                match op {
                    WriteOp::Probe | WriteOp::Vacuum => {}
                    WriteOp::Publish { .. } | WriteOp::Flush { .. } | WriteOp::Declare { .. } => {
                        refused.push_back(op);
                    }
                    op => {
                        state.urgent += usize::from(!op.is_settlement());
                        state.ops.push_back(op);
                    }
                }
            }
            self.note(&state);
        }
        self.later.notify_one();
        for op in refused {
            refuse(op, error);
        }
    }

    fn put_back(state: &mut State, group: CommitGroup) {
        let CommitGroup { ops, mut acks } = group;
        acks.append(&mut state.acks);
        state.acks = acks;
        for op in ops.into_iter().rev() {
            state.urgent += usize::from(!op.is_settlement());
            state.ops.push_front(op);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.state.lock().down
    }

    /// Whether there is little room, or none.
    pub(super) fn is_scarce(&self) -> bool {
        self.state.lock().scarce
    }

    /// What was settled can be written, at least.
    pub(super) fn moves(&self) {
        self.state.lock().stuck = false;
    }

    /// It can be written again.
    pub(super) fn up(&self, room: SpaceLevel) {
        let mut state = self.state.lock();
        state.scarce = room == SpaceLevel::Scarce;
        if std::mem::replace(&mut state.down, false) {
            state.tries.up(Instant::now());
        }
    }

    /// What was settled is written. Whether something waited for that.
    pub(super) fn unclog(&self) -> bool {
        self.clogged.swap(false, Relaxed)
    }

    /// Does what needn't be done at once. Runs beside, for as long as the transport does.
    pub(super) async fn run(&self, core: &Arc<TransportState>) {
        let mut given_back = Instant::now();
        loop {
            self.later.notified().await;
            loop {
                let (down, scarce, stuck, empty, used, next_try) = {
                    let state = self.state.lock();
                    let now = Instant::now();
                    let next_try = match state.down {
                        true => state.tries.wait(now),
                        false => state.tries.look(now),
                    };
                    (
                        state.down,
                        state.scarce,
                        state.stuck,
                        state.is_empty(),
                        state.used,
                        next_try,
                    )
                };
                if down && stuck {
                    sleep(TRY_EVERY).await;
                    self.push_aside(core, [WriteOp::Vacuum]);
                } else if scarce && next_try.is_zero() {
                    self.state.lock().tries.again(Instant::now());
                    self.push_aside(core, [WriteOp::Vacuum, WriteOp::Probe]);
                } else if down && empty {
                    // What is settled meanwhile is written.
                    let _either = timeout(next_try, self.later.notified()).await;
                    continue;
                } else if !empty {
                    sleep(ACKS_WAIT).await;
                    self.go(core);
                } else if scarce {
                    let _either = timeout(next_try, self.later.notified()).await;
                    continue;
                } else if used {
                    // What is settled meanwhile is written.
                    let news = timeout(QUIET, self.later.notified()).await;
                    let overdue = given_back.elapsed() >= GIVE_BACK_EVERY;
                    if news.is_ok() && !overdue {
                        continue;
                    }
                    let (quiet, down) = {
                        let mut state = self.state.lock();
                        let quiet = state.is_empty() && !state.under_way && !state.down;
                        state.used &= !quiet;
                        (quiet, state.down)
                    };
                    if quiet || (overdue && !down) {
                        given_back = Instant::now();
                        self.push_aside(core, [WriteOp::Vacuum]);
                    }
                } else {
                    break;
                }
                // Where one group follows the other without a pause, a probe comes in its turn.
                let _either = timeout(TRY_EVERY, self.settled()).await;
            }
        }
    }

    /// Does what there is, now.
    fn go(&self, core: &Arc<TransportState>) {
        let mut state = self.state.lock();
        if state.under_way || state.closed || state.is_empty() {
            return;
        }
        state.under_way = true;
        drop(state);
        self.submit(core);
    }

    fn push_aside<const N: usize>(&self, core: &Arc<TransportState>, ops: [WriteOp; N]) {
        {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            state.urgent += N;
            state.ops.extend(ops);
        }
        self.go(core);
    }

    /// Waits until no group is under way.
    async fn settled(&self) {
        loop {
            let idle = self.idle.notified();
            if !self.state.lock().under_way {
                return;
            }
            idle.await;
        }
    }

    /// Does what there is, as far as it can be done, and takes nothing more in.
    pub(super) async fn close(&self, core: &Arc<TransportState>) -> Option<Database> {
        loop {
            self.settled().await;
            let (empty, down) = {
                let state = self.state.lock();
                (state.is_empty(), state.down)
            };
            // While it is down this is the last try. What was settled comes again.
            if !empty {
                self.go(core);
                self.settled().await;
            }
            if empty || down {
                break;
            }
        }
        self.end()
    }

    /// Nothing is done any more, from now on.
    pub(super) fn end(&self) -> Option<Database> {
        self.ended();
        self.database.lock().take()
    }

    /// The database is closed.
    pub(super) fn ended(&self) {
        let ops = {
            let mut state = self.state.lock();
            state.closed = true;
            state.under_way = false;
            state.urgent = 0;
            state.acks.clear();
            let parts = std::mem::take(&mut state.parts);
            let mut ops: VecDeque<WriteOp> = parts.into_iter().flat_map(|part| part.ops).collect();
            ops.append(&mut state.ops);
            ops
        };
        for op in ops {
            refuse(op, &TransportError::Closed);
        }
        self.idle.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use brickwork::transport::Backpressure;
    use brickwork::{Envelope, Message, QueueId};

    use super::super::queue::InitialCounts;
    use super::super::write_op::PendingMessage;
    use super::*;

    #[test]
    fn what_was_settled_is_bounded_by_its_number_and_by_its_bytes() {
        let (id, gauge) = (
            QueueId::new("till", "in"),
            Arc::new(Backpressure::default()).gauge(1),
        );
        let queue = Queue::new(id, 1, InitialCounts::default(), gauge, None, None);
        let letter = |bytes: usize| WriteOp::Bury {
            id: Id::new(1, 1),
            suspect: false,
            queue: queue.clone(),
            row: PendingMessage::new(
                queue.clone(),
                Message::from(Envelope::new("e", vec![b' '; bytes])),
            ),
        };
        let large = UNWRITTEN_BYTES_MAX / 4;
        let mut state = State::default();
        state
            .ops
            .extend([letter(large), letter(large), letter(large)]);
        assert!(!state.is_full());
        state.ops.push_back(letter(large));
        assert!(state.is_full());

        let mut state = State {
            acks: vec![Id::new(1, 1); UNWRITTEN_MAX - 1],
            ..State::default()
        };
        assert!(!state.is_full());
        state.ops.push_back(letter(1));
        assert!(state.is_full());
    }
}
