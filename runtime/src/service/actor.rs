//! Plain actix actors as services, addressed through their `Recipient`.
//!
//! [`Catalog::with_actor`] lists the guarantees that such an actor does not have.

use std::sync::Arc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, MailboxError, Recipient};
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::catalog::{Catalog, ServiceType, TypeMetadata};
use super::config::NoConfig;
use super::context::Context;
use super::erased::{ConfiguredType, Instance, InstanceFactory, Kind};
use super::payload::Payload;
use super::port::Tick;
use super::ports::{BatchResults, InputSpec, PortTable, Reply};
use crate::failure::Failure;
use crate::message::Message;

/// The result type of an actix message, as the outcome of its delivery.
///
/// `()` means success without a reply. `Ok` of a `Result` is the reply for a caller that
/// asked, and `Err` converts into a [`Failure`].
pub trait Outcome: Send + 'static {
    /// Type of the reply.
    type Answer: Payload;

    /// Converts the result.
    ///
    /// # Errors
    /// The failure that the result has.
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

/// The only input of an actor.
const INPUT: &str = "in";

impl Catalog {
    /// Adds a plain actix actor as a service type with one input, `in`: messages are sent to
    /// the actor as `M`, and its results settle the deliveries.
    ///
    /// `start` creates the actor on the thread of the service, and again after the actor has
    /// stopped or panicked. The manifest key `instances` is the number of messages that the
    /// actor may have at once.
    ///
    /// Compared with a [`Service`](crate::Service), such an actor has fewer guarantees:
    /// - There is one actor, however many instances the manifest has.
    /// - It restores its own state after a panic.
    /// - A handler that misses its deadline fails its delivery, but runs on.
    /// - Messages that it sends by itself are not held back until it succeeds.
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
        let metadata = TypeMetadata {
            name,
            role: "service",
            summary: "a plain actix actor",
            failures: &[],
            example: "",
            single: false,
        };
        let configured = move |_: NoConfig| {
            Arc::new(ActixService {
                table: table_of::<M>(),
                start: start.clone(),
            }) as _
        };
        self.add(ServiceType::new(metadata, |_| Ok(()), configured))
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
        first: false,
        internal: false,
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

/// The address of the actor, shared by the instances of the service.
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

/// An instance: sends one message at a time to the actor.
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
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        Box::pin(async move {
            let message = cx.handled_message();
            let value = M::decode(message).map_err(Failure::reject)?;
            let answer = match self.0.send(value).await {
                Ok(result) => result.outcome()?,
                // Panics into the host, which restarts this instance, and so the actor.
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
