//! The context of a source: sends messages, with a bound on unconfirmed ones and a wait while
//! the app is under backpressure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::abandon_hooks::AbandonHook;
use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::port::{Output, Request};
use super::publisher::Publisher;
use super::run_control::RunControl;
use crate::failure::Failure;
use crate::message::Envelope;
use crate::position::{RunNumber, SourcePosition};
use crate::transport::{AskError, Completion, TransportError};

/// The argument of [`Source::run`](crate::Source::run): sends messages and keeps the position.
///
/// Clones share the bound on messages in flight.
///
/// ```
/// use brickwork::prelude::*;
///
/// const LINES: Output<String> = Output::new("lines");
///
/// async fn send_lines(lines: Vec<String>, out: &mut SourceContext) -> Result<(), Failure> {
///     let sent: usize = out.position()?.unwrap_or(0);
///     for (number, line) in lines.into_iter().enumerate().skip(sent) {
///         out.send(&LINES, line).await?;
///         out.save_position(&(number + 1)).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct SourceContext {
    publisher: Arc<Publisher>,
    control: Arc<RunControl>,
    position: Arc<SourcePosition>,
    /// A permit for each message that may be in flight.
    window: Arc<Semaphore>,
    in_flight_max: usize,
    run: RunNumber,
    /// Set when this run of the source is to end, for example because its lease is lost.
    stop: watch::Receiver<bool>,
    standby_since: Option<SystemTime>,
}

/// The reason why [`SourceContext::try_submit`] can't submit a message now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrySubmitError {
    /// The source is under backpressure: a queue that its messages can reach is too full, or the
    /// transport is down. The text has the reasons.
    #[error("{0}")]
    Paused(String),
    /// The maximum number of messages is in flight.
    #[error("too many messages are in flight")]
    Full,
    /// The source is stopping.
    #[error("the source is stopping")]
    Stopping,
    /// The value can't be encoded or is too large.
    #[error("{0}")]
    Refused(Failure),
}

/// A message with the number of its output.
struct Prepared {
    output: usize,
    envelope: Envelope,
    delay: Duration,
}

/// A submitted message: resolves when the transport has confirmed or refused it.
///
/// Dropping the handle does not cancel the message.
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
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        control: Arc<RunControl>,
        position: Arc<SourcePosition>,
        in_flight_max: usize,
        stop: watch::Receiver<bool>,
        standby_since: Option<SystemTime>,
    ) -> Self {
        Self {
            run: position.start_run(|| control.is_revoked()),
            publisher,
            control,
            position,
            window: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            stop,
            standby_since,
        }
    }

    /// Sends a message and waits until the transport has confirmed it.
    ///
    /// # Errors
    /// The transport refused the message, the value can't be encoded or is too large, or the
    /// source is stopping. The source may send the message again with the same id.
    pub async fn send<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        Ok(self.submit(output, value).await?.await?)
    }

    /// Submits a message and returns a handle that resolves when the transport has confirmed
    /// it. Waits while too many messages are in flight and while the source is under
    /// backpressure. Messages arrive in the order in which they were submitted.
    ///
    /// # Errors
    /// The value can't be encoded or is too large, or the source is stopping.
    pub async fn submit<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<SendHandle, Failure> {
        let prepared = self.prepare(output, value.into())?;
        if self.publisher.pressure.is_high() {
            self.or_stop(self.publisher.pressure.clear()).await?;
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
        Ok(self.publish(prepared, permit))
    }

    /// Submits a message like [`submit`](Self::submit), but never waits. For a source that can
    /// tell its own sender to try again later.
    ///
    /// # Errors
    /// The call would have to wait, the value can't be encoded or is too large, or the source
    /// is stopping.
    pub fn try_submit<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<SendHandle, TrySubmitError> {
        if self.is_stopping() {
            return Err(TrySubmitError::Stopping);
        }
        if let Some(reasons) = self.paused_because() {
            return Err(TrySubmitError::Paused(reasons));
        }
        let permit = self.window.clone().try_acquire_owned();
        let permit = permit.map_err(|_| TrySubmitError::Full)?;
        let prepared = self.prepare(output, value.into());
        Ok(self.publish(prepared.map_err(TrySubmitError::Refused)?, permit))
    }

    fn prepare<T: Payload>(
        &self,
        output: &Output<T>,
        mut builder: MessageBuilder<T>,
    ) -> Result<Prepared, Failure> {
        let output = self.publisher.output(output.name())?;
        let id = builder.id.take().unwrap_or_default();
        let delay = builder.delay;
        let now_ms = self.publisher.clock.unix_ms();
        let envelope = self
            .publisher
            .envelope(output, builder, id, None, now_ms)
            .map_err(Failure::reject)?;
        Ok(Prepared {
            output,
            envelope,
            delay,
        })
    }

    fn publish(&self, prepared: Prepared, permit: OwnedSemaphorePermit) -> SendHandle {
        let Prepared {
            output,
            envelope,
            delay,
        } = prepared;
        self.position.repeats().submitted();
        let batch = self.publisher.outgoing(output, envelope, delay);
        let copies = batch.len() as u64;
        let (completion, confirmed) = Completion::channel();
        let (publisher, control) = (self.publisher.clone(), self.control.clone());
        let done = Completion::new(move |outcome| {
            match &outcome {
                Ok(()) => publisher.meters.emitted(output, copies),
                // A message that can never be published is the source's mistake.
                Err(error) if error.is_permanent() => {}
                Err(_) => control.count_publish_failure(),
            }
            drop(permit);
            completion.complete(outcome);
        });
        self.publisher.publish(batch, done);
        SendHandle(confirmed.boxed())
    }

    /// Sends a request to a service and waits for the reply, at most `within`.
    ///
    /// # Errors
    /// No reply in time, the service gave up, or the request can't be sent.
    pub async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        value: impl Into<MessageBuilder<M>>,
        within: Duration,
    ) -> Result<R, AskError> {
        self.publisher
            .ask(request, value.into(), within, None, None)
            .await
    }

    /// Waits until the transport has confirmed or refused every submitted message.
    pub async fn settled(&self) {
        let all = u32::try_from(self.in_flight_max).unwrap_or(u32::MAX);
        let _all = self.window.acquire_many(all).await;
    }

    /// Returns whether the source is under backpressure, so that sending would wait.
    pub fn is_paused(&self) -> bool {
        self.publisher.pressure.is_high()
    }

    /// Returns the reasons of the backpressure: each queue that is too full, with its depth, its
    /// high-water mark and the time since when, or that the transport is down. `None` if sending
    /// would not wait.
    pub fn paused_because(&self) -> Option<String> {
        let reasons = self.publisher.pressure.reasons();
        let texts: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Returns the maximum size of a payload in bytes: `app.max_message`.
    pub fn payload_bytes_max(&self) -> usize {
        self.publisher.message_bytes_max
    }

    /// Returns whether the source is to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.control.is_closing()
    }

    /// Resolves when the source is to stop.
    pub async fn stopping(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            // An error means that the sender is gone: this run of the source is over.
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.control.closed() => {}
        }
    }

    /// Waits for a future until the source is to stop.
    ///
    /// # Errors
    /// The source is to stop; the future was dropped.
    pub async fn or_stop<F: Future>(&self, future: F) -> Result<F::Output, Failure> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.stopping() => Err(stopping()),
        }
    }

    /// Registers cleanup for an abandoned thread, like
    /// [`Context::on_abandoned`](crate::Context::on_abandoned).
    pub fn on_abandoned(&self, hook: impl FnOnce() + Send + 'static) -> AbandonHook {
        self.control.abandon_hooks.add(Box::new(hook))
    }

    /// Returns the label of the service in the manifest.
    pub fn service(&self) -> &str {
        &self.publisher.label
    }

    /// Returns the folder for files of the source: `files` and its label, in the app's data folder.
    /// The source makes it when it needs it.
    pub fn files(&self) -> PathBuf {
        self.position.files()
    }

    /// Returns the wall-clock time of the app. A test may set its own clock.
    pub fn now(&self) -> SystemTime {
        self.publisher.clock.now()
    }

    /// Returns the time since when this process stood by, if this run takes over from another
    /// process. The saved position, if there is any, is that of an earlier run here.
    pub fn standby_since(&self) -> Option<SystemTime> {
        self.standby_since
    }

    /// Returns whether positions are kept: only if the transport is durable, so that sent
    /// messages outlive this process too.
    pub fn keeps_position(&self) -> bool {
        self.publisher.transport.guarantees().durable
    }

    /// Returns the last saved position; `None` if none was saved or positions aren't kept.
    ///
    /// # Errors
    /// The position belongs to another app, or can't be read or parsed as `P`.
    pub fn position<P: DeserializeOwned>(&self) -> Result<Option<P>, Failure> {
        if !self.keeps_position() {
            return Ok(None);
        }
        Ok(self.position.load()?)
    }

    /// Saves the position durably. Call it only after every message before the position was
    /// confirmed. Does nothing if positions aren't kept.
    ///
    /// # Errors
    /// The position can't be written. Or this run of the source is over: its thread was
    /// abandoned, or a newer run has started, which saves its own position.
    pub async fn save_position<P: Serialize>(&self, value: &P) -> Result<(), Failure> {
        if self.keeps_position() {
            let bytes = serde_json::to_vec(value)?;
            let request = self.position.request_save(self.run);
            let in_flight = self.in_flight_max - self.window.available_permits();
            let covers = self.position.repeats().covers(in_flight);
            let (position, control) = (self.position.clone(), self.control.clone());
            let save = move || {
                position.save(request, || control.is_revoked(), &bytes)?;
                position.repeats().saved(covers);
                Ok::<(), std::io::Error>(())
            };
            tokio::task::spawn_blocking(save).await??;
        }
        Ok(())
    }
}

fn stopping() -> Failure {
    Failure::retry("the source is stopping")
}
