//! The outlet: how a source sends.
//!
//! Owns the bound on what is in flight and the wait while the app is under pressure.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Output, Payload, Request};
use crate::failure::Failure;
use crate::host::position::Positions;
use crate::host::{AbandonHook, RunNumber, ServiceRun};
use crate::id::MessageId;
use crate::message::{Envelope, ReplyTo};
use crate::transport::{AskError, Completion, TransportError};

/// A message to be: a value, and what else is to be said of it.
#[derive(Debug, Clone)]
pub struct MessageBuilder<T> {
    pub(crate) value: T,
    pub(crate) id: Option<MessageId>,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) subject: Option<Arc<str>>,
    pub(crate) headers: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) delay: Duration,
    pub(crate) reply_to: Option<ReplyTo>,
}

impl<T> MessageBuilder<T> {
    /// Nothing but the value.
    pub fn new(value: T) -> Self {
        Self {
            value,
            id: None,
            kind: None,
            subject: None,
            headers: Vec::new(),
            delay: Duration::ZERO,
            reply_to: None,
        }
    }

    /// With an id of the sender's. A source whose messages can come again gives them
    /// stable ids. Ignored in what handlers emit: ids of outputs are derived.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// With a message type, instead of the payload's.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<Arc<str>>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// With a subject: what it is about.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// To be delivered after a while.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl<T: Payload> From<T> for MessageBuilder<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// Sends messages for a source. Clones share the bound on what is in flight.
#[derive(Clone)]
pub struct SourceContext {
    env: Arc<ServiceRun>,
    window: Arc<Semaphore>,
    in_flight: usize,
    run: RunNumber,
    /// Set when this run of the source is to end; also when the whole service is.
    stop: watch::Receiver<bool>,
}

/// Why a message can't be handed over at once.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrySubmitError {
    /// The app is under pressure: some queue is too full.
    #[error("the app is under pressure")]
    Paused,
    /// As many messages are in flight as may be.
    #[error("too many messages are in flight")]
    Full,
    /// The source is to stop.
    #[error("the source is stopping")]
    Stopping,
    /// The value can't be encoded, or is too large.
    #[error("{0}")]
    Refused(Failure),
}

/// A message with the number of its output.
struct Prepared {
    number: usize,
    envelope: Envelope,
    delay: Duration,
}

/// A message that was handed to the transport: resolves when it has been taken over.
pub struct SendHandle(BoxFuture<'static, Result<(), TransportError>>);

impl Future for SendHandle {
    type Output = Result<(), TransportError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}

impl SourceContext {
    pub(crate) fn new(env: Arc<ServiceRun>, in_flight: usize, stop: watch::Receiver<bool>) -> Self {
        Self {
            run: env.begin_run(),
            env,
            window: Arc::new(Semaphore::new(in_flight)),
            in_flight,
            stop,
        }
    }

    /// Sends a message and waits until the transport has taken it over.
    ///
    /// # Errors
    /// It wasn't taken over, the value can't be encoded or is too large, or the source
    /// is to stop. Sending it again, with the same id, is right.
    pub async fn send<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        Ok(self.submit(output, value).await?.await?)
    }

    /// Hands a message to the transport and returns a ticket that resolves when it has
    /// been taken over; waits only while too many are in flight or the app is under
    /// pressure. Messages arrive in the order in which they were submitted.
    ///
    /// # Errors
    /// The value can't be encoded or is too large, or the source is to stop.
    pub async fn submit<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<SendHandle, Failure> {
        let prepared = self.prepare(output, value.into())?;
        if self.env.pressure.is_high() {
            self.or_stop(self.env.pressure.clear()).await?;
        }
        let permit = match self.window.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self
                .or_stop(self.window.clone().acquire_owned())
                .await?
                .expect("the window is never closed"),
        };
        if self.is_stopping() {
            return Err(stopping());
        }
        Ok(self.hand_over(prepared, permit))
    }

    /// Like [`submit`](Self::submit), but never waits: for a source whose senders can be
    /// told to come again.
    ///
    /// # Errors
    /// It would have to wait, the value can't be encoded or is too large, or the source
    /// is to stop.
    pub fn try_submit<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<SendHandle, TrySubmitError> {
        if self.is_stopping() {
            return Err(TrySubmitError::Stopping);
        }
        if self.is_paused() {
            return Err(TrySubmitError::Paused);
        }
        let permit = self.window.clone().try_acquire_owned();
        let permit = permit.map_err(|_| TrySubmitError::Full)?;
        let prepared = self.prepare(output, value.into());
        Ok(self.hand_over(prepared.map_err(TrySubmitError::Refused)?, permit))
    }

    fn prepare<T: Payload>(
        &self,
        output: &Output<T>,
        mut draft: MessageBuilder<T>,
    ) -> Result<Prepared, Failure> {
        let number = self.env.output(output.name())?;
        let id = draft.id.take().unwrap_or_default();
        let delay = draft.delay;
        let now_ms = self.env.clock.unix_ms();
        let envelope = self
            .env
            .envelope(number, draft, id, None, now_ms)
            .map_err(Failure::reject)?;
        Ok(Prepared {
            number,
            envelope,
            delay,
        })
    }

    fn hand_over(&self, prepared: Prepared, permit: OwnedSemaphorePermit) -> SendHandle {
        let Prepared {
            number,
            envelope,
            delay,
        } = prepared;
        let batch = self.env.outgoing(number, envelope, delay);
        let copies = batch.len() as u64;
        let (completion, confirmed) = Completion::channel();
        let env = self.env.clone();
        let done = Completion::new(move |outcome| {
            match &outcome {
                Ok(()) => env.meters.emitted(number, copies),
                // The message can't be published, ever: the source's mistake.
                Err(error) if error.is_permanent() => {}
                Err(_) => env.was_not_taken(),
            }
            drop(permit);
            completion.complete(outcome);
        });
        self.env.publish(batch, done);
        SendHandle(confirmed.boxed())
    }

    /// Asks a service and waits for its answer, at most `within`.
    ///
    /// # Errors
    /// No answer in time, or the other side gave up, or it can't be sent.
    pub async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        value: impl Into<MessageBuilder<M>>,
        within: Duration,
    ) -> Result<R, AskError> {
        self.env.ask(request, value.into(), within, None).await
    }

    /// Waits until everything that was submitted is confirmed or has failed.
    pub async fn settled(&self) {
        let all = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        let _all = self.window.acquire_many(all).await;
    }

    /// Whether the app is under pressure, so that sending would wait.
    pub fn is_paused(&self) -> bool {
        self.env.pressure.is_high()
    }

    /// The largest payload that a message may have, in bytes: `app.max_message`.
    pub fn payload_bytes_max(&self) -> usize {
        self.env.message_bytes_max
    }

    /// Whether the source is to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.env.is_closing()
    }

    /// Resolves when the source is to stop.
    pub async fn stopping(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            // A sender that is gone means that this run of the source is over.
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.env.closed() => {}
        }
    }

    /// Waits for something, but not longer than the source may run.
    ///
    /// # Errors
    /// The source is to stop.
    pub async fn or_stop<F: Future>(&self, future: F) -> Result<F::Output, Failure> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.stopping() => Err(stopping()),
        }
    }

    /// Says what is to be done, from another thread, should a handler block this one for so
    /// long that it is given up: the service then begins anew elsewhere, while nothing here
    /// is dropped. For what must not be there twice: a port, a program that was started.
    ///
    /// It holds for as long as what is returned lives.
    pub fn on_abandoned(&self, hook: impl FnOnce() + Send + 'static) -> AbandonHook {
        self.env.on_abandoned(hook)
    }

    /// The service's label in the manifest.
    pub fn service(&self) -> &str {
        &self.env.label
    }

    /// The wall-clock time.
    pub fn now(&self) -> SystemTime {
        self.env.clock.now()
    }

    /// Whether positions are kept: only where what was sent outlives this process too.
    pub fn keeps_position(&self) -> bool {
        self.env.transport.guarantees().durable
    }

    /// The position that was saved last, if positions are kept and there is one.
    ///
    /// # Errors
    /// It is another app's, can't be read, or isn't such a value.
    pub fn position<P: DeserializeOwned>(&self) -> Result<Option<P>, Failure> {
        if !self.keeps_position() {
            return Ok(None);
        }
        let positions = Positions::of(&self.env.data, &self.env.app);
        Ok(positions.load(&self.env.label)?)
    }

    /// Saves the position durably: after everything before it was taken over, never
    /// sooner. Does nothing where positions aren't kept.
    ///
    /// # Errors
    /// It can't be written. Or this run of the source is over: its thread was given up, or
    /// another run has begun since, which saves its own.
    pub async fn save_position<P: Serialize>(&self, value: &P) -> Result<(), Failure> {
        if self.keeps_position() {
            let bytes = serde_json::to_vec(value)?;
            let (env, save) = (self.env.clone(), self.env.ask_to_save(self.run));
            tokio::task::spawn_blocking(move || env.save_position(save, &bytes)).await??;
        }
        Ok(())
    }
}

fn stopping() -> Failure {
    Failure::retry("the source is stopping")
}
