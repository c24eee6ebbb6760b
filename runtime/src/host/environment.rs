//! What surrounds a service: its wiring, its settings, and what its parts share.
//!
//! [`Core`] is what lasts as long as the app; [`Environment`] is what one life of the
//! service has, and goes with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::hand::Hand;
use super::mailbox::Mailbox;
use super::pulse::Pulse;
use super::state::{LastFailure, ServiceState};
use super::tap::Tap;
use crate::clock::{Clock, later};
use crate::config::HumanDuration;
use crate::dead_letter::Reason;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::metrics::{AskOutcome, Cause, Durations, Meters, Worker};
use crate::name::QueueId;
use crate::redact::Redactor;
use crate::service::{Draft, Payload, Request, Shared};
use crate::supervision::{
    GiveUp, Instances, Intensity, RestartPolicy, RestartType, RetryPolicy, Window,
};
use crate::transport::{AskError, Completion, Outgoing, Pressure, Transport};

/// How many publications of one service may wait for their confirms.
pub(crate) const WINDOW: usize = 256;

/// Everything that an app decides about a service.
pub(crate) struct Settings {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    /// Its place in the manifest.
    pub(crate) number: u32,
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) outputs: Vec<WiredOutput>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) clock: Clock,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) instances: Instances,
    pub(crate) mailbox_capacity: usize,
    /// How many messages an instance may have in hand at once.
    pub(crate) batch_max: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) restart: RestartPolicy,
    pub(crate) restart_type: RestartType,
    pub(crate) intensity: Intensity,
    pub(crate) give_up: GiveUp,
    pub(crate) message_bytes_max: usize,
    pub(crate) data: PathBuf,
    /// How long publications took to be confirmed; kept where that takes time.
    pub(crate) confirms: Option<Arc<Mutex<Durations>>>,
}

/// An output and the topics that it goes to.
pub(crate) struct WiredOutput {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) topics: Vec<Arc<str>>,
}

/// What lasts of a service while its instances, bridges and threads come and go.
pub(crate) struct Core {
    settings: Settings,
    /// `source` of the messages that it makes.
    source: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) state: ServiceState,
    /// Permits for publications that aren't confirmed yet.
    pub(crate) window: Arc<Semaphore>,
}

impl std::ops::Deref for Core {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            source: format!("/{}/{}", settings.app, settings.label).into(),
            meters: Meters::new(settings.inputs.len(), settings.outputs.len()),
            state: ServiceState::default(),
            window: Arc::new(Semaphore::new(WINDOW)),
            settings,
        })
    }

    /// How many publications wait for their confirms.
    pub(crate) fn unconfirmed(&self) -> usize {
        WINDOW - self.window.available_permits()
    }

    /// How many messages were given up, by reason: here, and by the transport where a
    /// queue was full.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let queues = self.inputs.iter();
        let overflowed: u64 = queues
            .map(|input| self.transport.overflowed(&QueueId::new(&self.label, input)))
            .sum();
        let overflow = Reason::Overflow.as_str();
        self.meters.dead_letters().map(move |(reason, count)| {
            let more = if reason == overflow { overflowed } else { 0 };
            (reason, count + more)
        })
    }

    /// Notes a failure without a message in hand, for people.
    pub(crate) fn note(&self, cause: Cause, text: &str) {
        self.state.failed(LastFailure {
            time_ms: self.clock.unix_ms(),
            what: cause.as_str().into(),
            text: text.to_owned(),
            message: None,
            attempt: None,
        });
    }
}

/// The surroundings of a service from one start to the next stop, shared by its actor,
/// instances and bridges. A restart of the service makes new ones.
pub(crate) struct Environment {
    core: Arc<Core>,
    pub(crate) mailbox: Mailbox<Delivery>,
    pub(crate) hands: Mutex<Vec<Arc<Hand>>>,
    /// What each input consumes by, where it can be stopped from any thread.
    pub(crate) taps: Box<[Tap]>,
    pub(crate) pulse: Pulse,
    pub(crate) shared: Shared,
    /// The thread that it runs on.
    pub(crate) worker: Arc<Worker>,
    paused_until: Mutex<Option<Instant>>,
    /// Set once, when no more is to be taken.
    closing: watch::Sender<bool>,
    /// Set once, when instances may run their `stop` and go.
    leaving: watch::Sender<bool>,
    /// Set once, when the thread was given up: nothing that happens there counts.
    fenced: AtomicBool,
    /// Failures that count against the service's intensity.
    charges: Mutex<Window>,
    /// Restart decisions count from here.
    pub(crate) origin: Instant,
    /// Why the service gave up, once it has.
    gave_up: watch::Sender<Option<String>>,
}

impl std::ops::Deref for Environment {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Environment {
    /// `trials` are messages of which one is to blame, and nobody knows which: the first
    /// instance handles them one at a time before anything else.
    pub(crate) fn new(core: Arc<Core>, worker: Arc<Worker>, trials: Vec<Delivery>) -> Arc<Self> {
        let inputs = core.inputs.len();
        let hand = Hand::default();
        hand.put_all(trials);
        Arc::new(Self {
            mailbox: Mailbox::new(core.mailbox_capacity),
            hands: Mutex::new(vec![Arc::new(hand)]),
            taps: (0..inputs).map(|_| Tap::default()).collect(),
            pulse: Pulse::new(core.instances.min),
            shared: Shared::default(),
            worker,
            paused_until: Mutex::new(None),
            closing: watch::Sender::new(false),
            leaving: watch::Sender::new(false),
            fenced: AtomicBool::new(false),
            charges: Mutex::default(),
            origin: Instant::now(),
            gave_up: watch::Sender::new(None),
            core,
        })
    }

    /// Counts a failure that is the service's own. Says whether it is to go on; if not,
    /// it has given up and will be stopped.
    pub(crate) fn charge(&self, cause: Cause, text: &str) -> bool {
        let (borne, count) = {
            let mut charges = self.charges.lock();
            let borne = charges.restart(&self.intensity, self.origin.elapsed());
            (borne, charges.len())
        };
        if !borne {
            let within = HumanDuration(self.intensity.within);
            let cause = cause.as_str();
            let why = format!("failed {count} times within {within}, at last ({cause}): {text}");
            self.give_up(why);
        }
        borne && !self.has_given_up()
    }

    /// The service gives up. What it said first counts.
    pub(crate) fn give_up(&self, why: String) {
        self.gave_up.send_if_modified(|gave_up| {
            let first = gave_up.is_none();
            if first {
                *gave_up = Some(why);
            }
            first
        });
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.gave_up.borrow().is_some()
    }

    /// Resolves, with the reason, when the service has given up.
    pub(crate) async fn given_up(&self) -> String {
        let mut gave_up = self.gave_up.subscribe();
        match gave_up.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is `self`: it can't be gone.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the thread was given up: what happens there must have no effect.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Relaxed)
    }

    /// Instances may run their `stop` and go.
    pub(crate) fn let_go(&self) {
        self.leaving.send_replace(true);
    }

    /// Resolves when instances may run their `stop` and go.
    pub(crate) async fn may_leave(&self) {
        let mut leaving = self.leaving.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = leaving.wait_for(|leaving| *leaving).await;
    }

    /// The number of an output by its name.
    pub(crate) fn output(&self, name: &str) -> Result<usize, Failure> {
        self.outputs
            .iter()
            .position(|output| *output.name == *name)
            .ok_or_else(|| {
                Failure::reject(format!("the service names no output {name:?} in its ports"))
            })
    }

    /// The envelope of a message that this service makes.
    pub(crate) fn envelope<T: Payload>(
        &self,
        output: usize,
        draft: Draft<T>,
        id: MessageId,
        parent: Option<&Message>,
        time_ms: u64,
    ) -> Result<Envelope, String> {
        let wired = &self.outputs[output];
        let kind = match (&wired.kind, parent) {
            (Some(kind), _) => kind.clone(),
            (None, Some(parent)) => parent.kind.clone(),
            (None, None) => wired.name.clone(),
        };
        let trace = parent.map(|parent| parent.trace().child(&id));
        let mut envelope = Envelope {
            id,
            kind,
            source: self.source.clone(),
            subject: None,
            time_ms,
            topic: wired.topics[0].clone(),
            content_type: None,
            headers: Default::default(),
            payload: Default::default(),
            parent: parent.map(|parent| parent.id.clone()),
            tenant: parent.and_then(|parent| parent.tenant.clone()),
            trace,
            deadline_ms: None,
            reply_to: None,
            anonymous: false,
        };
        draft
            .value
            .encode(&mut envelope)
            .map_err(|error| error.to_string())?;
        if let Some(kind) = draft.kind {
            envelope.kind = kind;
        }
        if draft.subject.is_some() {
            envelope.subject = draft.subject;
        }
        envelope.headers.extend(draft.headers);
        envelope.reply_to = draft.reply_to;
        let (size, max) = (envelope.payload.len(), self.message_bytes_max);
        if size > max {
            return Err(format!(
                "the message for {} has {size} bytes, app.max_message allows {max}",
                wired.name
            ));
        }
        Ok(envelope)
    }

    /// A copy for each topic that an output is connected to.
    pub(crate) fn outgoing(
        &self,
        output: usize,
        envelope: Envelope,
        delay: Duration,
    ) -> Vec<Outgoing> {
        let topics = &self.outputs[output].topics;
        let mut batch = Vec::with_capacity(topics.len());
        for topic in &topics[1..] {
            let copy = Envelope {
                topic: topic.clone(),
                ..envelope.clone()
            };
            batch.push(Outgoing {
                message: copy.into(),
                queue: None,
                delay,
            });
        }
        batch.push(Outgoing {
            message: envelope.into(),
            queue: None,
            delay,
        });
        batch
    }

    /// Publishes, and measures how long the confirm takes where it takes any time.
    pub(crate) fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        let done = match &self.confirms {
            None => done,
            Some(confirms) => {
                let (confirms, started) = (confirms.clone(), Instant::now());
                Completion::new(move |outcome| {
                    confirms.lock().record(started.elapsed());
                    done.complete(outcome);
                })
            }
        };
        self.transport.publish(batch, done);
    }

    /// Asks, on behalf of a handler or a source.
    pub(crate) async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        mut draft: Draft<M>,
        within: Duration,
        parent: Option<&Message>,
    ) -> Result<R, AskError> {
        let failed = |failure: Failure| AskError::Failed(failure.text().to_owned());
        let number = self.output(request.name()).map_err(failed)?;
        let now_ms = self.clock.unix_ms();
        let id = draft.id.take().unwrap_or_default();
        let mut envelope = self
            .envelope(number, draft, id, parent, now_ms)
            .map_err(AskError::Failed)?;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        envelope.deadline_ms = Some(now_ms.saturating_add(within_ms));
        let reply = self.transport.ask(envelope.into(), within).await;
        self.meters.asked(match &reply {
            Ok(_) => AskOutcome::Ok,
            Err(AskError::Timeout(_)) => AskOutcome::Timeout,
            Err(_) => AskOutcome::Failed,
        });
        R::decode(&reply?).map_err(|error| AskError::Decode(error.to_string()))
    }

    /// Stops giving out messages for a while.
    pub(crate) fn pause(self: &Arc<Self>, duration: Duration) {
        let until = later(duration);
        let mut paused = self.paused_until.lock();
        match &mut *paused {
            Some(end) => *end = until.max(*end),
            None => {
                *paused = Some(until);
                drop(paused);
                self.mailbox.pause();
                tokio::task::spawn_local(self.clone().resume_later());
            }
        }
    }

    async fn resume_later(self: Arc<Self>) {
        loop {
            let until = {
                let mut paused = self.paused_until.lock();
                match *paused {
                    Some(until) if until > Instant::now() => until,
                    _ => {
                        *paused = None;
                        break;
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // A service that stops takes no messages any more.
                () = self.closed() => return,
            }
        }
        self.mailbox.resume();
    }

    /// How long the service still takes no messages, if it paused itself.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock())?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Says that the service is to stop.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Resolves when the service is to stop.
    pub(crate) async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = closing.wait_for(|closing| *closing).await;
    }

    /// The hand of an instance by its number.
    pub(crate) fn hand(&self, number: u32) -> Arc<Hand> {
        let mut hands = self.hands.lock();
        while hands.len() <= number as usize {
            hands.push(Arc::default());
        }
        hands[number as usize].clone()
    }

    /// How many deliveries are in the hands of instances.
    pub(crate) fn in_hand(&self) -> usize {
        self.hands.lock().iter().map(|hand| hand.len()).sum()
    }

    /// Takes everything away: what its consumers fetched ahead goes back, what is in its
    /// mailbox and in the hands of its instances is returned, with the number of the
    /// instance that had it in hand. Works from any thread, also while a handler blocks
    /// its own; results that come later no longer count.
    pub(crate) fn seize(&self) -> Vec<(Option<u32>, Delivery)> {
        self.close();
        for tap in &self.taps {
            tap.shut();
        }
        let waiting = self.mailbox.close().into_iter();
        let mut seized: Vec<_> = waiting.map(|delivery| (None, delivery)).collect();
        for (number, hand) in (0..).zip(&*self.hands.lock()) {
            let held = hand.take_all().into_iter();
            seized.extend(held.map(|delivery| (Some(number), delivery)));
        }
        seized
    }

    /// Gives the thread up, then takes everything away as [`seize`](Self::seize) does.
    pub(crate) fn fence(&self) -> Vec<(Option<u32>, Delivery)> {
        self.fenced.store(true, Relaxed);
        let seized = self.seize();
        self.let_go();
        seized
    }
}
