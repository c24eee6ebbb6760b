//! What surrounds a service: its wiring, its settings, and what its parts share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::hand::Hand;
use super::mailbox::Mailbox;
use super::state::ServiceState;
use crate::clock::{Clock, later};
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::metrics::{AskOutcome, Durations, Meters};
use crate::redact::Redactor;
use crate::service::{Draft, Payload, Request, Shared};
use crate::supervision::{RestartPolicy, RetryPolicy};
use crate::transport::{AskError, Completion, Outgoing, Pressure, Transport};

/// How many publications of one service may wait for their confirms.
pub(crate) const WINDOW: usize = 256;

/// Everything that an app decides about a service.
pub(crate) struct Settings {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) outputs: Vec<WiredOutput>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) clock: Clock,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) instances: usize,
    pub(crate) mailbox_capacity: usize,
    /// How many messages an instance may have in hand at once.
    pub(crate) batch_max: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) restart: RestartPolicy,
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

/// The surroundings of one service, shared by its actor, instances and bridges.
pub(crate) struct Environment {
    settings: Settings,
    /// `source` of the messages that it makes.
    source: Arc<str>,
    pub(crate) mailbox: Mailbox<Delivery>,
    pub(crate) hands: Mutex<Vec<Arc<Hand>>>,
    pub(crate) meters: Meters,
    pub(crate) state: ServiceState,
    pub(crate) shared: Shared,
    /// Permits for publications that aren't confirmed yet.
    pub(crate) window: Arc<Semaphore>,
    paused_until: Mutex<Option<Instant>>,
    /// Set once, when the service is to stop.
    closing: watch::Sender<bool>,
}

impl std::ops::Deref for Environment {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Environment {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            source: format!("/{}/{}", settings.app, settings.label).into(),
            mailbox: Mailbox::new(settings.mailbox_capacity),
            hands: Mutex::default(),
            meters: Meters::new(settings.inputs.len(), settings.outputs.len()),
            state: ServiceState::default(),
            shared: Shared::default(),
            window: Arc::new(Semaphore::new(WINDOW)),
            paused_until: Mutex::new(None),
            closing: watch::Sender::new(false),
            settings,
        })
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
        draft: Draft<M>,
        within: Duration,
        parent: Option<&Message>,
    ) -> Result<R, AskError> {
        let failed = |failure: Failure| AskError::Failed(failure.text().to_owned());
        let number = self.output(request.name()).map_err(failed)?;
        let now_ms = self.clock.unix_ms();
        let id = MessageId::new();
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

    /// How many deliveries are in the hands of instances.
    pub(crate) fn in_hand(&self) -> usize {
        self.hands.lock().iter().map(|hand| hand.len()).sum()
    }

    /// How many publications wait for their confirms.
    pub(crate) fn unconfirmed(&self) -> usize {
        WINDOW - self.window.available_permits()
    }

    /// Takes everything away from this service: what is in its mailbox and in the hands
    /// of its instances. Works from any thread, also while a handler blocks its own;
    /// results that come later no longer count.
    pub(crate) fn seize(&self) -> Vec<Delivery> {
        let mut seized: Vec<Delivery> = self.mailbox.close().into();
        for hand in &*self.hands.lock() {
            seized.extend(hand.take_all());
        }
        seized
    }
}
