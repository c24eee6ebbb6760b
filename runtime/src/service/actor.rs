//! Plain actix actors that join as they are, by their `Recipient`.
//!
//! What such an actor goes without is said at [`Catalog::with_actor`].

use std::sync::Arc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, MailboxError, Recipient};
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::catalog::{ServiceType, TypeMetadata};
use super::erased::{BatchResults, ConfiguredType, Instance, InstanceFactory, Kind, Reply};
use super::ports::{InputSpec, PortTable};
use super::{Catalog, Context, NoConfig, Payload, Tick};
use crate::failure::Failure;
use crate::message::Message;

/// What the result of an actix message means for its delivery.
///
/// `()` and every serde value are success, and the answer for those who asked; of a
/// `Result` the error is a [`Failure`] by its `Into`.
pub trait Outcome: Send + 'static {
    /// The answer.
    type Answer: Payload;

    /// Success with an answer, or failure.
    ///
    /// # Errors
    /// What the actor's result says.
    fn outcome(self) -> Result<Self::Answer, Failure>;
}

impl Outcome for () {
    type Answer = ();

    fn outcome(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<T: Payload + Send, E: Into<Failure> + Send + 'static> Outcome for Result<T, E> {
    type Answer = T;

    fn outcome(self) -> Result<T, Failure> {
        self.map_err(Into::into)
    }
}

/// The one input of such an actor.
const INPUT: &str = "in";

impl Catalog {
    /// Adds a plain actix actor under a name: its manifest entry has one input, `in`,
    /// whose messages are sent to it as `M`, and whose results settle the deliveries.
    ///
    /// `start` makes the actor, on the thread of its service: once, and again when its
    /// mailbox has closed (it stopped, or panicked). `instances` says how many messages
    /// may be with it at a time.
    ///
    /// The actor goes without what only the host can give: it is one actor however many
    /// instances there are; state that it lost in a panic is its own business; a handler
    /// past its deadline is given up for the delivery's sake but runs on; and what it
    /// sends by itself isn't held until it succeeds.
    ///
    /// ```
    /// use actix::prelude::{Actor, Handler};
    /// use brickwork::Catalog;
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(actix::Message, Serialize, Deserialize, JsonSchema)]
    /// #[rtype(result = "()")]
    /// struct Hello { name: String }
    ///
    /// struct Greeter;
    /// impl Actor for Greeter { type Context = actix::Context<Self>; }
    /// impl Handler<Hello> for Greeter {
    ///     type Result = ();
    ///     fn handle(&mut self, hello: Hello, _: &mut actix::Context<Self>) {
    ///         println!("Hello, {}!", hello.name);
    ///     }
    /// }
    ///
    /// let catalog = Catalog::new().with_actor::<Greeter, Hello>("greeter", || Greeter.start());
    /// assert!(catalog.get("greeter").is_some());
    /// ```
    ///
    /// # Panics
    /// As [`with`](Catalog::with).
    #[must_use]
    pub fn with_actor<A, M>(
        self,
        name: &'static str,
        start: impl Fn() -> Addr<A> + Send + Sync + 'static,
    ) -> Self
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: actix::Message + Payload + Send,
        M::Result: Outcome,
    {
        let start: Arc<Start<M>> = Arc::new(move || start().recipient());
        let facts = TypeMetadata {
            name,
            role: "service",
            summary: "a plain actix actor",
            failures: &[],
            example: "",
            single: false,
        };
        let blueprint = move |_: NoConfig| {
            Arc::new(ActixService {
                table: table_of::<M>(),
                start: start.clone(),
            }) as _
        };
        self.add(ServiceType::new(facts, |_| Ok(()), blueprint))
    }
}

type Start<M> = dyn Fn() -> Recipient<M> + Send + Sync;

fn table_of<M>() -> PortTable
where
    M: actix::Message + Payload + Send,
    M::Result: Outcome,
{
    let input = InputSpec {
        name: INPUT.into(),
        schema: M::schema,
        reply: Some(<<M::Result as Outcome>::Answer as Payload>::schema),
        batch: None,
    };
    PortTable {
        inputs: vec![input],
        ..PortTable::default()
    }
}

struct ActixService<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    table: PortTable,
    start: Arc<Start<M>>,
}

impl<M> ConfiguredType for ActixService<M>
where
    M: actix::Message + Payload + Send,
    M::Result: Outcome,
{
    fn ports(&self) -> &PortTable {
        &self.table
    }

    fn role(&self) -> Kind<'_> {
        Kind::Service(self)
    }
}

/// The actor of a service, shared by its instances.
struct SharedRecipient<M>(Mutex<Option<Recipient<M>>>)
where
    M: actix::Message + Send,
    M::Result: Send;

impl<M> InstanceFactory for ActixService<M>
where
    M: actix::Message + Payload + Send,
    M::Result: Outcome,
{
    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        Box::pin(async move {
            let running = cx
                .shared(async || Ok(SharedRecipient::<M>(Mutex::new(None))))
                .await?;
            let mut running = running.0.lock();
            let recipient = match &*running {
                Some(recipient) if recipient.connected() => recipient.clone(),
                _ => running.insert((self.start)()).clone(),
            };
            Ok(Box::new(ActixInstance(recipient)) as Box<dyn Instance>)
        })
    }
}

/// An instance: a place in the window of messages that are with the actor.
struct ActixInstance<M>(Recipient<M>)
where
    M: actix::Message + Send,
    M::Result: Send;

impl<M> Instance for ActixInstance<M>
where
    M: actix::Message + Payload + Send,
    M::Result: Outcome,
{
    fn handle<'a>(
        &'a mut self,
        _: usize,
        message: &'a Message,
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        Box::pin(async move {
            let value = M::decode(message).map_err(Failure::reject)?;
            let answer = match self.0.send(value).await {
                Ok(result) => result.outcome()?,
                // Unwinds into the host, which builds this instance anew: that starts
                // the actor again.
                Err(MailboxError::Closed) => panic!("the actor stopped or panicked"),
                Err(MailboxError::Timeout) => return Err(Failure::retry("the actor timed out")),
            };
            if message.reply_to.is_none() {
                return Ok(None);
            }
            answer.into_bytes().map(Some).map_err(Failure::reject)
        })
    }

    fn handle_batch<'a>(
        &'a mut self,
        _: usize,
        _: &'a [Message],
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, BatchResults> {
        unreachable!("the input of a plain actor takes one message at a time")
    }

    fn tick<'a>(
        &'a mut self,
        _: Tick,
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn stop<'a>(&'a mut self, _: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}
