//! Handlers: a function for each input of a service type, with the type of its messages
//! erased.

use std::any::TypeId;

use futures_util::future::LocalBoxFuture;

use super::context::Context;
use super::payload::Payload;
use super::port::Input;
use super::ports::{Batch, BatchResults, Handler, InputSpec, Ports, Reply, SchemaOf};
use super::traits::{Handle, HandleBatch};
use crate::failure::Failure;
use crate::message::Message;

impl<S: 'static> Ports<S> {
    /// Adds an input: the service handles each message alone, and a caller that asked gets
    /// the reply.
    pub fn input<M: Payload, R: Payload>(&mut self, input: &Input<M, R>) -> &mut Self
    where
        S: Handle<M, R>,
    {
        self.input_as::<(), M, R>(input)
    }

    /// Adds an input that the handler for `P` handles. The type `P` is a name: it tells inputs
    /// with messages of one type apart.
    pub fn input_as<P: 'static, M: Payload, R: Payload>(&mut self, input: &Input<M, R>) -> &mut Self
    where
        S: Handle<M, R, P>,
    {
        let has_reply = TypeId::of::<R>() != TypeId::of::<()>();
        self.table.inputs.push(InputSpec {
            name: input.name().into(),
            schema: M::schema,
            reply: has_reply.then_some(R::schema as SchemaOf),
            batch: None,
            first: false,
            internal: false,
        });
        self.handlers.push(Handler::One(handle_one::<S, M, R, P>));
        self
    }

    /// Adds an input of an entity for its own reminders: it is connected to no topic. For other
    /// types it has no use.
    pub fn reminder<M: Payload>(&mut self, input: &Input<M>) -> &mut Self
    where
        S: Handle<M>,
    {
        self.reminder_as::<(), M, ()>(input)
    }

    /// Adds an input for reminders that the handler for `P` handles, as
    /// [`input_as`](Self::input_as).
    pub fn reminder_as<P: 'static, M: Payload, R: Payload>(
        &mut self,
        input: &Input<M, R>,
    ) -> &mut Self
    where
        S: Handle<M, R, P>,
    {
        self.input_as::<P, M, R>(input);
        if let Some(input) = self.table.inputs.last_mut() {
            input.internal = true;
        }
        self
    }

    /// Adds an input whose messages are handled in batches.
    ///
    /// A batch has messages of this input only: a message of another input ends the batch.
    pub fn batch<M: Payload>(&mut self, input: &Input<M>, batch: Batch) -> &mut Self
    where
        S: HandleBatch<M>,
    {
        self.batch_as::<(), M>(input, batch)
    }

    /// Adds an input that the batch handler for `P` handles, as [`input_as`](Self::input_as).
    pub fn batch_as<P: 'static, M: Payload>(&mut self, input: &Input<M>, batch: Batch) -> &mut Self
    where
        S: HandleBatch<M, P>,
    {
        self.table.inputs.push(InputSpec {
            name: input.name().into(),
            schema: M::schema,
            reply: None,
            batch: Some(Batch {
                max: batch.max.max(1),
                ..batch
            }),
            first: false,
            internal: false,
        });
        self.handlers.push(Handler::Batch(handle_batch::<S, M, P>));
        self
    }
}

fn handle_one<'a, S: Handle<M, R, P>, M: Payload, R: Payload, P: 'static>(
    service: &'a mut S,
    cx: &'a mut Context,
) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
    Box::pin(async move {
        let value = M::decode(cx.handled_message()).map_err(Failure::reject)?;
        let answer = service.handle(value, cx).await?;
        if cx.handled_message().reply_to.is_none() {
            return Ok(None);
        }
        answer.into_bytes().map(Some).map_err(Failure::reject)
    })
}

fn handle_batch<'a, S: HandleBatch<M, P>, M: Payload, P: 'static>(
    service: &'a mut S,
    messages: &'a [Message],
    cx: &'a mut Context,
) -> LocalBoxFuture<'a, BatchResults> {
    Box::pin(async move {
        let mut results: BatchResults = Vec::with_capacity(messages.len());
        let mut values = Vec::with_capacity(messages.len());
        let mut indexes = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            match M::decode(message) {
                Ok(value) => {
                    values.push(value);
                    indexes.push(index);
                    results.push(Ok(()));
                }
                Err(error) => results.push(Err(Failure::reject(error))),
            }
        }
        let expected = values.len();
        if expected > 0 {
            cx.set_batch(&indexes);
            let outcomes = service.handle_batch(values, cx).await;
            if outcomes.len() != expected {
                let got = outcomes.len();
                let text =
                    format!("the batch handler returned {got} outcomes for {expected} messages");
                for index in indexes {
                    results[index] = Err(Failure::retry(&text));
                }
                return results;
            }
            for (index, outcome) in indexes.into_iter().zip(outcomes) {
                results[index] = outcome;
            }
        }
        results
    })
}
