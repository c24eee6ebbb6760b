//! The suspects of a session: the part that consumers, handlers that ask, and the task that tries
//! suspects share.
//!
//! The task is in [`suspect_task`](super::suspect_task).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use brickwork::QueueId;
use brickwork::supervision::quarantine::SUSPECT_CHECK_TIMEOUT;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::debug;

use super::exclusive_trial::ExclusiveMode;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::PrefetchBuffer;
use super::routing::Queue;
use super::session_state::SessionState;

/// Maximum checks that wait. A check that is dropped comes again a second later.
const CHECKS_MAX: usize = 256;

/// A request to check a queue of suspects: that of a service, or of a part of a keyed input.
pub(super) struct CheckRequest {
    pub(super) queue: QueueId,
    /// Dropped after the check. From then on no queue hands out a message that it must not.
    pub(super) checked: Option<oneshot::Sender<()>>,
}

/// The checks that wait.
pub(super) type CheckRequests = mpsc::Receiver<CheckRequest>;

/// The suspects of one session.
pub(super) struct SuspectQueue {
    checks: mpsc::Sender<CheckRequest>,
    exclusive: Arc<ExclusiveMode>,
    non_crash: Arc<NonCrashRedeliveries>,
    /// The consumers that suspects can be handed to, by queue.
    buffers: Mutex<HashMap<QueueId, Vec<Weak<PrefetchBuffer>>>>,
    /// Held while a suspect is neither at the broker nor in flight, so that it is counted once.
    transfer_lock: tokio::sync::Mutex<()>,
    /// A suspect is settled and the broker doesn't know yet.
    pub(super) settling: watch::Sender<bool>,
}

impl SuspectQueue {
    /// Creates the shared part. Also returns the receiver for the task that tries suspects.
    pub(super) fn new(non_crash: Arc<NonCrashRedeliveries>) -> (Arc<Self>, CheckRequests) {
        let (checks, requests) = mpsc::channel(CHECKS_MAX);
        let suspects = Arc::new(Self {
            checks,
            exclusive: Arc::default(),
            non_crash,
            buffers: Mutex::default(),
            transfer_lock: tokio::sync::Mutex::default(),
            settling: watch::Sender::new(false),
        });
        (suspects, requests)
    }

    pub(super) fn exclusive(&self) -> &Arc<ExclusiveMode> {
        &self.exclusive
    }

    pub(super) fn non_crash(&self) -> &Arc<NonCrashRedeliveries> {
        &self.non_crash
    }

    /// Registers the buffer of a new consumer, and tries the suspects of its queue before
    /// anything else is handed out. A part of a keyed input waits for its first delivery: before,
    /// another process may try its suspects.
    pub(super) async fn register(&self, queue: &Queue, buffer: &Arc<PrefetchBuffer>) {
        {
            let mut buffers = self.buffers.lock();
            let of_queue = buffers.entry(queue.id.clone()).or_default();
            of_queue.retain(|buffer| buffer.strong_count() > 0);
            of_queue.push(Arc::downgrade(buffer));
        }
        if queue.part_of.is_some() {
            return;
        }
        let (checked, done) = oneshot::channel();
        let request = CheckRequest {
            queue: queue.suspects(),
            checked: Some(checked),
        };
        if self.checks.try_send(request).is_ok() {
            let _in_time = timeout(SUSPECT_CHECK_TIMEOUT, done).await;
        }
    }

    /// Checks a queue of suspects, soon.
    pub(super) fn check(&self, queue: &QueueId) {
        let request = CheckRequest {
            queue: queue.clone(),
            checked: None,
        };
        // If too many checks wait, the depth poller asks for this one again.
        let _later = self.checks.try_send(request);
    }

    /// While the guard lives, each suspect is either at the broker or in flight.
    pub(super) async fn lock_transfers(&self) -> MutexGuard<'_, ()> {
        self.transfer_lock.lock().await
    }

    /// Waits until the broker knows of every settled suspect.
    pub(super) async fn flush(&self, session_state: &SessionState) {
        let mut settling = self.settling.subscribe();
        tokio::select! {
            // The sender is a field of `self`: it exists.
            _done = settling.wait_for(|settling| !settling) => {}
            _lost = session_state.ended() => {}
        }
    }

    /// Opens the queues that a handler asks, until the result is dropped.
    pub(super) fn ask(self: &Arc<Self>, queues: Vec<QueueId>) -> PendingAsk {
        if self.exclusive.ask(&queues) {
            debug!(
                ?queues,
                "a suspect that is tried alone asked: it has dependents"
            );
        }
        if self.exclusive.is_on() {
            let buffers = self.buffers.lock();
            let asked = queues.iter().filter_map(|queue| buffers.get(queue));
            // Messages that wait before the request are handed out before it.
            for buffer in asked.flatten().filter_map(Weak::upgrade) {
                buffer.wake();
            }
        }
        PendingAsk {
            suspects: self.clone(),
            queues,
        }
    }

    /// Returns the buffers of the consumers that a queue of suspects belongs to, with their queues.
    pub(super) fn buffers_of(&self, suspects: &QueueId) -> Vec<(QueueId, Arc<PrefetchBuffer>)> {
        let buffers = self.buffers.lock();
        let is_services = *suspects == QueueId::suspects(&suspects.service);
        let of_service = buffers.iter().filter(|(id, buffers)| {
            let mut buffers = buffers.iter().filter_map(Weak::upgrade);
            match is_services {
                true => id.service == suspects.service,
                false => buffers.any(|buffer| buffer.queue().suspects() == *suspects),
            }
        });
        let live = of_service.flat_map(|(id, buffers)| {
            let live = buffers.iter().filter_map(Weak::upgrade);
            live.map(|buffer| (id.clone(), buffer))
        });
        live.filter(|(_, buffer)| !buffer.is_ended()).collect()
    }

    pub(super) fn in_flight(&self) -> u64 {
        let buffers = self.buffers.lock();
        let all = buffers.values().flatten().filter_map(Weak::upgrade);
        all.map(|buffer| buffer.in_flight() as u64).sum()
    }

    pub(super) fn wake_all(&self) {
        let buffers = self.buffers.lock();
        for buffer in buffers.values().flatten().filter_map(Weak::upgrade) {
            buffer.wake();
        }
    }
}

/// A handler that waits for an answer.
pub(super) struct PendingAsk {
    suspects: Arc<SuspectQueue>,
    queues: Vec<QueueId>,
}

impl Drop for PendingAsk {
    fn drop(&mut self) {
        self.suspects.exclusive.answered(&self.queues);
    }
}
