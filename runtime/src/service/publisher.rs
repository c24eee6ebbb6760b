//! The publisher of a service: builds its messages and hands them to the transport.
//!
//! One publisher lives as long as the app and is shared by every run of the service. It is
//! the part of the host's state that handlers, sources and transactions may use.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answerers::Answerers;
use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::port::Request;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::id::MessageId;
use crate::key::KeyRule;
use crate::limits::Limits;
use crate::message::{Envelope, Message};
use crate::metrics::{AskOutcome, Durations, Meters};
use crate::transport::{AskError, Completion, Outgoing, SourcePressure, Transport};

/// A failure that comes this long before the deadline of a request, or later, is a timeout.
const DEADLINE_TOLERANCE: Duration = Duration::from_millis(10);

/// A port and its topics.
#[derive(Debug, Clone)]
pub(crate) struct WiredPort {
    pub(crate) name: Arc<str>,
    pub(crate) topics: Vec<Arc<str>>,
}

/// An output and the topics that it publishes to.
pub(crate) struct WiredOutput {
    pub(crate) name: Arc<str>,
    /// The message type of the payload; `None` keeps the type of the handled message.
    pub(crate) kind: Option<Arc<str>>,
    /// At least one topic, unless the manifest leaves the output out.
    pub(crate) topics: Vec<Arc<str>>,
}

/// Identity, wiring and transport of one service.
pub(crate) struct Publisher {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    /// The `source` of every message of this service: `/APP/LABEL`.
    pub(crate) source: Arc<str>,
    /// Names of the inputs, by number.
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) outputs: Vec<WiredOutput>,
    /// How messages of its inputs get their keys; `None` if they have none.
    pub(crate) key: Option<KeyRule>,
    pub(crate) message_bytes_max: usize,
    pub(crate) transport: Arc<dyn Transport>,
    /// The reasons for which this service waits, if it is a source.
    pub(crate) pressure: SourcePressure,
    /// The services that may answer requests.
    pub(crate) answerers: Arc<Answerers>,
    /// The rate limits of the app.
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) meters: Meters,
    /// Confirm latencies; `None` if the transport confirms at once.
    pub(crate) confirms: Option<Arc<Mutex<Durations>>>,
}

impl Publisher {
    /// Returns the number of an output.
    ///
    /// # Errors
    /// A [`Failure::reject`] if the service has no output of this name, or the manifest leaves it
    /// out.
    pub(crate) fn output(&self, name: &str) -> Result<usize, Failure> {
        let number = self
            .outputs
            .iter()
            .position(|output| *output.name == *name)
            .ok_or_else(|| {
                Failure::reject(format!("the service names no output {name:?} in its ports"))
            })?;
        if self.outputs[number].topics.is_empty() {
            let text = format!("the output {name:?} is optional and connected to no topic");
            return Err(Failure::reject(text));
        }
        Ok(number)
    }

    /// Returns whether the manifest connects an output of this name.
    pub(crate) fn is_wired(&self, name: &str) -> bool {
        let mut outputs = self.outputs.iter();
        outputs.any(|output| *output.name == *name && !output.topics.is_empty())
    }

    /// Builds the envelope of a message of this service.
    ///
    /// # Errors
    /// The text of the problem: the payload can't be encoded or is too large.
    pub(crate) fn envelope<T: Payload>(
        &self,
        output: usize,
        builder: MessageBuilder<T>,
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
        let head = (kind, wired.topics[0].clone(), &*wired.name);
        self.envelope_of(head, builder, id, parent, time_ms)
    }

    /// Builds the envelope of a message with this type and topic, to the port of this name.
    ///
    /// # Errors
    /// As [`envelope`](Self::envelope).
    pub(crate) fn envelope_of<T: Payload>(
        &self,
        (kind, topic, port): (Arc<str>, Arc<str>, &str),
        builder: MessageBuilder<T>,
        id: MessageId,
        parent: Option<&Message>,
        time_ms: u64,
    ) -> Result<Envelope, String> {
        let trace = parent.map(|parent| parent.trace().child(&id));
        let mut envelope = Envelope {
            id,
            kind,
            source: self.source.clone(),
            subject: None,
            time_ms,
            topic,
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
        builder
            .value
            .encode(&mut envelope)
            .map_err(|error| error.to_string())?;
        if let Some(kind) = builder.kind {
            envelope.kind = kind;
        }
        if builder.subject.is_some() {
            envelope.subject = builder.subject;
        }
        envelope.headers.extend(builder.headers);
        envelope.reply_to = builder.reply_to;
        let (size, max) = (envelope.payload.len(), self.message_bytes_max);
        if size > max {
            return Err(format!(
                "the message for {port} has {size} bytes, app.max_message allows {max}"
            ));
        }
        Ok(envelope)
    }

    /// Returns one copy of a message for each topic of its output.
    pub(crate) fn outgoing(
        &self,
        output: usize,
        envelope: Envelope,
        delay: Duration,
    ) -> Vec<Outgoing> {
        let mut batch = Vec::with_capacity(self.outputs[output].topics.len());
        self.add_outgoing(&mut batch, output, envelope, delay);
        batch
    }

    /// Adds one copy of a message for each topic of its output to a batch.
    pub(crate) fn add_outgoing(
        &self,
        batch: &mut Vec<Outgoing>,
        output: usize,
        envelope: Envelope,
        delay: Duration,
    ) {
        let copy_for = |envelope: Envelope| Outgoing {
            message: envelope.into(),
            queue: None,
            delay,
        };
        for topic in self.outputs[output].topics.iter().skip(1) {
            let topic = topic.clone();
            batch.push(copy_for(Envelope {
                topic,
                ..envelope.clone()
            }));
        }
        batch.push(copy_for(envelope));
    }

    /// Publishes messages, and records the confirm latency if the transport has one.
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

    /// Sends a request and waits for the reply, at most `within`. The request carries the end of
    /// that time, or the deadline of the handled message if that is earlier.
    ///
    /// # Errors
    /// No reply in time, the other service gave up, or the request can't be sent.
    pub(crate) async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        mut builder: MessageBuilder<M>,
        within: Duration,
        parent: Option<&Message>,
        inherited_deadline_ms: Option<u64>,
    ) -> Result<R, AskError> {
        let failed = |failure: Failure| AskError::Failed(failure.text().to_owned());
        let number = self.output(request.name()).map_err(failed)?;
        if let Some(why) = self.answerers.unavailable(&self.outputs[number].topics[0]) {
            self.meters.asked(AskOutcome::Failed);
            return Err(AskError::Unavailable(why));
        }
        let now_ms = self.clock.unix_ms();
        let id = builder.id.take().unwrap_or_default();
        let mut envelope = self
            .envelope(number, builder, id, parent, now_ms)
            .map_err(AskError::Failed)?;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let end_ms = now_ms.saturating_add(within_ms);
        envelope.deadline_ms = Some(inherited_deadline_ms.map_or(end_ms, |it| it.min(end_ms)));
        let asked = Instant::now();
        let mut reply = self.transport.ask(envelope.into(), within).await;
        // The other service gives up at the deadline, too, and may be the first.
        if let Err(AskError::Failed(_)) = &reply
            && asked.elapsed() + DEADLINE_TOLERANCE >= within
        {
            reply = Err(AskError::Timeout(within));
        }
        self.meters.asked(match &reply {
            Ok(_) => AskOutcome::Ok,
            Err(AskError::Timeout(_)) => AskOutcome::Timeout,
            Err(_) => AskOutcome::Failed,
        });
        R::decode(&reply?).map_err(|error| AskError::Decode(error.to_string()))
    }
}
