//! The ports of a service type: a builder for users, and a table for the host.

use std::any::TypeId;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use schemars::{Schema, SchemaGenerator};

use super::context::Context;
use super::payload::Payload;
use super::port::{Output, Request, Tick};
use crate::failure::Failure;
use crate::message::Message;

/// The payload of a reply.
pub(crate) type Reply = Bytes;

/// One outcome for each message of a batch.
pub(crate) type BatchResults = Vec<Result<(), Failure>>;

/// Declares the ports of a service type in [`Service::ports`](super::Service::ports).
pub struct Ports<S> {
    pub(super) table: PortTable,
    pub(super) handlers: Vec<Handler<S>>,
}

/// Limits of a batch: it is handled when either of them is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Maximum messages per batch.
    pub max: usize,
    /// Maximum wait after the first message of the batch.
    pub within: Duration,
}

pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The ports of one configured service.
#[derive(Default)]
pub(crate) struct PortTable {
    pub(crate) inputs: Vec<InputSpec>,
    pub(crate) outputs: Vec<OutputSpec>,
    pub(crate) ticks: Vec<TickSpec>,
}

pub(crate) struct InputSpec {
    pub(crate) name: Arc<str>,
    pub(crate) schema: SchemaOf,
    pub(crate) reply: Option<SchemaOf>,
    pub(crate) batch: Option<Batch>,
    /// Its messages go before those of other inputs.
    pub(crate) first: bool,
    /// Whether only the service itself sends to it: reminders of entities.
    pub(crate) internal: bool,
}

/// An output; a request if it has a reply.
pub(crate) struct OutputSpec {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) schema: SchemaOf,
    pub(crate) reply: Option<SchemaOf>,
    /// Whether it is a request whose reply has a value. `()` only says that it was handled.
    pub(crate) awaits_value: bool,
    /// Whether a manifest may leave it out.
    pub(crate) optional: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct TickSpec {
    pub(crate) tick: Tick,
    pub(crate) interval: Duration,
}

/// The handler of an input, with the type of its messages erased.
pub(super) enum Handler<S> {
    One(HandleOne<S>),
    Batch(HandleMany<S>),
}

type HandleOne<S> =
    for<'a> fn(&'a mut S, &'a mut Context) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>>;

type HandleMany<S> =
    for<'a> fn(&'a mut S, &'a [Message], &'a mut Context) -> LocalBoxFuture<'a, BatchResults>;

impl<S: 'static> Ports<S> {
    pub(super) fn new() -> Self {
        Self {
            table: PortTable::default(),
            handlers: Vec::new(),
        }
    }

    /// Lets the messages of the input that was declared last go before those of other inputs: for
    /// control messages, such as a stop, that must not wait behind work. It has room of its own
    /// in the mailbox. While other messages wait, one of them is handled after every eight.
    ///
    /// ```
    /// # use brickwork::prelude::*;
    /// # struct Sender;
    /// const CONTROL: Input<String> = Input::new("control");
    /// const MAILS: Input<String> = Input::new("mails");
    /// # impl Handle<String> for Sender {
    /// #     async fn handle(&mut self, _: String, _: &mut Context) -> Result<(), Failure> { Ok(()) }
    /// # }
    /// # impl Service for Sender {
    /// #     const NAME: &'static str = "sender";
    /// #     type Config = NoConfig;
    /// #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
    /// fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
    ///     ports.input(&CONTROL).first().input(&MAILS);
    /// }
    /// # }
    /// ```
    ///
    /// # Panics
    /// No input was declared before.
    pub fn first(&mut self) -> &mut Self {
        let input = self.table.inputs.last_mut();
        input.expect("an input is declared before `first`").first = true;
        self
    }

    /// Adds an output.
    pub fn output<M: Payload>(&mut self, output: &Output<M>) -> &mut Self {
        self.table.output(output);
        self
    }

    /// Adds an output that a manifest may leave out. The service asks
    /// [`is_wired`](Context::is_wired) before it emits there.
    ///
    /// ```
    /// # use brickwork::prelude::*;
    /// # struct Check;
    /// const OUT: Output<String> = Output::new("out");
    /// const INVALID: Output<String> = Output::new("invalid");
    /// # impl Service for Check {
    /// #     const NAME: &'static str = "check";
    /// #     type Config = NoConfig;
    /// #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
    /// fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
    ///     ports.output(&OUT).optional_output(&INVALID);
    /// }
    /// # }
    /// fn invalid(text: String, cx: &Context) -> Result<(), Failure> {
    ///     match cx.is_wired(&INVALID) {
    ///         true => cx.emit(&INVALID, text),
    ///         false => Err(Failure::reject("the text is not valid")),
    ///     }
    /// }
    /// ```
    pub fn optional_output<M: Payload>(&mut self, output: &Output<M>) -> &mut Self {
        self.table.output(output);
        if let Some(output) = self.table.outputs.last_mut() {
            output.optional = true;
        }
        self
    }

    /// Adds an output for requests, which another service answers.
    pub fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) -> &mut Self {
        self.table.request(request);
        self
    }

    /// Adds a tick, which runs in every instance at this interval (at least 1 ms). A tick that
    /// is due while the previous one still waits is skipped.
    pub fn tick(&mut self, tick: Tick, interval: Duration) -> &mut Self {
        let interval = interval.max(Duration::from_millis(1));
        self.table.ticks.push(TickSpec { tick, interval });
        self
    }
}

impl PortTable {
    pub(crate) fn output<M: Payload>(&mut self, output: &Output<M>) {
        self.outputs.push(OutputSpec {
            name: output.name().into(),
            kind: M::kind(),
            schema: M::schema,
            reply: None,
            awaits_value: false,
            optional: false,
        });
    }

    pub(crate) fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) {
        self.outputs.push(OutputSpec {
            name: request.name().into(),
            kind: M::kind(),
            schema: M::schema,
            reply: Some(R::schema),
            awaits_value: TypeId::of::<R>() != TypeId::of::<()>(),
            optional: false,
        });
    }
}
