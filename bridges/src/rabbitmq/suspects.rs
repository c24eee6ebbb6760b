//! Trials of suspects: takes suspects from the broker one at a time and stores the result.
//!
//! A suspect is a message that was in flight during crashes of its process. The rules are those
//! of [`brickwork::supervision::quarantine`]; this file carries them out. After a crash the
//! broker redelivers all messages that were in flight, and counts that for each of them. A
//! consumer moves a suspect to the queue of suspects of its service. There the delivery count is
//! the number of crashes during trials. The crashes before are headers of the suspect.
//!
//! A message that returns to the broker without a crash is not to blame: a requeued suspect is
//! published again, which resets the count, and a lost connection is recorded in
//! [`NonCrashRedeliveries`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use brickwork::supervision::quarantine::{
    CrashRecord, DeliveryMode, SUSPECT_CHECK_TIMEOUT, TrialOrder,
};
use brickwork::transport::TransportError;
use brickwork::{Delivery, DeliveryParts, Message, MessageId, QueueId, Settle, Settlement};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::debug;

use super::codec;
use super::connection::Connections;
use super::exclusive_trial::ExclusiveMode;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::PrefetchBuffer;
use super::router::Router;
use super::routing::Queue;
use super::session_state::SessionState;
use super::settlement::{BrokerAction, Settler};
use super::source_queue::{SourceQueue, TopicSource};

/// Maximum checks that wait. A check that is dropped comes again a second later.
const CHECKS_MAX: usize = 256;

/// A request to check the queue of suspects of a service.
struct CheckRequest {
    service: Box<str>,
    /// Dropped after the check. From then on no queue hands out a message that it must not.
    checked: Option<oneshot::Sender<()>>,
}

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
    settling: watch::Sender<bool>,
}

impl SuspectQueue {
    /// Starts the task that tries suspects, on the current runtime.
    pub(super) fn start(
        connections: Arc<Connections>,
        session_state: Arc<SessionState>,
        router: Arc<Router>,
        non_crash: Arc<NonCrashRedeliveries>,
    ) -> Arc<Self> {
        let (checks, requests) = mpsc::channel(CHECKS_MAX);
        let suspects = Arc::new(Self {
            checks,
            exclusive: Arc::default(),
            non_crash,
            buffers: Mutex::default(),
            transfer_lock: tokio::sync::Mutex::default(),
            settling: watch::Sender::new(false),
        });
        let task = SuspectTask {
            suspects: suspects.clone(),
            connections,
            session_state: session_state.clone(),
            router,
            channel: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                _lost = session_state.ended() => {}
                () = task.run(requests) => {}
            }
        });
        suspects
    }

    pub(super) fn exclusive(&self) -> &Arc<ExclusiveMode> {
        &self.exclusive
    }

    pub(super) fn non_crash(&self) -> &Arc<NonCrashRedeliveries> {
        &self.non_crash
    }

    /// Registers the buffer of a new consumer, and tries the suspects of its queue before
    /// anything else is handed out.
    pub(super) async fn register(&self, queue: &Queue, buffer: &Arc<PrefetchBuffer>) {
        {
            let mut buffers = self.buffers.lock();
            let of_queue = buffers.entry(queue.id.clone()).or_default();
            of_queue.retain(|buffer| buffer.strong_count() > 0);
            of_queue.push(Arc::downgrade(buffer));
        }
        let (checked, done) = oneshot::channel();
        let request = CheckRequest {
            service: queue.id.service.clone(),
            checked: Some(checked),
        };
        if self.checks.try_send(request).is_ok() {
            let _in_time = timeout(SUSPECT_CHECK_TIMEOUT, done).await;
        }
    }

    /// Checks for suspects of a service, soon.
    pub(super) fn check(&self, service: &str) {
        let request = CheckRequest {
            service: service.into(),
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

    /// Returns the buffers of all consumers of a service, with their queues.
    fn buffers_of(&self, service: &str) -> Vec<(QueueId, Arc<PrefetchBuffer>)> {
        let buffers = self.buffers.lock();
        let of_service = buffers.iter().filter(|(id, _)| &*id.service == service);
        let live = of_service.flat_map(|(id, buffers)| {
            let live = buffers.iter().filter_map(Weak::upgrade);
            live.map(|buffer| (id.clone(), buffer))
        });
        live.filter(|(_, buffer)| !buffer.is_ended()).collect()
    }

    fn in_flight(&self) -> u64 {
        let buffers = self.buffers.lock();
        let all = buffers.values().flatten().filter_map(Weak::upgrade);
        all.map(|buffer| buffer.in_flight() as u64).sum()
    }

    fn wake_all(&self) {
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

/// The result of a check.
enum CheckResult {
    /// A suspect was tried: there may be more.
    Tried,
    /// There is no suspect that this process can try now.
    Done,
}

/// The task that tries suspects, one at a time.
struct SuspectTask {
    suspects: Arc<SuspectQueue>,
    connections: Arc<Connections>,
    session_state: Arc<SessionState>,
    router: Arc<Router>,
    /// A channel for this task alone: an error on it ends no consumer.
    channel: Option<Channel>,
}

impl SuspectTask {
    async fn run(mut self, mut requests: mpsc::Receiver<CheckRequest>) {
        let mut order = TrialOrder::<Box<str>>::default();
        let mut waiting: HashMap<Box<str>, Vec<oneshot::Sender<()>>> = HashMap::new();
        loop {
            let request = match order.is_empty() {
                true => match requests.recv().await {
                    Some(request) => Some(request),
                    None => return,
                },
                false => requests.try_recv().ok(),
            };
            if let Some(CheckRequest { service, checked }) = request {
                waiting.entry(service.clone()).or_default().extend(checked);
                order.push(service);
                continue;
            }
            let Some(service) = order.next(|_| true) else {
                continue;
            };
            let checked = waiting.remove(&service).unwrap_or_default();
            match self.check(&service, checked).await {
                Ok(CheckResult::Tried) => order.push(service),
                Ok(CheckResult::Done) => {}
                // A queue or a permission is missing, or the channel is closed: the next
                // request tries again.
                Err(error) => debug!(%service, %error, "checking for suspects failed"),
            }
        }
    }

    /// Takes one suspect of a service and tries it. Drops `checked` as soon as other messages
    /// may be handed out, or must not be any more.
    async fn check(
        &mut self,
        service: &str,
        checked: Vec<oneshot::Sender<()>>,
    ) -> Result<CheckResult, TransportError> {
        let buffers = self.suspects.buffers_of(service);
        if buffers.is_empty() {
            return Ok(CheckResult::Done);
        }
        let suspects = self.suspects.clone();
        let transfer = suspects.lock_transfers().await;
        let Some((suspect, source)) = self.take(service).await? else {
            return Ok(CheckResult::Done);
        };
        let buffer = buffers.into_iter().find(|(id, _)| *id == source);
        match (buffer, self.router.queue(&source)) {
            (Some((_, buffer)), Ok(queue)) if queue.single_active && !buffer.is_served() => {
                // Only one process may handle its messages. The work queue knows which: the
                // process that gets the suspect from there moves it back here.
                drop(transfer);
                suspect.send_to(&self.router, &queue, &source).await;
                Ok(CheckResult::Done)
            }
            (Some((_, buffer)), Ok(queue)) => {
                buffer.mark_in_flight();
                let is_exclusive = suspect.record.mode() == DeliveryMode::Exclusive;
                let guard = is_exclusive.then(|| ExclusiveGuard::start(&suspects));
                drop((transfer, checked));
                self.try_one(suspect, guard, &buffer, &queue).await;
                Ok(CheckResult::Tried)
            }
            _ => {
                // Its queue has no consumer here now, or only another version of the manifest
                // has its input: back to the queue of suspects.
                drop(transfer);
                let queue = suspect.queue.clone();
                suspect.send_to(&self.router, &queue, &source).await;
                Ok(CheckResult::Done)
            }
        }
    }

    /// Takes the oldest suspect of a service from the broker. Returns also the queue that it
    /// was in before.
    async fn take(&mut self, service: &str) -> Result<Option<(Suspect, QueueId)>, TransportError> {
        let queue = self.router.queue(&QueueId::suspects(service))?;
        let channel = self.channel().await?;
        let got = channel
            .basic_get(queue.name.clone(), BasicGetOptions::default())
            .await
            .map_err(|error| TransportError::Lost(error.to_string()))?;
        let Some(BasicGetMessage { delivery, .. }) = got else {
            return Ok(None);
        };
        let redeliveries = codec::deliveries_before(&delivery.properties).unwrap_or(0);
        let topic_source = TopicSource::Queue(delivery.routing_key.as_str());
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data);
        let non_crash = &self.suspects.non_crash;
        let known = non_crash.count(queue.name.as_str(), &decoded.message.id);
        let crashes = u32::try_from(redeliveries.saturating_sub(known)).unwrap_or(u32::MAX);
        let source = QueueId::new(service, &decoded.suspect.unwrap_or_default());
        let suspect = Suspect {
            channel,
            record: decoded.crash_record.after_trials(crashes),
            guard: TakenGuard {
                id: decoded.message.id.clone(),
                queue: queue.name.clone(),
                non_crash: non_crash.clone(),
                is_acked: false,
            },
            queue,
            message: decoded.message,
            tag: delivery.delivery_tag,
        };
        Ok(Some((suspect, source)))
    }

    /// Hands a suspect out, and settles it at the broker.
    async fn try_one(
        &self,
        suspect: Suspect,
        exclusive: Option<ExclusiveGuard>,
        buffer: &PrefetchBuffer,
        queue: &Arc<Queue>,
    ) {
        let Suspect {
            channel,
            queue: suspects,
            message,
            record,
            tag,
            mut guard,
        } = suspect;
        if let Some(exclusive) = &exclusive {
            exclusive.drained().await;
        }
        let (settled, settlement) = oneshot::channel();
        let parts = DeliveryParts {
            message,
            attempt: record.attempt,
            crashes: record.crashes,
            tag,
        };
        let trial = Trial {
            settled: Mutex::new(Some(settled)),
            settling: self.suspects.settling.clone(),
        };
        buffer.put_suspect(Delivery::new(parts, Arc::new(trial)));
        let Ok((parts, settlement)) = settlement.await else {
            return;
        };
        drop(exclusive);
        let settler = Settler {
            session_state: self.session_state.clone(),
            router: self.router.clone(),
            source: SourceQueue::app_queue(queue.clone()),
            dead_letters: self.dead_letters(&queue.id.service),
        };
        let is_requeued = matches!(settlement, Settlement::Requeue);
        let mut action = settler.settle(&parts, settlement).await;
        if is_requeued {
            let sent = self
                .router
                .send_suspect(&suspects, &queue.id, &parts.message, record);
            if sent.await.is_ok() {
                action = BrokerAction::Ack;
            }
        }
        apply(&channel, parts.tag, action).await;
        buffer.release(1);
        guard.is_acked = action == BrokerAction::Ack;
        self.suspects.settling.send_replace(false);
    }

    fn dead_letters(&self, service: &str) -> Option<ShortString> {
        let queue = self.router.queue(&QueueId::dead_letters(service));
        queue.ok().map(|queue| queue.name.clone())
    }

    async fn channel(&mut self) -> Result<Channel, TransportError> {
        if let Some(channel) = &self.channel
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let opened = self.connections.consuming.create_channel().await;
        let channel = opened.map_err(|error| TransportError::Lost(error.to_string()))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

/// A suspect that was taken from the broker and is not acked.
struct Suspect {
    channel: Channel,
    /// The queue of suspects that it was taken from.
    queue: Arc<Queue>,
    message: Message,
    record: CrashRecord,
    tag: u64,
    guard: TakenGuard,
}

impl Suspect {
    /// Moves the suspect to another queue, with its record. If that fails it is requeued.
    async fn send_to(mut self, router: &Router, to: &Queue, source: &QueueId) {
        let sent = router
            .send_suspect(to, source, &self.message, self.record)
            .await;
        let action = match sent {
            Ok(()) => BrokerAction::Ack,
            Err(_) => BrokerAction::Requeue,
        };
        apply(&self.channel, self.tag, action).await;
        self.guard.is_acked = action == BrokerAction::Ack;
    }
}

/// Settles a delivery at the broker. If that fails, the channel is closed, and the broker
/// redelivers.
async fn apply(channel: &Channel, tag: u64, action: BrokerAction) {
    match action {
        BrokerAction::Ack => {
            let _redelivered = channel.basic_ack(tag, BasicAckOptions::default()).await;
        }
        BrokerAction::Requeue => {
            let options = BasicNackOptions {
                requeue: true,
                ..Default::default()
            };
            let _redelivered = channel.basic_nack(tag, options).await;
        }
        BrokerAction::Stale => {}
    }
}

/// A suspect in this process. If it is dropped without an ack, the broker redelivers the
/// suspect although the process did not crash.
struct TakenGuard {
    id: MessageId,
    queue: ShortString,
    non_crash: Arc<NonCrashRedeliveries>,
    is_acked: bool,
}

impl Drop for TakenGuard {
    fn drop(&mut self) {
        match self.is_acked {
            true => self.non_crash.forget(self.queue.as_str(), &self.id),
            false => self.non_crash.add(self.queue.as_str(), &self.id),
        }
    }
}

/// Isolation that lasts until this is dropped.
struct ExclusiveGuard(Arc<SuspectQueue>);

impl ExclusiveGuard {
    fn start(suspects: &Arc<SuspectQueue>) -> Self {
        suspects.exclusive.start();
        Self(suspects.clone())
    }

    /// Waits until only the suspect is in flight, for a bounded time.
    async fn drained(&self) {
        // The suspect counts as in flight already.
        let others = || self.0.in_flight().saturating_sub(1);
        let mode = self.0.exclusive.drained(others).await;
        debug!(?mode, "trying a suspect");
    }
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        self.0.exclusive.finish();
        self.0.wake_all();
    }
}

/// Receives the settlement of a suspect.
struct Trial {
    settled: Mutex<Option<oneshot::Sender<(DeliveryParts, Settlement)>>>,
    settling: watch::Sender<bool>,
}

impl Settle for Trial {
    fn settle(&self, parts: DeliveryParts, settlement: Settlement) {
        let Some(settled) = self.settled.lock().take() else {
            return;
        };
        self.settling.send_replace(true);
        // Without a receiver the connection is lost, and the broker redelivers.
        if settled.send((parts, settlement)).is_err() {
            self.settling.send_replace(false);
        }
    }
}
