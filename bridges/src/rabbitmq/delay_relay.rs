//! Relay: moves messages whose delay is over from the queue `APP.due` to their queues.
//!
//! The broker could do this itself, but then 32 messages for a queue that is gone or full would
//! hold up every message with the same delay. Each process that declares the app's queues runs a
//! relay; the relays compete.
//!
//! A message is published to its queue, confirmed, and then acked. A process that dies in between
//! leaves a copy. The fate of a message whose queue does not accept it:
//!
//! | queue | fate |
//! | --- | --- |
//! | full, or slow to confirm | delayed again, for a few seconds |
//! | gone, and the manifest has it | the queue is declared again |
//! | gone | held in the queue `APP.unroutable` until its queue is there again |
//!
//! The status reports a relay that can't work, and delay steps whose messages are overdue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use brickwork::LogThrottle;
use brickwork::supervision::Backoff;
use brickwork::transport::TransportError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
};
use lapin::types::{FieldTable, ShortString};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::clock_probe;
use super::close_delay::CommandRate;
use super::codec::{self, TopicSource};
use super::declarer::refusal;
use super::delay_probe;
use super::health::Degraded;
use super::recovery::Recovery;
use super::router::Router;
use super::session::Session;
use super::session_state::SessionState;
use super::topology::{Step, due_name, unroutable_name};

/// Maximum messages that one relay moves at a time.
const PREFETCH: u16 = 128;
/// Maximum unconfirmed messages for one queue. The broker stops reading from a connection with more
/// than 32 unconfirmed messages for a quorum queue that lags.
const UNCONFIRMED_MAX: usize = 16;
/// Time that a message waits for the confirms of others for the same queue. Afterwards the queue
/// counts as one that accepts nothing.
const UNCONFIRMED_TIME: Duration = Duration::from_secs(2);
/// Back-off of a relay that can't work.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(30),
    jitter: 0.2,
};
/// Pause before a message that nothing accepts is requeued.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Delay of a message whose queue does not accept it. Messages for the same queue are delayed, too,
/// and not published, until this time has passed.
const AVOID_TIME: Duration = Duration::from_secs(5);
/// Interval at which the held messages are tried again, besides the start of each session.
const HELD_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Maximum held messages that are tried at a time.
const HELD_MAX: u64 = 1000;
/// Time limit to finish the messages in progress when the transport closes.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The relay of one transport.
pub(super) struct DelayRelay {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl DelayRelay {
    /// Starts the relay on the current runtime, until the transport is closed.
    pub(super) fn start(recovery: Arc<Recovery>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(recovery, stopped));
        Self {
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// Stops, so that no message in progress is left as a copy.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _in_time = timeout(STOP_TIMEOUT, task).await;
        }
    }
}

async fn run(recovery: Arc<Recovery>, mut stop: watch::Receiver<bool>) {
    let log = LogThrottle::default();
    let mut failures = 0;
    loop {
        let session = tokio::select! {
            _stop = stop.wait_for(|stop| *stop) => return,
            session = recovery.wait_for_session() => match session {
                Ok(session) => session,
                Err(_) => return,
            },
        };
        let since = Instant::now();
        let Err(error) = run_on(&session, &log, &mut stop).await else {
            return;
        };
        if since.elapsed() > BACKOFF.max {
            failures = 0;
        }
        if session.session_state.check().is_ok() {
            warn!(%error, "relay of delayed messages ended, starting it again");
            let why = format!("delayed messages don't reach their queues: {error}");
            session.session_state.degraded(Degraded::Relay, Some(why));
        }
        sleep(BACKOFF.delay(failures, fastrand::f64())).await;
        failures = failures.saturating_add(1);
    }
}

/// Relays over one session. Returns `Ok` when it was stopped.
async fn run_on(
    session: &Session,
    log: &LogThrottle,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), TransportError> {
    let (router, session_state) = (&*session.router, &*session.session_state);
    let app = router.routing_table().app.clone();
    let lost = |error: lapin::Error| session_state.lost(&error);
    let relay = Relay {
        prefix: format!("{app}."),
        due: due_name(&app)?,
        unroutable: unroutable_name(&app)?,
        app,
        session,
        router,
        session_state,
        log,
        queues: Mutex::default(),
    };
    let channel = session.channel().await.map_err(lost)?;
    let set = channel.basic_qos(PREFETCH, Default::default()).await;
    set.map_err(lost)?;
    let options = BasicConsumeOptions::default();
    let arguments = FieldTable::default();
    let consuming = channel.basic_consume(relay.due.clone(), "".into(), options, arguments);
    let mut due = match consuming.await {
        Ok(due) => due,
        Err(error) if matches!(refusal(&error), Some((404, _))) => {
            router.redeclare().await?;
            return Err(TransportError::Lost(format!("{} was gone", relay.due)));
        }
        Err(error) => return Err(lost(error)),
    };
    session_state.degraded(Degraded::Relay, None);
    let mut commands = CommandRate::default();
    let mut moving = FuturesUnordered::new();
    let mut held = std::pin::pin!(relay.try_held());
    let mut probes = std::pin::pin!(delay_probe::run(session));
    let mut clock = std::pin::pin!(clock_probe::run(session, &relay.app));
    loop {
        tokio::select! {
            error = session_state.ended() => return Err(error),
            _stop = stop.wait_for(|stop| *stop) => break,
            Some(()) = moving.next(), if !moving.is_empty() => commands.sent(Instant::now()),
            delivery = due.next() => match delivery {
                Some(Ok(delivery)) => moving.push(relay.handle(delivery)),
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(TransportError::Lost(format!("{} was deleted", relay.due))),
            },
            () = &mut held => {}
            () = &mut probes => {}
            () = &mut clock => {}
        }
    }
    // If this fails, the channel is gone.
    let tag = due.tag();
    let _gone = channel
        .basic_cancel(tag, BasicCancelOptions::default())
        .await;
    while let Some(()) = moving.next().await {
        commands.sent(Instant::now());
    }
    sleep(commands.close_delay(Instant::now())).await;
    let _gone = channel.close(200, "done".into()).await;
    Ok(())
}

struct Relay<'a> {
    app: Arc<str>,
    /// Prefix of the names of the app's queues.
    prefix: String,
    due: ShortString,
    unroutable: ShortString,
    session: &'a Session,
    router: &'a Router,
    session_state: &'a SessionState,
    log: &'a LogThrottle,
    queues: Mutex<HashMap<ShortString, Arc<TargetQueue>>>,
}

/// A queue that due messages go to.
struct TargetQueue {
    /// When it did not accept a message.
    avoided: Mutex<Option<Instant>>,
    /// Bounds the unconfirmed messages.
    window: Semaphore,
}

impl Default for TargetQueue {
    fn default() -> Self {
        Self {
            avoided: Mutex::default(),
            window: Semaphore::new(UNCONFIRMED_MAX),
        }
    }
}

impl TargetQueue {
    /// Waits until the queue may get another message. Returns `None` if the queue accepts nothing
    /// for now. After [`AVOID_TIME`], one message is tried.
    async fn admit(&self) -> Option<SemaphorePermit<'_>> {
        if let Some(since) = &mut *self.avoided.lock() {
            if since.elapsed() < AVOID_TIME {
                return None;
            }
            *since = Instant::now();
        }
        let permit = timeout(UNCONFIRMED_TIME, self.window.acquire()).await;
        let permit = permit.ok().and_then(Result::ok);
        if permit.is_none() {
            self.avoid();
        }
        permit
    }

    fn avoid(&self) {
        *self.avoided.lock() = Some(Instant::now());
    }

    fn accepts(&self) {
        *self.avoided.lock() = None;
    }
}

impl Relay<'_> {
    /// Moves one message on and acks it, or requeues it.
    async fn handle(&self, delivery: Delivery) {
        let passed = codec::first_death_queue(&delivery.properties);
        let step = passed.and_then(|queue| Step::of_queue(&self.app, &queue));
        if let Some(step) = step {
            self.router.delay_flow().passed(step, Instant::now());
        }
        let moved = self.move_on(&delivery, &mut HashSet::new(), true).await;
        if let Err(error) = &moved {
            if self.session_state.check().is_err() {
                return;
            }
            debug!(%error, "a delayed message was not moved on");
            sleep(REFUSED_PAUSE).await;
        }
        // If this fails, the channel is gone, and the broker redelivers.
        let _redelivered = match moved {
            Ok(()) => delivery.acker.ack(BasicAckOptions::default()).await,
            Err(_) => {
                let options = BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                };
                delivery.acker.nack(options).await
            }
        };
    }

    /// Publishes a message to its queue, or elsewhere if that is gone or full. `gone` has queues
    /// that are known to be gone.
    async fn move_on(
        &self,
        delivery: &Delivery,
        gone: &mut HashSet<ShortString>,
        is_news: bool,
    ) -> Result<(), TransportError> {
        let target = codec::target(&delivery.properties);
        let target = target.filter(|target| target.as_str().starts_with(&self.prefix));
        let Some(target) = target else {
            // Another program put it here.
            return self.hold(delivery, None, is_news).await;
        };
        if target == self.due {
            return self.answer_probe(delivery).await;
        }
        if gone.contains(&target) {
            return self.hold(delivery, Some(&target), is_news).await;
        }
        let queue = self
            .queues
            .lock()
            .entry(target.clone())
            .or_default()
            .clone();
        let Some(_permit) = queue.admit().await else {
            return self.delay_again(delivery, &target).await;
        };
        let own = self.router.queue_named(&target);
        let _counted = own.as_ref().map(|queue| queue.delayed.moving());
        let publish = || {
            let properties = codec::without_delay(&delivery.properties);
            self.router.move_on(target.clone(), properties, delivery)
        };
        let published = publish().await;
        let is_there = match &published {
            Ok(()) => {
                queue.accepts();
                return published;
            }
            Err(TransportError::Refused(_)) => {
                let counts = self.router.declarer.count(target.clone()).await?;
                counts.is_some()
            }
            Err(TransportError::Unconfirmed) => true,
            Err(_) => return published,
        };
        if is_there {
            queue.avoid();
            if let (Some(suppressed), Err(error)) = (self.log.event(), published) {
                warn!(queue = %target, %error, suppressed, after = ?AVOID_TIME, "queue does not accept a delayed message, trying again");
            }
            return self.delay_again(delivery, &target).await;
        }
        if own.is_some() {
            self.router.redeclare().await?;
            return publish().await;
        }
        let held = self.hold(delivery, Some(&target), is_news).await;
        self.queues.lock().remove(&target);
        gone.insert(target);
        held
    }

    async fn delay_again(
        &self,
        delivery: &Delivery,
        target: &ShortString,
    ) -> Result<(), TransportError> {
        let step = Step::at_least(AVOID_TIME).unwrap_or_else(Step::longest);
        self.router.delay_again(step, delivery, target).await?;
        if let Some(queue) = self.router.queue_named(target) {
            queue.delayed.add(step);
        }
        Ok(())
    }

    /// Moves a message to the queue of those whose queue is gone.
    async fn hold(
        &self,
        delivery: &Delivery,
        target: Option<&ShortString>,
        is_news: bool,
    ) -> Result<(), TransportError> {
        let properties = match target {
            Some(target) => codec::with_target(&delivery.properties, target),
            None => codec::without_delay(&delivery.properties),
        };
        if is_news && let Some(suppressed) = self.log.event() {
            let queue = target.map_or("unknown", |target| target.as_str());
            warn!(queue, held_in = %self.unroutable, suppressed, "the queue of a delayed message is gone, the message is held");
        }
        let sent = || {
            let (to, properties) = (self.unroutable.clone(), properties.clone());
            self.router.move_on(to, properties, delivery)
        };
        match sent().await {
            Err(TransportError::Refused(_)) => {
                self.router.redeclare().await?;
                sent().await
            }
            outcome => outcome,
        }
    }

    async fn answer_probe(&self, delivery: &Delivery) -> Result<(), TransportError> {
        let source = TopicSource::Queue(self.due.as_str());
        let probe = codec::decode(source, &delivery.properties, Vec::new()).message;
        match self.router.reply(&probe, Ok(bytes::Bytes::new())).await {
            // The session that sent it has ended.
            Err(TransportError::Refused(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Tries the held messages at the start and then periodically: a process that declares a queue
    /// again starts with this.
    async fn try_held(&self) {
        let mut clock = interval(HELD_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            if let Err(error) = self.try_held_once().await {
                debug!(%error, "held messages were not tried");
            }
        }
    }

    async fn try_held_once(&self) -> Result<(), TransportError> {
        let name = &self.unroutable;
        let count = self.router.declarer.count(name.clone()).await?;
        let count = count.unwrap_or(0).min(HELD_MAX);
        if count == 0 {
            return Ok(());
        }
        let lost = |error: lapin::Error| self.session_state.lost(&error);
        let channel = self.session.channel().await.map_err(lost)?;
        let mut gone = HashSet::new();
        for _ in 0..count {
            let got = channel.basic_get(name.clone(), BasicGetOptions::default());
            let Some(got) = got.await.map_err(lost)? else {
                break;
            };
            // Those whose queue is still gone go to the end.
            self.move_on(&got.delivery, &mut gone, false).await?;
            let acked = got.delivery.acker.ack(BasicAckOptions::default()).await;
            acked.map_err(lost)?;
        }
        info!(count, still_gone = gone.len(), "tried held messages");
        let _gone = channel.close(200, "done".into()).await;
        Ok(())
    }
}
