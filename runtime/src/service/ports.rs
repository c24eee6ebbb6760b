//! The ports that a service names, and the handlers behind them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use schemars::{Schema, SchemaGenerator};

use super::erased::{BatchResults, Reply};
use super::{Context, Handle, HandleBatch, Input, Output, Payload, Request, Tick};
use crate::failure::Failure;
use crate::message::Message;

/// Collects a service's ports in [`Service::ports`](super::Service::ports).
pub struct Ports<S> {
    pub(crate) table: PortTable,
    pub(crate) handlers: Vec<Handler<S>>,
}

/// How many messages a batch handler takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// At most this many messages.
    pub max: usize,
    /// Or what came within this time of the first.
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
}

/// An output, or a request if there is a reply.
pub(crate) struct OutputSpec {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) schema: SchemaOf,
    pub(crate) reply: Option<SchemaOf>,
}

#[derive(Clone, Copy)]
pub(crate) struct TickSpec {
    pub(crate) tick: Tick,
    pub(crate) every: Duration,
}

/// The type of messages is erased once, here.
pub(crate) enum Handler<S> {
    One(HandleOne<S>),
    Many(HandleMany<S>),
}

type HandleOne<S> = for<'a> fn(
    &'a mut S,
    &'a Message,
    &'a mut Context,
) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>>;

type HandleMany<S> =
    for<'a> fn(&'a mut S, &'a [Message], &'a mut Context) -> LocalBoxFuture<'a, BatchResults>;

impl<S: 'static> Ports<S> {
    pub(crate) fn new() -> Self {
        Self {
            table: PortTable::default(),
            handlers: Vec::new(),
        }
    }

    /// An input: each message is handled, and the answer sent to whoever asked.
    pub fn input<M: Payload, R: Payload>(&mut self, input: &Input<M, R>) -> &mut Self
    where
        S: Handle<M, R>,
    {
        self.table.inputs.push(InputSpec {
            name: input.name().into(),
            schema: M::schema,
            reply: (std::any::TypeId::of::<R>() != std::any::TypeId::of::<()>())
                .then_some(R::schema as SchemaOf),
            batch: None,
        });
        self.handlers.push(Handler::One(handle_one::<S, M, R>));
        self
    }

    /// An input whose messages are handled many at a time.
    ///
    /// A batch holds messages of this input only; one from another input closes it.
    pub fn batch<M: Payload>(&mut self, input: &Input<M>, batch: Batch) -> &mut Self
    where
        S: HandleBatch<M>,
    {
        self.table.inputs.push(InputSpec {
            name: input.name().into(),
            schema: M::schema,
            reply: None,
            batch: Some(Batch {
                max: batch.max.max(1),
                ..batch
            }),
        });
        self.handlers.push(Handler::Many(handle_many::<S, M>));
        self
    }

    /// An output.
    pub fn output<M: Payload>(&mut self, output: &Output<M>) -> &mut Self {
        self.table.output(output);
        self
    }

    /// An output for questions, answered by another service.
    pub fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) -> &mut Self {
        self.table.request(request);
        self
    }

    /// A tick for each instance. One that comes while another waits is skipped.
    pub fn tick(&mut self, tick: Tick, every: Duration) -> &mut Self {
        let every = every.max(Duration::from_millis(1));
        self.table.ticks.push(TickSpec { tick, every });
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
        });
    }

    pub(crate) fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) {
        self.outputs.push(OutputSpec {
            name: request.name().into(),
            kind: M::kind(),
            schema: M::schema,
            reply: Some(R::schema),
        });
    }
}

fn handle_one<'a, S: Handle<M, R>, M: Payload, R: Payload>(
    service: &'a mut S,
    message: &'a Message,
    cx: &'a mut Context,
) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
    Box::pin(async move {
        let value = M::decode(message).map_err(Failure::reject)?;
        let answer = service.handle(value, cx).await?;
        if message.reply_to.is_none() {
            return Ok(None);
        }
        answer.into_bytes().map(Some).map_err(Failure::reject)
    })
}

fn handle_many<'a, S: HandleBatch<M>, M: Payload>(
    service: &'a mut S,
    messages: &'a [Message],
    cx: &'a mut Context,
) -> LocalBoxFuture<'a, BatchResults> {
    Box::pin(async move {
        let mut results: BatchResults = Vec::with_capacity(messages.len());
        let mut values = Vec::with_capacity(messages.len());
        let mut places = Vec::with_capacity(messages.len());
        for (place, message) in messages.iter().enumerate() {
            match M::decode(message) {
                Ok(value) => {
                    values.push(value);
                    places.push(place);
                    results.push(Ok(()));
                }
                Err(error) => results.push(Err(Failure::reject(error))),
            }
        }
        let expected = values.len();
        if expected > 0 {
            cx.set_batch_places(&places);
            let outcomes = service.handle_batch(values, cx).await;
            if outcomes.len() != expected {
                let got = outcomes.len();
                let text =
                    format!("the batch handler returned {got} outcomes for {expected} messages");
                for place in places {
                    results[place] = Err(Failure::retry(&text));
                }
                return results;
            }
            for (place, outcome) in places.into_iter().zip(outcomes) {
                results[place] = outcome;
            }
        }
        results
    })
}
