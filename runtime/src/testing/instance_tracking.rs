//! Decorators of service types: count live instances, and let faults strike.
//!
//! They wrap the service types of the app under test, so production code has no test hooks.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::fault::{FaultKind, FaultPoint, FaultScript, injected};
use crate::failure::Failure;
use crate::message::Message;
use crate::service::{
    ConfiguredType, Context, HttpRoute, Instance, InstanceFactory, Kind, PortTable, Reply, Run,
    SourceContext, Tick,
};
use crate::sqlite::Migration;

/// Number of live instances of each service.
#[derive(Debug, Default)]
pub(super) struct LiveInstances(Mutex<BTreeMap<Arc<str>, usize>>);

impl LiveInstances {
    /// Counts an instance until the guard is dropped.
    pub(super) fn count(self: &Arc<Self>, service: &Arc<str>) -> InstanceGuard {
        *self.0.lock().entry(service.clone()).or_default() += 1;
        InstanceGuard {
            counts: self.clone(),
            service: service.clone(),
        }
    }

    /// Services with live instances, and how many.
    pub(super) fn all(&self) -> Vec<(Arc<str>, usize)> {
        let counts = self.0.lock();
        let alive = counts.iter().filter(|(_, count)| **count > 0);
        alive
            .map(|(service, count)| (service.clone(), *count))
            .collect()
    }
}

/// A live instance, or the running source.
pub(super) struct InstanceGuard {
    counts: Arc<LiveInstances>,
    service: Arc<str>,
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        if let Some(count) = self.counts.0.lock().get_mut(&self.service) {
            *count -= 1;
        }
    }
}

/// A service type under test.
pub(super) struct TestedType {
    inner: Arc<dyn ConfiguredType>,
    hooks: TestHooks,
}

#[derive(Clone)]
struct TestHooks {
    service: Arc<str>,
    script: Arc<FaultScript>,
    live: Arc<LiveInstances>,
}

impl TestedType {
    pub(super) fn new(
        inner: Arc<dyn ConfiguredType>,
        service: Arc<str>,
        script: Arc<FaultScript>,
        live: Arc<LiveInstances>,
    ) -> Self {
        let hooks = TestHooks {
            service,
            script,
            live,
        };
        Self { inner, hooks }
    }
}

impl TestHooks {
    /// Lets a fault strike at a point, if there is one.
    async fn pass(&self, point: FaultPoint) -> Result<(), Failure> {
        match self.script.strike(point, &self.service) {
            None => Ok(()),
            Some(FaultKind::Fail(failure)) => Err(failure),
            Some(FaultKind::Panic) => panic!("{}", injected(point)),
            Some(FaultKind::Hang) => pending().await,
        }
    }
}

impl ConfiguredType for TestedType {
    fn ports(&self) -> &PortTable {
        self.inner.ports()
    }

    fn role(&self) -> Kind<'_> {
        match self.inner.role() {
            Kind::Service(_) => Kind::Service(self),
            Kind::Source(_) => Kind::Source(self),
        }
    }
}

impl InstanceFactory for TestedType {
    fn concurrency(&self) -> usize {
        self.factory().concurrency()
    }

    fn migrations(&self) -> &'static [Migration] {
        self.factory().migrations()
    }

    fn key(&self) -> &'static str {
        self.factory().key()
    }

    fn holds_entities(&self) -> bool {
        self.factory().holds_entities()
    }

    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        let inner = self.factory();
        Box::pin(async move {
            self.hooks.pass(FaultPoint::Start).await?;
            let inner = inner.start(cx).await?;
            Ok(Box::new(TestedInstance {
                inner: Some(inner),
                _guard: self.hooks.live.count(&self.hooks.service),
                hooks: self.hooks.clone(),
            }) as Box<dyn Instance>)
        })
    }
}

impl Run for TestedType {
    fn ends(&self) -> bool {
        self.source().ends()
    }

    fn is_single(&self) -> bool {
        self.source().is_single()
    }

    fn listens(&self) -> Option<SocketAddr> {
        self.source().listens()
    }

    fn http_routes(&self) -> Vec<HttpRoute> {
        self.source().http_routes()
    }

    fn in_flight(&self) -> usize {
        self.source().in_flight()
    }

    fn run<'a>(&'a self, out: &'a mut SourceContext) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let _guard = self.hooks.live.count(&self.hooks.service);
            match self
                .hooks
                .script
                .strike(FaultPoint::Run, &self.hooks.service)
            {
                // Like a source that waits for work.
                Some(FaultKind::Hang) => {
                    out.stopping().await;
                    return Ok(());
                }
                Some(FaultKind::Fail(failure)) => return Err(failure),
                Some(FaultKind::Panic) => panic!("{}", injected(FaultPoint::Run)),
                None => {}
            }
            self.source().run(out).await
        })
    }
}

impl TestedType {
    fn factory(&self) -> &dyn InstanceFactory {
        let Kind::Service(inner) = self.inner.role() else {
            unreachable!("a source starts no instances")
        };
        inner
    }

    fn source(&self) -> &dyn Run {
        match self.inner.role() {
            Kind::Source(source) => source,
            Kind::Service(_) => unreachable!("only a source is run"),
        }
    }
}

struct TestedInstance {
    /// `None` during the drop.
    inner: Option<Box<dyn Instance>>,
    hooks: TestHooks,
    _guard: InstanceGuard,
}

impl TestedInstance {
    fn inner(&mut self) -> &mut dyn Instance {
        &mut **self.inner.as_mut().expect("it is there until the drop")
    }
}

impl Instance for TestedInstance {
    fn handle<'a>(
        &'a mut self,
        input: usize,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        Box::pin(async move {
            self.hooks.pass(FaultPoint::Handle).await?;
            let reply = self.inner().handle(input, cx).await?;
            self.hooks.pass(FaultPoint::Handled).await?;
            Ok(reply)
        })
    }

    fn handle_batch<'a>(
        &'a mut self,
        input: usize,
        messages: &'a [Message],
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Vec<Result<(), Failure>>> {
        Box::pin(async move {
            let all = |failure| vec![Err(failure); messages.len()];
            if let Err(failure) = self.hooks.pass(FaultPoint::Handle).await {
                return all(failure);
            }
            let results = self.inner().handle_batch(input, messages, cx).await;
            match self.hooks.pass(FaultPoint::Handled).await {
                Ok(()) => results,
                Err(failure) => all(failure),
            }
        })
    }

    fn tick<'a>(
        &'a mut self,
        tick: Tick,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.hooks.pass(FaultPoint::Tick).await?;
            self.inner().tick(tick, cx).await
        })
    }

    fn stop<'a>(&'a mut self, cx: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.hooks.pass(FaultPoint::Stop).await?;
            self.inner().stop(cx).await
        })
    }
}

impl Drop for TestedInstance {
    fn drop(&mut self) {
        drop(self.inner.take());
        let struck = self
            .hooks
            .script
            .strike(FaultPoint::Drop, &self.hooks.service);
        // A second panic during unwinding would abort the process.
        if struck.is_some() && !std::thread::panicking() {
            panic!("{}", injected(FaultPoint::Drop));
        }
    }
}
