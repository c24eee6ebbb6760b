//! What lasts of a service as long as its app: settings, wiring, meters, and how its
//! messages are made and sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::position_fence::PositionFence;
use super::status::{LastFailure, ServiceState};
use crate::clock::Clock;
use crate::dead_letter::Reason;
use crate::failure::Failure;
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::message_trace::AttemptHistory;
use crate::metrics::{AskOutcome, Cause, Durations, Meters};
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::service::{MessageBuilder, Payload, Request};
use crate::settings::ServiceSettings;
use crate::sqlite::Migration;
use crate::store::{OpenStore, Stores};
use crate::supervision::Instances;
use crate::transport::{AskError, Backpressure, Completion, Outgoing, Transport};

/// How many publications of one service may wait for their confirms.
pub(crate) const WINDOW: usize = 256;

/// Everything that an app gives to a service: its settings, its wiring, and shared parts.
pub(crate) struct ServiceSetup {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    /// Its place in the manifest.
    pub(crate) number: u32,
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) outputs: Vec<WiredOutput>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: Arc<Backpressure>,
    pub(crate) clock: Clock,
    pub(crate) redactor: Arc<Redactor>,
    /// From the manifest.
    pub(crate) settings: ServiceSettings,
    /// Handler loops: `lanes` for each instance of the manifest.
    pub(crate) loops: Instances,
    pub(crate) lanes: usize,
    /// How many messages an instance may have in hand at once.
    pub(crate) batch_max: usize,
    pub(crate) message_bytes_max: usize,
    pub(crate) data: PathBuf,
    /// Where its store is, if it has one.
    pub(crate) stores: Option<Arc<Stores>>,
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
pub(crate) struct ServiceShared {
    setup: ServiceSetup,
    /// `source` of the messages that it makes.
    source: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) state: ServiceState,
    pub(crate) history: AttemptHistory,
    /// Permits for publications that aren't confirmed yet.
    pub(crate) window: Arc<Semaphore>,
    /// Of its position, if it is a source.
    pub(super) saves: PositionFence,
    store: OnceCell<Arc<OpenStore>>,
}

impl std::ops::Deref for ServiceShared {
    type Target = ServiceSetup;

    fn deref(&self) -> &ServiceSetup {
        &self.setup
    }
}

impl ServiceShared {
    pub(crate) fn new(setup: ServiceSetup) -> Arc<Self> {
        Arc::new(Self {
            source: format!("/{}/{}", setup.app, setup.label).into(),
            meters: Meters::new(setup.inputs.len(), setup.outputs.len()),
            state: ServiceState::default(),
            history: AttemptHistory::default(),
            window: Arc::new(Semaphore::new(WINDOW)),
            saves: PositionFence::default(),
            store: OnceCell::new(),
            setup,
        })
    }

    /// Its store, once it is open.
    pub(crate) fn store(&self) -> Option<Arc<OpenStore>> {
        self.store.get().cloned()
    }

    /// Opens its store, unless it is open. Who asks meanwhile waits for the same.
    ///
    /// # Errors
    /// It has none, or it can't be used.
    pub(crate) async fn open_store(
        &self,
        migrations: &'static [Migration],
    ) -> Result<Arc<OpenStore>, Failure> {
        let Some(stores) = &self.stores else {
            return Err(Failure::reject("the service has no store"));
        };
        let open = async || {
            let opened = stores.open(&self.label, migrations).await?;
            opened.outbox.press(&self.pressure);
            Ok(Arc::new(opened))
        };
        self.store.get_or_try_init(open).await.cloned()
    }

    /// How many messages wait in its outbox.
    pub(crate) fn outbox(&self) -> u64 {
        self.store.get().map_or(0, |store| store.outbox.waiting())
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
        draft: MessageBuilder<T>,
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

    /// Whether the transport is down, and tries to work again. Who fails because of that
    /// is not at fault, and the transport has said what is wrong.
    pub(crate) fn transport_is_down(&self) -> bool {
        let status = self.transport.status();
        let status = status.borrow();
        status.down.is_some() && !status.ended
    }

    /// How often the transport has come back.
    pub(crate) fn transport_reconnects(&self) -> u64 {
        self.transport.status().borrow().reconnects
    }

    /// Resolves when the transport works, or never will.
    pub(crate) async fn transport_works(&self) {
        let mut status = self.transport.status();
        // A transport that is gone never will.
        let _gone = status
            .wait_for(|status| status.down.is_none() || status.ended)
            .await;
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
        mut draft: MessageBuilder<M>,
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
}
