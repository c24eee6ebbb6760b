//! The context of a handler: the handled message, the clock, and everything that a handler
//! may do.
//!
//! Holds emitted messages until the handler returns `Ok`; the host publishes them then.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::abandon_hooks::AbandonHook;
#[cfg(feature = "store")]
use super::entity::EntityWork;
use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::pending_emit::PendingEmit;
use super::pending_work::PendingWorkGuard;
use super::port::{Output, Request};
use super::publisher::Publisher;
use super::run_control::RunControl;
use crate::failure::Failure;
use crate::key::Key;
use crate::limits::Limit;
use crate::message::Message;
use crate::store::OpenStore;
use crate::transport::AskError;

/// The argument of every hook of a service: the handled message and the actions that a hook
/// may take.
///
/// ```
/// # use brickwork::prelude::*;
/// # const SHIPPED: Output<String> = Output::new("shipped");
/// async fn ship(order: u64, cx: &mut Context) -> Result<(), Failure> {
///     if cx.attempt() > 1 {
///         // This message was tried before: its effects must be idempotent.
///     }
///     cx.emit(&SHIPPED, format!("order {order}"))
/// }
/// ```
pub struct Context {
    pub(super) publisher: Arc<Publisher>,
    pub(super) control: Arc<RunControl>,
    pub(super) store: Option<Arc<OpenStore>>,
    /// The value of `share`, in a service that is written with `#[service]`.
    pub(super) shared_value: Option<Arc<dyn Any + Send + Sync>>,
    instance: u32,
    pub(super) work: Work,
    /// Key of the handled message.
    key: Option<Key>,
    /// Number of the input of the handled messages.
    pub(super) input: usize,
    /// End of the time that the hook has.
    deadline: Option<Instant>,
    /// Wall-clock time, read once per hook.
    now_ms: Cell<Option<u64>>,
    pub(crate) emits: RefCell<Vec<PendingEmit>>,
    /// Index of the message behind each value that a batch handler gets.
    pub(super) batch: Vec<usize>,
    /// Transactions of the handled messages, by message index.
    pub(super) transactions: RefCell<Vec<(usize, TxState)>>,
    /// The entity that handles the message.
    #[cfg(feature = "store")]
    pub(super) entity: Option<EntityWork>,
}

/// The work of an instance.
#[derive(Default)]
pub(crate) enum Work {
    /// No message: the instance starts, stops or waits.
    #[default]
    None,
    /// A message and its attempt.
    Message(Message, u32),
    /// Messages of a batch and their attempts.
    Batch(Vec<(Message, u32)>),
    Tick,
}

/// The state of a message's transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TxState {
    /// Submitted; its result is not known yet.
    Submitted,
    /// Committed, with the stored reply.
    Committed(Option<Bytes>),
    /// The inbox has the message from an earlier transaction, with the stored reply.
    AlreadyDone(Option<Bytes>),
}

impl Context {
    pub(crate) fn new(publisher: Arc<Publisher>, control: Arc<RunControl>, instance: u32) -> Self {
        Self {
            publisher,
            control,
            store: None,
            shared_value: None,
            instance,
            work: Work::None,
            key: None,
            input: 0,
            deadline: None,
            now_ms: Cell::default(),
            emits: RefCell::default(),
            batch: Vec::new(),
            transactions: RefCell::default(),
            #[cfg(feature = "store")]
            entity: None,
        }
    }

    /// Gives the service its open store.
    pub(crate) fn set_store(&mut self, store: Arc<OpenStore>) {
        self.store = Some(store);
    }

    /// Prepares the context for the next hook.
    pub(crate) fn start_work(&mut self, work: Work, input: usize, deadline: Instant) {
        self.work = work;
        self.key = None;
        self.input = input;
        self.deadline = Some(deadline);
        self.now_ms = Cell::default();
        self.emits.get_mut().clear();
        self.batch.clear();
        self.transactions.get_mut().clear();
        #[cfg(feature = "store")]
        {
            self.entity = None;
        }
    }

    /// Sets the key of the handled message.
    pub(crate) fn set_key(&mut self, key: Option<Key>) {
        self.key = key;
    }

    /// Sets the index of the message behind each value of a batch.
    pub(crate) fn set_batch(&mut self, messages: &[usize]) {
        self.batch.clear();
        self.batch.extend_from_slice(messages);
    }

    /// Returns the label of the service in the manifest.
    pub fn service(&self) -> &str {
        &self.publisher.label
    }

    /// Returns the name of the app.
    pub fn app(&self) -> &str {
        &self.publisher.app
    }

    /// Returns the number of this instance, from 0.
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// Returns the handled message; `None` in a tick, a batch, `start` and `stop`.
    pub fn message(&self) -> Option<&Message> {
        match &self.work {
            Work::Message(message, _) => Some(message),
            _ => None,
        }
    }

    /// Returns the message of a handler that handles one.
    pub(crate) fn handled_message(&self) -> &Message {
        match &self.work {
            Work::Message(message, _) => message,
            Work::None | Work::Batch(_) | Work::Tick => {
                unreachable!("the host starts this work with a message")
            }
        }
    }

    /// Returns the name of the input of the handled messages.
    pub(super) fn input_name(&self) -> Arc<str> {
        let input = self.publisher.inputs.get(self.input).cloned();
        input.unwrap_or_else(|| "".into())
    }

    /// Returns the attempt at the handled message, from 1; 1 if there is no message.
    pub fn attempt(&self) -> u32 {
        match &self.work {
            Work::Message(_, attempt) => *attempt,
            _ => 1,
        }
    }

    /// Returns the key of the handled message; `None` if the service has no
    /// [key](super::Service::KEY), and where there is no [`message`](Self::message).
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Returns the message behind the value at `index` of a batch, and its attempt.
    pub fn batch_message(&self, index: usize) -> Option<(&Message, u32)> {
        match &self.work {
            Work::Batch(messages) => {
                let (message, attempt) = messages.get(*self.batch.get(index)?)?;
                Some((message, *attempt))
            }
            Work::Message(message, attempt) if index == 0 => Some((message, *attempt)),
            _ => None,
        }
    }

    /// Returns the wall-clock time of the app. A test may set its own clock.
    pub fn now(&self) -> SystemTime {
        self.publisher.clock.now()
    }

    /// Returns the maximum size of a payload in bytes: `app.max_message`.
    pub fn payload_bytes_max(&self) -> usize {
        self.publisher.message_bytes_max
    }

    /// Returns a rate limit of the manifest. A config names it by a
    /// [`LimitName`](crate::config::LimitName), so that an unknown name is a mistake of the
    /// manifest.
    ///
    /// # Errors
    /// A [`Failure::reject`]: the manifest has no such limit.
    pub fn limit(&self, name: &str) -> Result<Limit, Failure> {
        let limit = self.publisher.limits.get(name).cloned();
        limit.ok_or_else(|| Failure::reject(format!("the manifest has no limit named {name:?}")))
    }

    /// Returns the time until this hook is cancelled; `None` outside of a hook.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Emits a message. The host publishes it when the handler returns `Ok`; if the handler
    /// fails, the message is discarded.
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
    /// A [`Failure::reject`] in these cases: the value can't be encoded or is larger than
    /// `app.max_message`; [`ports`](super::Service::ports) does not name this output; the
    /// message had its transaction already; or the hook is `start`, `stop` or a batch handler
    /// (use [`emit_for`](Context::emit_for) there).
    pub fn emit<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        if !self.batch.is_empty() {
            return Err(Failure::reject("a batch handler emits with emit_for"));
        }
        self.add_emit(output, value.into(), 0)
    }

    /// Emits a message that is delivered after `delay`. The delay survives a restart if the
    /// transport is durable.
    ///
    /// # Errors
    /// As [`emit`](Context::emit).
    pub fn emit_after<T: Payload>(
        &self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
        delay: Duration,
    ) -> Result<(), Failure> {
        self.emit(output, value.into().delay(delay))
    }

    /// Returns whether the manifest connects this output to a topic. Only an
    /// [optional output](super::Ports::optional_output) may be left out.
    pub fn is_wired<T>(&self, output: &Output<T>) -> bool {
        self.publisher.is_wired(output.name())
    }

    /// Emits a message for the value at `index` of a batch. The host publishes it if the
    /// outcome of that value is `Ok`.
    ///
    /// # Errors
    /// As [`emit`](Context::emit), and if the batch has no such value.
    pub fn emit_for<T: Payload>(
        &self,
        index: usize,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        let message = *self
            .batch
            .get(index)
            .ok_or_else(|| Failure::reject(format!("the batch has no value {index}")))?;
        self.add_emit(output, value.into(), message)
    }

    fn add_emit<T: Payload>(
        &self,
        output: &Output<T>,
        builder: MessageBuilder<T>,
        message: usize,
    ) -> Result<(), Failure> {
        if matches!(self.work, Work::None) {
            return Err(Failure::reject("nothing can be emitted in start or stop"));
        }
        if self.transaction(message).is_some() {
            return Err(Failure::reject(
                "the message has had its transaction: emit within that, with Tx::emit",
            ));
        }
        let emit = PendingEmit::new(
            &self.publisher,
            output.name(),
            builder,
            self.message_at(message),
            message,
            &self.emits.borrow(),
            self.now_ms(),
        )?;
        self.emits.borrow_mut().push(emit);
        Ok(())
    }

    pub(super) fn now_ms(&self) -> u64 {
        let now_ms = self.now_ms.get();
        let now_ms = now_ms.unwrap_or_else(|| self.publisher.clock.unix_ms());
        self.now_ms.set(Some(now_ms));
        now_ms
    }

    pub(super) fn message_at(&self, index: usize) -> Option<&Message> {
        match &self.work {
            Work::Message(message, _) => Some(message),
            Work::Batch(messages) => messages.get(index).map(|(message, _)| message),
            Work::Tick | Work::None => None,
        }
    }

    /// Returns whether any message of the last work fits.
    pub(crate) fn any_message(&self, fits: fn(&Message) -> bool) -> bool {
        match &self.work {
            Work::Message(message, _) => fits(message),
            Work::Batch(messages) => messages.iter().any(|(message, _)| fits(message)),
            Work::Tick | Work::None => false,
        }
    }

    /// Returns the state of a message's transaction, if it has one.
    pub(crate) fn transaction(&self, message: usize) -> Option<TxState> {
        let transactions = self.transactions.borrow();
        let mut transactions = transactions.iter();
        transactions.find_map(|(index, state)| (*index == message).then(|| state.clone()))
    }

    /// Sends a request to another service and waits for the reply.
    ///
    /// The request is sent at once, before this handler has succeeded. It carries the deadline
    /// of this handler, or that of the handled message if it is earlier: the other service drops
    /// a request whose deadline has passed.
    ///
    /// ```
    /// # use brickwork::prelude::*;
    /// const PRICE: Request<String, f64> = Request::new("price");
    /// async fn price_of(sku: &str, cx: &Context) -> Result<f64, Failure> {
    ///     Ok(cx.ask(&PRICE, sku.to_owned()).await?)
    /// }
    /// ```
    ///
    /// # Errors
    /// No reply before the deadline, the other service gave up, or the request can't be sent.
    pub async fn ask<M: Payload, R: Payload>(
        &self,
        request: &Request<M, R>,
        value: impl Into<MessageBuilder<M>>,
    ) -> Result<R, AskError> {
        let within = self.remaining().unwrap_or_default();
        let parent = self.message();
        self.publisher
            .ask(request, value.into(), within, parent, self.deadline_ms())
            .await
    }

    /// Returns the deadline of the handled message; of a batch, the latest one, if all have one.
    fn deadline_ms(&self) -> Option<u64> {
        match &self.work {
            Work::Message(message, _) => message.deadline_ms,
            Work::Batch(messages) => {
                let mut deadlines = messages.iter().map(|(message, _)| message.deadline_ms);
                let first = deadlines.next()??;
                deadlines.try_fold(first, |latest, it| Some(latest.max(it?)))
            }
            Work::None | Work::Tick => None,
        }
    }

    /// Pauses the service: none of its instances takes a message for this long. The handled
    /// messages are finished.
    pub fn pause(&self, duration: Duration) {
        self.control.pause(duration);
    }

    /// Registers cleanup for an abandoned thread: if a handler blocks this thread for too
    /// long, the service restarts on another thread, and `hook` runs there. Use it to release
    /// things that must exist once, such as a port or a child process: nothing on the blocked
    /// thread is dropped.
    ///
    /// The hook is removed when the returned value is dropped.
    pub fn on_abandoned(&self, hook: impl FnOnce() + Send + 'static) -> AbandonHook {
        self.control.abandon_hooks.add(Box::new(hook))
    }

    /// Marks work as pending that this service will do by itself, for example in a tick. An
    /// app that runs until it is idle waits until the returned value is dropped.
    pub fn scheduled(&self) -> PendingWorkGuard {
        self.control.pending_work.add()
    }

    /// Returns the value of type `T` that all instances of this service share. The first
    /// caller makes it with `make`, others wait.
    ///
    /// # Errors
    /// The error of `make`; the next caller tries again.
    pub async fn shared<T, F>(&self, make: F) -> Result<Arc<T>, Failure>
    where
        T: Send + Sync + 'static,
        F: AsyncFnOnce() -> Result<T, Failure>,
    {
        self.control.shared.get(make).await
    }
}
