//! A configured service type with its Rust type erased: the form that the host runs.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::Semaphore;

use super::context::Context;
use super::http_route::HttpRoute;
use super::port::Tick;
use super::ports::{BatchResults, Handler, PortTable, Ports, Reply};
use super::source::{Source, SourcePorts};
use super::source_context::SourceContext;
use super::traits::Service;
use crate::failure::Failure;
use crate::message::Message;
use crate::sqlite::Migration;

/// A service type with its config.
pub(crate) trait ConfiguredType: Send + Sync {
    fn ports(&self) -> &PortTable;

    fn role(&self) -> Kind<'_>;
}

/// A service handles messages, a source starts them.
pub(crate) enum Kind<'a> {
    Service(&'a dyn InstanceFactory),
    Source(&'a dyn Run),
}

/// Creates instances of a service.
pub(crate) trait InstanceFactory {
    /// Handler loops per instance of the manifest.
    fn concurrency(&self) -> usize {
        1
    }

    /// Migrations of the store; empty if the service needs no store.
    fn migrations(&self) -> &'static [Migration] {
        &[]
    }

    /// The field of its messages that is their key; empty if they have none.
    fn key(&self) -> &'static str {
        ""
    }

    /// Whether its values are entities, whose states are in the store.
    fn holds_entities(&self) -> bool {
        false
    }

    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>>;
}

/// Runs a source.
pub(crate) trait Run {
    /// Returns whether the source ends by itself.
    fn ends(&self) -> bool;

    /// Returns whether one process at a time runs the source.
    fn is_single(&self) -> bool;

    /// Returns the address that the source listens on.
    fn listens(&self) -> Option<SocketAddr>;

    /// Returns the routes that the source serves over HTTP.
    fn http_routes(&self) -> Vec<HttpRoute>;

    /// Returns the maximum number of messages in flight.
    fn in_flight(&self) -> usize;

    fn run<'a>(&'a self, out: &'a mut SourceContext) -> LocalBoxFuture<'a, Result<(), Failure>>;
}

/// One instance of a service.
pub(crate) trait Instance {
    /// Handles the message of the context.
    fn handle<'a>(
        &'a mut self,
        input: usize,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>>;

    fn handle_batch<'a>(
        &'a mut self,
        input: usize,
        messages: &'a [Message],
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, BatchResults>;

    fn tick<'a>(
        &'a mut self,
        tick: Tick,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<(), Failure>>;

    fn stop<'a>(&'a mut self, cx: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>>;
}

pub(crate) struct ServiceBlueprint<S: Service> {
    config: S::Config,
    table: PortTable,
    handlers: Arc<[Handler<S>]>,
}

impl<S: Service> ServiceBlueprint<S> {
    pub(crate) fn new(config: S::Config) -> Self {
        let mut ports = Ports::new();
        S::ports(&config, &mut ports);
        Self {
            config,
            table: ports.table,
            handlers: ports.handlers.into(),
        }
    }
}

impl<S: Service> ConfiguredType for ServiceBlueprint<S> {
    fn ports(&self) -> &PortTable {
        &self.table
    }

    fn role(&self) -> Kind<'_> {
        Kind::Service(self)
    }
}

impl<S: Service> InstanceFactory for ServiceBlueprint<S> {
    fn concurrency(&self) -> usize {
        S::concurrency(&self.config).max(1)
    }

    fn migrations(&self) -> &'static [Migration] {
        S::STORE
    }

    fn key(&self) -> &'static str {
        S::KEY
    }

    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        Box::pin(async move {
            let service = S::start(&self.config, cx).await?;
            let handlers = self.handlers.clone();
            Ok(Box::new(Erased { service, handlers }) as Box<dyn Instance>)
        })
    }
}

struct Erased<S> {
    service: S,
    handlers: Arc<[Handler<S>]>,
}

impl<S: Service> Instance for Erased<S> {
    fn handle<'a>(
        &'a mut self,
        input: usize,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        match &self.handlers[input] {
            Handler::One(handle) => handle(&mut self.service, cx),
            Handler::Batch(handle) => {
                let (handle, message) = (*handle, cx.handled_message().clone());
                Box::pin(async move {
                    let mut results = handle(&mut self.service, &[message], cx).await;
                    let result = results.pop().unwrap_or(Ok(()));
                    result.map(|()| None)
                })
            }
        }
    }

    fn handle_batch<'a>(
        &'a mut self,
        input: usize,
        messages: &'a [Message],
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, BatchResults> {
        match &self.handlers[input] {
            Handler::Batch(handle) => handle(&mut self.service, messages, cx),
            Handler::One(_) => {
                unreachable!("the host batches only inputs declared with `Ports::batch`")
            }
        }
    }

    fn tick<'a>(
        &'a mut self,
        tick: Tick,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.service.tick(tick, cx).await })
    }

    fn stop<'a>(&'a mut self, cx: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.service.stop(cx).await })
    }
}

pub(crate) struct SourceBlueprint<S: Source> {
    config: S::Config,
    table: PortTable,
}

impl<S: Source> SourceBlueprint<S> {
    pub(crate) fn new(config: S::Config) -> Self {
        let mut ports = SourcePorts::default();
        S::ports(&config, &mut ports);
        Self {
            config,
            table: ports.table,
        }
    }
}

impl<S: Source> ConfiguredType for SourceBlueprint<S> {
    fn ports(&self) -> &PortTable {
        &self.table
    }

    fn role(&self) -> Kind<'_> {
        Kind::Source(self)
    }
}

impl<S: Source> Run for SourceBlueprint<S> {
    fn ends(&self) -> bool {
        S::ends(&self.config)
    }

    fn is_single(&self) -> bool {
        S::SINGLE
    }

    fn listens(&self) -> Option<SocketAddr> {
        S::listens(&self.config)
    }

    fn http_routes(&self) -> Vec<HttpRoute> {
        S::http_routes(&self.config)
    }

    fn in_flight(&self) -> usize {
        S::in_flight(&self.config).clamp(1, Semaphore::MAX_PERMITS)
    }

    fn run<'a>(&'a self, out: &'a mut SourceContext) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { S::run(&self.config, out).await })
    }
}
