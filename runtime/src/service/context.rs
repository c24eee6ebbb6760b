//! The context: what a handler sees of the world while it works.
//!
//! Owns the outputs that are held until the handler returns `Ok`. Publishing them is
//! the host's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{MessageBuilder, Output, Payload, Request};
use crate::failure::Failure;
use crate::host::{AbandonHook, PendingWorkGuard, ServiceRun};
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::store::{Store, Stored, TxInput, TxResult};
use crate::transport::AskError;

/// Lent to every hook of a service.
pub struct Context {
    env: Arc<ServiceRun>,
    instance: u32,
    pub(crate) work: Work,
    pub(crate) held: Vec<PendingEmit>,
    /// When the handler must be done.
    pub(crate) deadline: Option<Instant>,
    /// The wall clock, read once for each piece of work.
    now_ms: Option<u64>,
    /// Which message of the batch each value that the handler sees came from.
    places: Vec<usize>,
    /// The number of the input that the work came in by.
    pub(crate) input: usize,
    /// How far the transactions of messages are, by their places.
    stored: Vec<(usize, Stored)>,
}

/// What the instance is doing.
#[derive(Default)]
pub(crate) enum Work {
    /// Starting, stopping, waiting.
    #[default]
    None,
    Message(Message, u32),
    Batch(Vec<(Message, u32)>),
    Tick,
}

/// An output that waits for the handler to succeed.
pub(crate) struct PendingEmit {
    pub(crate) output: usize,
    /// Which message of a batch led to it.
    pub(crate) place: usize,
    /// Its number among the outputs of that message on this port.
    index: u32,
    pub(crate) delay: Duration,
    pub(crate) envelope: Envelope,
}

impl PendingEmit {
    /// What a handler emits; `earlier` is what it has emitted before.
    pub(crate) fn make<T: Payload>(
        env: &ServiceRun,
        output: &str,
        draft: MessageBuilder<T>,
        parent: Option<&Message>,
        place: usize,
        earlier: &[Self],
        now_ms: u64,
    ) -> Result<Self, Failure> {
        let number = env.output(output)?;
        let before = earlier.iter().rev();
        let index = before
            .filter(|held| held.output == number && held.place == place)
            .map(|held| held.index + 1)
            .next()
            .unwrap_or(0);
        let delay = draft.delay;
        let id = match parent {
            Some(parent) => parent.id.child(&env.label, output, index),
            None => MessageId::new(),
        };
        let envelope = env
            .envelope(number, draft, id, parent, now_ms)
            .map_err(Failure::reject)?;
        Ok(Self {
            output: number,
            place,
            index,
            delay,
            envelope,
        })
    }
}

impl Context {
    pub(crate) fn new(env: Arc<ServiceRun>, instance: u32) -> Self {
        Self {
            env,
            instance,
            work: Work::None,
            held: Vec::new(),
            deadline: None,
            now_ms: None,
            places: Vec::new(),
            input: 0,
            stored: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self, work: Work) {
        self.stored.clear();
        self.work = work;
        self.held.clear();
        self.now_ms = None;
        self.deadline = None;
        self.places.clear();
    }

    pub(crate) fn set_batch_places(&mut self, places: &[usize]) {
        self.places.clear();
        self.places.extend_from_slice(places);
    }

    /// The service's label in the manifest.
    pub fn service(&self) -> &str {
        &self.env.label
    }

    /// The app's name.
    pub fn app(&self) -> &str {
        &self.env.app
    }

    /// The number of this instance, from 0.
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// The message in hand; `None` in a tick, a batch, start and stop.
    pub fn message(&self) -> Option<&Message> {
        match &self.work {
            Work::Message(message, _) => Some(message),
            _ => None,
        }
    }

    /// Which attempt at the message in hand this is, from 1.
    pub fn attempt(&self) -> u32 {
        match &self.work {
            Work::Message(_, attempt) => *attempt,
            _ => 1,
        }
    }

    /// The message behind the `index`-th value of a batch, and which attempt it is.
    pub fn batch_message(&self, index: usize) -> Option<(&Message, u32)> {
        match &self.work {
            Work::Batch(messages) => {
                let (message, attempt) = messages.get(*self.places.get(index)?)?;
                Some((message, *attempt))
            }
            Work::Message(message, attempt) if index == 0 => Some((message, *attempt)),
            _ => None,
        }
    }

    /// The wall-clock time, as this app has it (a test may have its own).
    pub fn now(&self) -> SystemTime {
        self.env.clock.now()
    }

    /// The largest payload that a message may have, in bytes: `app.max_message`.
    pub fn payload_bytes_max(&self) -> usize {
        self.env.message_bytes_max
    }

    /// How much time is left before this handler is cancelled; `None` outside of one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Emits a message, to be published when the handler returns `Ok`.
    ///
    /// ```
    /// # use brickwork::prelude::*;
    /// const DONE: Output<String> = Output::new("done");
    /// fn finish(cx: &mut Context) -> Result<(), Failure> {
    ///     cx.emit(&DONE, "well".to_owned())
    /// }
    /// ```
    ///
    /// # Errors
    /// A [`Failure::reject`] if the value can't be encoded or is larger than
    /// `app.max_message`, if [`ports`](super::Service::ports) didn't name this output, or
    /// in a batch handler (use [`emit_for`](Context::emit_for)), in start and in stop.
    pub fn emit<T: Payload>(
        &mut self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        if !self.places.is_empty() {
            return Err(Failure::reject("a batch handler emits with emit_for"));
        }
        self.hold(output, value.into(), 0)
    }

    /// Emits a message that is delivered after `delay`, durably where the transport is.
    ///
    /// # Errors
    /// As [`emit`](Context::emit).
    pub fn emit_after<T: Payload>(
        &mut self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
        delay: Duration,
    ) -> Result<(), Failure> {
        self.emit(output, value.into().after(delay))
    }

    /// Emits a message on behalf of the `index`-th value of a batch: it is published if
    /// the outcome for that one is `Ok`.
    ///
    /// # Errors
    /// As [`emit`](Context::emit), and if there is no such value.
    pub fn emit_for<T: Payload>(
        &mut self,
        index: usize,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        let place = *self
            .places
            .get(index)
            .ok_or_else(|| Failure::reject(format!("the batch has no value {index}")))?;
        self.hold(output, value.into(), place)
    }

    fn hold<T: Payload>(
        &mut self,
        output: &Output<T>,
        draft: MessageBuilder<T>,
        place: usize,
    ) -> Result<(), Failure> {
        if matches!(self.work, Work::None) {
            return Err(Failure::reject("nothing can be emitted in start or stop"));
        }
        if self.stored.iter().any(|(stored, _)| *stored == place) {
            return Err(Failure::reject(
                "the message has had its transaction: emit within that, with Tx::emit",
            ));
        }
        let now_ms = self.now_ms();
        let held = PendingEmit::make(
            &self.env,
            output.name(),
            draft,
            self.message_at(place),
            place,
            &self.held,
            now_ms,
        )?;
        self.held.push(held);
        Ok(())
    }

    fn now_ms(&mut self) -> u64 {
        *self.now_ms.get_or_insert_with(|| self.env.clock.unix_ms())
    }

    fn message_at(&self, place: usize) -> Option<&Message> {
        match &self.work {
            Work::Message(message, _) => Some(message),
            Work::Batch(messages) => messages.get(place).map(|(message, _)| message),
            Work::Tick | Work::None => None,
        }
    }

    /// The service's own database, for the message in hand: for services that have
    /// `store = true` in the manifest.
    ///
    /// # Errors
    /// A [`Failure::reject`] if the service has none.
    pub fn store(&mut self) -> Result<Store<'_>, Failure> {
        match self.env.store() {
            Some(opened) => Ok(Store::new(opened, self)),
            None => Err(Failure::reject(format!(
                "the service has no store: set services.{}.store = true in the manifest",
                self.env.label
            ))),
        }
    }

    /// How many values the batch handler has; 0 outside of one.
    pub(crate) fn batch_len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn batch_place(&self, index: usize) -> Option<usize> {
        match (&self.work, self.places.get(index)) {
            (Work::Batch(_) | Work::Message(..), Some(place)) => Some(*place),
            _ => None,
        }
    }

    /// What goes into the transaction of the message at a place.
    pub(crate) fn begin_transaction(&mut self, place: usize) -> Result<TxInput, Failure> {
        if self.stored.iter().any(|(stored, _)| *stored == place) {
            return Err(Failure::reject("a message has one transaction"));
        }
        let now_ms = self.now_ms();
        let held = self.held.extract_if(.., |held| held.place == place);
        let held = held.collect();
        if !matches!(self.work, Work::None | Work::Tick) {
            self.stored.push((place, Stored::Begun));
        }
        let input = self.env.inputs.get(self.input).cloned();
        Ok(TxInput {
            message: self.message_at(place).cloned(),
            env: self.env.clone(),
            input: input.unwrap_or_else(|| "".into()),
            place,
            held,
            emits: !matches!(self.work, Work::None),
            now_ms,
            reply: None,
        })
    }

    pub(crate) fn end_transaction<R>(
        &mut self,
        place: usize,
        answer: TxResult<R>,
    ) -> Result<R, Failure> {
        let begun = self.stored.iter().position(|(stored, _)| *stored == place);
        let (stored, result) = match answer {
            TxResult::Done(value, reply) => (Some(Stored::Done(reply)), Ok(value)),
            TxResult::Before(reply) => {
                let failure = Failure::defer(Duration::ZERO, "the message was done before");
                (Some(Stored::Before(reply)), Err(failure))
            }
            TxResult::NoRoom => (None, Err(self.env.outbox_is_full())),
            TxResult::Failed(failure) => (None, Err(failure)),
        };
        if let Some(begun) = begun {
            match stored {
                Some(stored) => self.stored[begun].1 = stored,
                None => drop(self.stored.swap_remove(begun)),
            }
        }
        result
    }

    /// How far the transaction of the message at a place is, if there is one.
    pub(crate) fn stored(&self, place: usize) -> Option<&Stored> {
        let mut stored = self.stored.iter();
        stored.find_map(|(at, stored)| (*at == place).then_some(stored))
    }

    /// Asks another service and waits for its answer.
    ///
    /// The question carries the deadline of the message in hand: nobody works on it
    /// when nobody waits any more. It is sent at once, not held until this handler
    /// succeeds.
    ///
    /// # Errors
    /// No answer in time, or the other side gave up, or it can't be sent.
    pub async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        value: impl Into<MessageBuilder<M>>,
    ) -> Result<R, AskError> {
        let within = self
            .remaining()
            .unwrap_or(self.env.settings.handler_timeout);
        let parent = self.message();
        self.env.ask(request, value.into(), within, parent).await
    }

    /// Stops taking messages for this long, for all instances of this service.
    pub fn pause(&mut self, duration: Duration) {
        self.env.pause(duration);
    }

    /// Says what is to be done, from another thread, should a handler block this one for so
    /// long that it is given up: the service then begins anew elsewhere, while nothing here
    /// is dropped. For what must not be there twice: a port, a program that was started.
    ///
    /// It holds for as long as what is returned lives.
    pub fn on_abandoned(&self, hook: impl FnOnce() + Send + 'static) -> AbandonHook {
        self.env.on_abandoned(hook)
    }

    /// Says that this service will do something later of its own accord, as on a tick: an
    /// app that runs until it is idle waits for it, as long as what is returned lives.
    pub fn scheduled(&self) -> PendingWorkGuard {
        self.env.schedule.add()
    }

    /// What the instances of this service share: made by the first that needs it.
    ///
    /// # Errors
    /// What `make` returns; the next one who asks tries again.
    pub async fn shared<T, F>(&self, make: F) -> Result<Arc<T>, Failure>
    where
        T: Send + Sync + 'static,
        F: AsyncFnOnce() -> Result<T, Failure>,
    {
        self.env.shared.get(make).await
    }
}
