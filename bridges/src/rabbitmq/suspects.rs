//! The suspect lane: messages that were in hand when a process died, tried one at a time.
//!
//! When a process dies, the broker delivers all that it had in hand again and counts that
//! for each, not only for the one that it died of. So nothing is blamed on that count:
//! what was in hand twice goes to its service's queue of suspects, and from there a
//! process takes one at a time, whatever the service. The first time beside the usual
//! work; if the process died of that, too, alone: nothing else is handed out, and what is
//! in hand is given some time to end. What counts against a message is what it was in
//! hand for *there*; the runtime gives it up when that, and failures, make up its
//! attempts.
//!
//! A suspect that is given back (the app stops), or whose connection is lost, was not to
//! blame: it is put back so that it doesn't count.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::{Delivery, DeliveryParts, Message, MessageId, QueueId, Settle, Settlement};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::debug;

use super::codec;
use super::connection::Connections;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::PrefetchBuffer;
use super::router::Router;
use super::routing::Queue;
use super::session_state::SessionState;
use super::settlement::{BrokerAction, Settler};
use super::source_queue::{SourceQueue, TopicSource};

/// How long what is in hand may take to end before a suspect is tried alone.
const QUIET_WAIT: Duration = Duration::from_secs(5);
/// How long a consumer waits for a look at its suspects.
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// Services that wait to be looked at. One more is looked at a second later.
const CALLS_MAX: usize = 256;

/// Whether only suspects are handed out now. One for a session.
#[derive(Default)]
pub(super) struct ExclusiveMode {
    on: AtomicBool,
    less: Notify,
}

impl ExclusiveMode {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Something was settled.
    pub(super) fn less_in_hand(&self) {
        if self.is_on() {
            self.less.notify_one();
        }
    }
}

/// There may be suspects of a service.
struct CheckRequest {
    service: Box<str>,
    /// Dropped when the ward has looked, and nothing is handed out that mustn't be.
    looked: Option<oneshot::Sender<()>>,
}

/// Where suspects are tried. One for a session.
pub(super) struct SuspectQueue {
    calls: mpsc::Sender<CheckRequest>,
    alone: Arc<ExclusiveMode>,
    alibis: Arc<NonCrashRedeliveries>,
    shelves: Mutex<HashMap<QueueId, Vec<Weak<PrefetchBuffer>>>>,
    /// Held while a suspect is neither at the broker nor in hand: who counts, waits.
    between: tokio::sync::Mutex<()>,
    /// A suspect was decided about, and that isn't done yet.
    settling: watch::Sender<bool>,
}

impl SuspectQueue {
    /// Starts its task on the current runtime.
    pub(super) fn start(
        connections: Arc<Connections>,
        link: Arc<SessionState>,
        router: Arc<Router>,
        alibis: Arc<NonCrashRedeliveries>,
    ) -> Arc<Self> {
        let (calls, called) = mpsc::channel(CALLS_MAX);
        let ward = Arc::new(Self {
            calls,
            alone: Arc::default(),
            alibis,
            shelves: Mutex::default(),
            between: tokio::sync::Mutex::default(),
            settling: watch::Sender::new(false),
        });
        let keeper = SuspectTask {
            ward: ward.clone(),
            connections,
            link: link.clone(),
            router,
            channel: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                _lost = link.ended() => {}
                () = keeper.run(called) => {}
            }
        });
        ward
    }

    pub(super) fn alone(&self) -> &Arc<ExclusiveMode> {
        &self.alone
    }

    pub(super) fn alibis(&self) -> &Arc<NonCrashRedeliveries> {
        &self.alibis
    }

    /// A queue is going to be consumed: suspects of it can be handed out on this shelf, and
    /// are looked for before anything else comes.
    pub(super) async fn take_in(&self, queue: &Queue, shelf: &Arc<PrefetchBuffer>) {
        {
            let mut shelves = self.shelves.lock();
            let of_queue = shelves.entry(queue.id.clone()).or_default();
            of_queue.retain(|shelf| shelf.strong_count() > 0);
            of_queue.push(Arc::downgrade(shelf));
        }
        let (looked, done) = oneshot::channel();
        let call = CheckRequest {
            service: queue.id.service.clone(),
            looked: Some(looked),
        };
        if self.calls.try_send(call).is_ok() {
            // Not for long, if another suspect is being tried.
            let _either = timeout(LOOK_WAIT, done).await;
        }
    }

    /// There may be suspects of a service.
    pub(super) fn look(&self, service: &str) {
        let call = CheckRequest {
            service: service.into(),
            looked: None,
        };
        // If too many wait, somebody looks again soon.
        let _later = self.calls.try_send(call);
    }

    /// While this is held, every suspect is at the broker or in hand.
    pub(super) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.between.lock().await
    }

    /// Waits until what was decided about a suspect is done.
    pub(super) async fn flush(&self, link: &SessionState) {
        let mut settling = self.settling.subscribe();
        tokio::select! {
            // The sender is `self`: it can't be gone.
            _done = settling.wait_for(|settling| !settling) => {}
            _lost = link.ended() => {}
        }
    }

    /// The shelves of those queues of a service that are consumed now.
    fn shelves_of(&self, service: &str) -> Vec<(QueueId, Arc<PrefetchBuffer>)> {
        let shelves = self.shelves.lock();
        let of_service = shelves.iter().filter(|(id, _)| &*id.service == service);
        let live = of_service.flat_map(|(id, shelves)| {
            let live = shelves.iter().filter_map(Weak::upgrade);
            live.map(|shelf| (id.clone(), shelf))
        });
        live.filter(|(_, shelf)| !shelf.is_ended()).collect()
    }

    fn in_flight(&self) -> usize {
        let shelves = self.shelves.lock();
        let all = shelves.values().flatten().filter_map(Weak::upgrade);
        all.map(|shelf| shelf.in_flight()).sum()
    }

    fn wake_all(&self) {
        let shelves = self.shelves.lock();
        for shelf in shelves.values().flatten().filter_map(Weak::upgrade) {
            shelf.wake();
        }
    }
}

/// What became of a look at a service's suspects.
enum CheckResult {
    /// One was tried: there may be more.
    Tried,
    /// There are none, or this process can't do anything for them now.
    Done,
}

struct SuspectTask {
    ward: Arc<SuspectQueue>,
    connections: Arc<Connections>,
    link: Arc<SessionState>,
    router: Arc<Router>,
    /// Of its own: one get at a time, and what fails on it ends no consumer.
    channel: Option<Channel>,
}

impl SuspectTask {
    async fn run(mut self, mut called: mpsc::Receiver<CheckRequest>) {
        let mut due: VecDeque<(Box<str>, Vec<oneshot::Sender<()>>)> = VecDeque::new();
        loop {
            let call = match due.is_empty() {
                true => match called.recv().await {
                    Some(call) => Some(call),
                    None => return,
                },
                false => called.try_recv().ok(),
            };
            if let Some(CheckRequest { service, looked }) = call {
                match due.iter_mut().find(|(other, _)| *other == service) {
                    Some((_, waiting)) => waiting.extend(looked),
                    None => due.push_back((service, looked.into_iter().collect())),
                }
                continue;
            }
            let Some((service, waiting)) = due.pop_front() else {
                continue;
            };
            match self.look(&service, waiting).await {
                Ok(CheckResult::Tried) => due.push_back((service, Vec::new())),
                Ok(CheckResult::Done) => {}
                // A queue or a right that is missing, or a channel that is gone: the next
                // call tries again.
                Err(error) => debug!(%service, %error, "could not look for suspects"),
            }
        }
    }

    async fn look(
        &mut self,
        service: &str,
        waiting: Vec<oneshot::Sender<()>>,
    ) -> Result<CheckResult, TransportError> {
        let shelves = self.ward.shelves_of(service);
        if shelves.is_empty() {
            return Ok(CheckResult::Done);
        }
        let suspects = self.router.queue(&QueueId::suspects(service))?;
        let channel = self.channel().await?;
        let between = self.ward.between.lock().await;
        let got = channel
            .basic_get(suspects.name.clone(), BasicGetOptions::default())
            .await
            .map_err(|error| TransportError::Lost(error.to_string()))?;
        let Some(BasicGetMessage { delivery, .. }) = got else {
            return Ok(CheckResult::Done);
        };
        let tag = delivery.delivery_tag;
        let before = codec::deliveries_before(&delivery.properties).unwrap_or(0);
        let arrival = TopicSource::Queue(delivery.routing_key.as_str());
        let decoded = codec::decode(arrival, &delivery.properties, delivery.data);
        let queue = suspects.name.clone();
        let alibi = self.ward.alibis.of(queue.as_str(), &decoded.message.id);
        let crashes = before.saturating_sub(alibi) as u32;
        let suspect = Suspect {
            channel,
            suspects,
            attempt: decoded.attempt,
            crashes,
            taken: TakenGuard {
                id: decoded.message.id.clone(),
                queue,
                alibis: self.ward.alibis.clone(),
                settled: false,
            },
            message: decoded.message,
            tag,
        };
        let input = decoded.suspect.unwrap_or_default();
        let of = QueueId::new(service, &input);
        let shelf = shelves.into_iter().find(|(id, _)| *id == of);
        match (shelf, self.router.queue(&of)) {
            (Some((_, shelf)), Ok(queue)) if queue.single_active && !shelf.is_served() => {
                // Of several processes only one may handle it, and which one that is the
                // work queue knows: who gets it from there brings it back here.
                drop(between);
                suspect.send_to(&self.router, &queue, &of).await;
                Ok(CheckResult::Done)
            }
            (Some((_, shelf)), Ok(queue)) => {
                shelf.mark_in_flight();
                let alone = (suspect.crashes > 0).then(|| Quiet::begin(&self.ward));
                drop((between, waiting));
                self.try_one(suspect, alone, &shelf, &queue).await;
                Ok(CheckResult::Tried)
            }
            _ => {
                // Not consumed here at the moment, or an input that only another version of
                // the manifest has: it waits where it was.
                drop(between);
                let back = suspect.suspects.clone();
                suspect.send_to(&self.router, &back, &of).await;
                Ok(CheckResult::Done)
            }
        }
    }

    /// Hands a suspect out and does what is decided about it.
    async fn try_one(
        &self,
        suspect: Suspect,
        alone: Option<Quiet>,
        shelf: &PrefetchBuffer,
        queue: &Arc<Queue>,
    ) {
        let Suspect {
            channel,
            suspects,
            message,
            attempt,
            crashes,
            tag,
            mut taken,
        } = suspect;
        if alone.is_some() {
            self.quiet().await;
        }
        let (decided, decision) = oneshot::channel();
        let parcel = DeliveryParts {
            message,
            attempt: attempt + crashes,
            crashes,
            tag,
        };
        let trial = Trial {
            decided: Mutex::new(Some(decided)),
            settling: self.ward.settling.clone(),
        };
        shelf.put_suspect(Delivery::new(parcel, Arc::new(trial)));
        let Ok((parcel, settlement)) = decision.await else {
            return;
        };
        drop(alone);
        let settling = Settler {
            session_state: self.link.clone(),
            router: self.router.clone(),
            source: SourceQueue::app_queue(queue.clone()),
            dead_letters: self.letters(&queue.id.service),
        };
        let given_back = matches!(settlement, Settlement::Requeue);
        let mut settled = settling.settle(&parcel, settlement).await;
        if given_back {
            let (message, attempt) = (&parcel.message, parcel.attempt);
            let sent = self
                .router
                .send_suspect(&suspects, &queue.id, message, attempt);
            if sent.await.is_ok() {
                settled = BrokerAction::Ack;
            }
        }
        tell(&channel, parcel.tag, settled).await;
        shelf.release(1);
        taken.settled = settled == BrokerAction::Ack;
        self.ward.settling.send_replace(false);
    }

    /// Waits until nothing but the suspect is in hand, or long enough.
    async fn quiet(&self) {
        let quiet = async {
            while self.ward.in_flight() > 1 {
                self.ward.alone.less.notified().await;
            }
        };
        // What takes longer than that is a handler that hangs: it has its own deadline.
        let _either = timeout(QUIET_WAIT, quiet).await;
    }

    fn letters(&self, service: &str) -> Option<ShortString> {
        let letters = self.router.queue(&QueueId::dead_letters(service));
        letters.ok().map(|letters| letters.name.clone())
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

/// A suspect that was taken.
struct Suspect {
    channel: Channel,
    suspects: Arc<Queue>,
    message: Message,
    /// As it was sent there.
    attempt: u32,
    /// In how many tries since then a process died.
    crashes: u32,
    tag: u64,
    taken: TakenGuard,
}

impl Suspect {
    /// Sends it on, with what is blamed on it so far; if that fails it goes back.
    async fn send_to(mut self, router: &Router, to: &Queue, of: &QueueId) {
        let attempt = self.attempt + self.crashes;
        let sent = router.send_suspect(to, of, &self.message, attempt).await;
        match sent {
            Ok(()) => self.tell(BrokerAction::Ack).await,
            Err(_) => self.tell(BrokerAction::Requeue).await,
        }
    }

    async fn tell(&mut self, settled: BrokerAction) {
        tell(&self.channel, self.tag, settled).await;
        self.taken.settled = settled == BrokerAction::Ack;
    }
}

/// Tells the broker. If that fails, the channel is gone, and it delivers again.
async fn tell(channel: &Channel, tag: u64, settled: BrokerAction) {
    match settled {
        BrokerAction::Ack => {
            let _again = channel.basic_ack(tag, BasicAckOptions::default()).await;
        }
        BrokerAction::Requeue => {
            let options = BasicNackOptions {
                requeue: true,
                ..Default::default()
            };
            let _back = channel.basic_nack(tag, options).await;
        }
        BrokerAction::Stale => {}
    }
}

/// A suspect in this process. One that comes back to the broker otherwise than by the
/// process's death was not to blame for that.
struct TakenGuard {
    id: MessageId,
    queue: ShortString,
    alibis: Arc<NonCrashRedeliveries>,
    settled: bool,
}

impl Drop for TakenGuard {
    fn drop(&mut self) {
        match self.settled {
            true => self.alibis.forget(self.queue.as_str(), &self.id),
            false => self.alibis.add(self.queue.as_str(), &self.id),
        }
    }
}

/// Nothing else is handed out until this is dropped.
struct Quiet(Arc<SuspectQueue>);

impl Quiet {
    fn begin(ward: &Arc<SuspectQueue>) -> Self {
        ward.alone.on.store(true, Relaxed);
        Self(ward.clone())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.alone.on.store(false, Relaxed);
        self.0.wake_all();
    }
}

/// Where the decision about a suspect goes.
struct Trial {
    decided: Mutex<Option<oneshot::Sender<(DeliveryParts, Settlement)>>>,
    settling: watch::Sender<bool>,
}

impl Settle for Trial {
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement) {
        let Some(decided) = self.decided.lock().take() else {
            return;
        };
        self.settling.send_replace(true);
        // Nobody waits for it when the connection is gone: then it comes again.
        if decided.send((parcel, settlement)).is_err() {
            self.settling.send_replace(false);
        }
    }
}
