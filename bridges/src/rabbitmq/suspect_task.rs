//! Trials of suspects: takes suspects from the broker one at a time and stores the result.
//!
//! A suspect is a message that was in flight during crashes of its process. The rules are those
//! of [`brickwork::supervision::quarantine`]; this file carries them out. After a crash the
//! broker redelivers all messages that were in flight, and counts that for each of them. A
//! consumer moves a suspect to the queue of suspects of its service. There the delivery count is
//! the number of crashes during trials, until the suspect is published again. The crashes before
//! are headers of the suspect.
//!
//! A message that returns to the broker without a crash is not to blame: a requeued suspect is
//! published again, which resets the count, and a lost connection is recorded in
//! [`NonCrashRedeliveries`].

use std::collections::HashMap;
use std::sync::Arc;

use brickwork::supervision::quarantine::{CrashRecord, DeliveryMode, TrialOrder};
use brickwork::transport::TransportError;
use brickwork::{Delivery, DeliveryParts, Message, QueueId, Settle, Settlement};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::debug;

use super::codec::{self, TopicSource};
use super::connection::Connections;
use super::non_crash_redeliveries::{LostRun, MessageKey, NonCrashRedeliveries};
use super::prefetch::PrefetchBuffer;
use super::router::Router;
use super::routing::Queue;
use super::session_state::SessionState;
use super::settlement::{BrokerAction, Settler};
use super::source_queue::SourceQueue;
use super::suspects::{CheckRequest, CheckRequests, SuspectQueue};

mod parts;

/// Starts the task, on the current runtime. Returns the part that it shares with consumers.
pub(super) fn start(
    connections: Arc<Connections>,
    session_state: Arc<SessionState>,
    router: Arc<Router>,
    non_crash: Arc<NonCrashRedeliveries>,
) -> Arc<SuspectQueue> {
    let (suspects, requests) = SuspectQueue::new(non_crash);
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
    async fn run(mut self, mut requests: CheckRequests) {
        let mut order = TrialOrder::<QueueId>::default();
        let mut waiting: HashMap<QueueId, Vec<oneshot::Sender<()>>> = HashMap::new();
        loop {
            let request = match order.is_empty() {
                true => match requests.recv().await {
                    Some(request) => Some(request),
                    None => return,
                },
                false => requests.try_recv().ok(),
            };
            if let Some(CheckRequest { queue, checked }) = request {
                waiting.entry(queue.clone()).or_default().extend(checked);
                order.push(queue);
                continue;
            }
            let Some(queue) = order.next(|_| true) else {
                continue;
            };
            let checked = waiting.remove(&queue).unwrap_or_default();
            match self.check(&queue, checked).await {
                Ok(CheckResult::Tried) => order.push(queue),
                Ok(CheckResult::Done) => {}
                // A queue or a permission is missing, or the channel is closed: the next
                // request tries again.
                Err(error) => debug!(%queue, %error, "checking for suspects failed"),
            }
        }
    }

    /// Takes one suspect of a queue of suspects and tries it. Drops `checked` as soon as other messages
    /// may be handed out, or must not be any more.
    async fn check(
        &mut self,
        queue: &QueueId,
        checked: Vec<oneshot::Sender<()>>,
    ) -> Result<CheckResult, TransportError> {
        let is_part = *queue != QueueId::suspects(&queue.service);
        let mut buffers = self.suspects.buffers_of(queue);
        // Another process may have the part.
        buffers.retain(|(_, buffer)| !is_part || buffer.is_served());
        let Some((_, first)) = buffers.first() else {
            return Ok(CheckResult::Done);
        };
        if is_part && !self.has_suspects(queue, first).await? {
            return Ok(CheckResult::Done);
        }
        let suspects = self.suspects.clone();
        let transfer = suspects.lock_transfers().await;
        let Some((suspect, source)) = self.take(queue).await? else {
            return Ok(CheckResult::Done);
        };
        let work_queue = self.router.queue(&source);
        let non_crash = suspects.non_crash();
        let key = |queue: &Arc<Queue>| non_crash.key(queue.name.as_str(), &suspect.message.id);
        let key = work_queue.as_ref().map(key);
        let lost_run = key.map_or(LostRun::None, |key| non_crash.lost_run(key));
        if lost_run == LostRun::Done {
            key.into_iter().for_each(|key| non_crash.take_done(key));
            suspect.ack().await;
            return Ok(CheckResult::Tried);
        }
        let buffer = buffers.into_iter().find(|(id, _)| *id == source);
        match (buffer, work_queue) {
            _ if lost_run == LostRun::Running => {
                // The service has it from a lost channel.
                drop(transfer);
                self.put_back(suspect, &source).await;
                Ok(CheckResult::Done)
            }
            (None, Ok(queue)) if queue.parts.is_some() => {
                // Of a time when the input had no key: the parts have their own suspects.
                drop(transfer);
                suspect.send_to(&self.router, &queue, &source).await;
                Ok(CheckResult::Tried)
            }
            (Some((_, buffer)), Ok(queue))
                if !is_part && queue.single_active && !buffer.is_served() =>
            {
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
                let tried = self.try_one(suspect, guard, &buffer, &queue).await;
                if let Some(is_requeued) = tried {
                    if is_part && is_requeued {
                        // Before another process may have the part.
                        self.rotate(&queue.suspects(), &source).await?;
                    }
                    buffer.release(1);
                    self.suspects.settling.send_replace(false);
                }
                Ok(CheckResult::Tried)
            }
            _ => {
                // Its queue has no consumer here now, or only another version of the manifest
                // has its input: back to the queue of suspects.
                drop(transfer);
                self.put_back(suspect, &source).await;
                Ok(CheckResult::Done)
            }
        }
    }

    /// Takes the oldest suspect of a queue of suspects from the broker. Returns also the queue that it
    /// was in before.
    ///
    /// If it was delivered before, all suspects are published again first, with the crashes that
    /// their counts stand for: a policy may limit deliveries, and the broker would drop them. All,
    /// so that they keep their order.
    async fn take(
        &mut self,
        queue: &QueueId,
    ) -> Result<Option<(Suspect, QueueId)>, TransportError> {
        let mut behind = None;
        while let Some((suspect, source, counts)) = self.fetch(queue).await? {
            match &mut behind {
                None if counts.redeliveries == 0 => return Ok(Some((suspect, source))),
                Some(0) => return Ok(Some((suspect, source))),
                None => behind = Some(counts.behind),
                Some(behind) => *behind -= 1,
            }
            let queue = suspect.queue.clone();
            if !suspect.send_to(&self.router, &queue, &source).await {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Fetches a suspect.
    async fn fetch(
        &mut self,
        queue: &QueueId,
    ) -> Result<Option<(Suspect, QueueId, BrokerCounts)>, TransportError> {
        let queue = self.router.queue(queue)?;
        let channel = self.channel().await?;
        let got = channel
            .basic_get(queue.name.clone(), BasicGetOptions::default())
            .await
            .map_err(|error| TransportError::Lost(error.to_string()))?;
        let Some(BasicGetMessage {
            delivery,
            message_count,
        }) = got
        else {
            return Ok(None);
        };
        let redeliveries = codec::deliveries_before(&delivery.properties).unwrap_or(0);
        let topic_source = TopicSource::Queue(delivery.routing_key.as_str());
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data);
        let non_crash = self.suspects.non_crash();
        let key = non_crash.key(queue.name.as_str(), &decoded.message.id);
        let known = non_crash.count(key);
        let crashes = u32::try_from(redeliveries.saturating_sub(known)).unwrap_or(u32::MAX);
        let source = QueueId::new(&queue.id.service, &decoded.suspect.unwrap_or_default());
        let suspect = Suspect {
            channel,
            record: decoded.crash_record.after_trials(crashes),
            guard: TakenGuard {
                key,
                non_crash: non_crash.clone(),
                is_acked: false,
            },
            queue,
            message: self.session_state.clock_skew().localize(decoded.message),
            tag: delivery.delivery_tag,
        };
        let counts = BrokerCounts {
            redeliveries,
            behind: message_count,
        };
        Ok(Some((suspect, source, counts)))
    }

    /// Hands a suspect out, and settles it at the broker. Returns whether it was requeued: then it is
    /// the last one in the queue of suspects. Returns `None` if it can't be settled any more.
    async fn try_one(
        &self,
        suspect: Suspect,
        exclusive: Option<ExclusiveGuard>,
        buffer: &PrefetchBuffer,
        queue: &Arc<Queue>,
    ) -> Option<bool> {
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
        let (parts, settlement) = settlement.await.ok()?;
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
        guard.is_acked = apply(&channel, parts.tag, action).await;
        if action == BrokerAction::Ack && !guard.is_acked && !is_requeued {
            // The channel was lost during the trial, which succeeded.
            let non_crash = self.suspects.non_crash();
            let key = non_crash.key(queue.name.as_str(), &parts.message.id);
            non_crash.ended(key, true);
        }
        Some(is_requeued && guard.is_acked)
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

/// The broker's counts for a suspect.
struct BrokerCounts {
    /// Deliveries before this one.
    redeliveries: u64,
    /// Suspects behind it.
    behind: u32,
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
    /// Acks a suspect that is done.
    async fn ack(mut self) {
        self.guard.is_acked = apply(&self.channel, self.tag, BrokerAction::Ack).await;
    }

    /// Publishes the suspect to a queue, with its record. If that fails it is requeued. Returns
    /// whether it succeeded.
    async fn send_to(mut self, router: &Router, to: &Queue, source: &QueueId) -> bool {
        let sent = router
            .send_suspect(to, source, &self.message, self.record)
            .await;
        let action = match sent {
            Ok(()) => BrokerAction::Ack,
            Err(_) => BrokerAction::Requeue,
        };
        self.guard.is_acked = apply(&self.channel, self.tag, action).await;
        self.guard.is_acked
    }
}

/// Settles a delivery at the broker. Returns whether it is acked: if that fails, the channel is
/// closed, and the broker redelivers.
async fn apply(channel: &Channel, tag: u64, action: BrokerAction) -> bool {
    match action {
        BrokerAction::Ack => {
            let acked = channel.basic_ack(tag, BasicAckOptions::default()).await;
            return acked.is_ok();
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
    false
}

/// A suspect in this process. If it is dropped without an ack, the broker redelivers the
/// suspect although the process did not crash.
struct TakenGuard {
    key: MessageKey,
    non_crash: Arc<NonCrashRedeliveries>,
    is_acked: bool,
}

impl Drop for TakenGuard {
    fn drop(&mut self) {
        match self.is_acked {
            true => self.non_crash.forget(self.key),
            false => self.non_crash.add(self.key),
        }
    }
}

/// Isolation that lasts until this is dropped.
struct ExclusiveGuard(Arc<SuspectQueue>);

impl ExclusiveGuard {
    fn start(suspects: &Arc<SuspectQueue>) -> Self {
        suspects.exclusive().start();
        Self(suspects.clone())
    }

    /// Waits until only the suspect is in flight, for a bounded time.
    async fn drained(&self) {
        // The suspect counts as in flight already.
        let others = || self.0.in_flight().saturating_sub(1);
        let mode = self.0.exclusive().drained(others).await;
        debug!(?mode, "trying a suspect");
    }
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        self.0.exclusive().finish();
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
