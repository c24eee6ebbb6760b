//! Instances under test: blueprints that count what is alive, and let faults strike.
//!
//! A decorator round each service's blueprint, so that production knows nothing of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::fault::{FaultKind, FaultPoint, FaultScript, injected};
use crate::failure::Failure;
use crate::message::Message;
use crate::service::{
    ConfiguredType, Context, Instance, InstanceFactory, Kind, PortTable, Reply, Run, SourceContext,
    Tick,
};
use crate::sqlite::Migration;

/// How many instances of each service are alive.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<BTreeMap<Arc<str>, usize>>);

impl Census {
    pub(super) fn born(self: &Arc<Self>, service: &Arc<str>) -> Life {
        *self.0.lock().entry(service.clone()).or_default() += 1;
        Life {
            census: self.clone(),
            service: service.clone(),
        }
    }

    /// Services of which something is alive, and how much.
    pub(super) fn alive(&self) -> Vec<(Arc<str>, usize)> {
        let counts = self.0.lock();
        let alive = counts.iter().filter(|(_, count)| **count > 0);
        alive
            .map(|(service, count)| (service.clone(), *count))
            .collect()
    }
}

/// One instance, or the run of a source, as long as it lives.
pub(super) struct Life {
    census: Arc<Census>,
    service: Arc<str>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(count) = self.census.0.lock().get_mut(&self.service) {
            *count -= 1;
        }
    }
}

/// A blueprint under test.
pub(super) struct Watched {
    inner: Arc<dyn ConfiguredType>,
    watch: Watch,
}

#[derive(Clone)]
struct Watch {
    service: Arc<str>,
    script: Arc<FaultScript>,
    census: Arc<Census>,
}

impl Watched {
    pub(super) fn new(
        inner: Arc<dyn ConfiguredType>,
        service: Arc<str>,
        script: Arc<FaultScript>,
        census: Arc<Census>,
    ) -> Self {
        let watch = Watch {
            service,
            script,
            census,
        };
        Self { inner, watch }
    }
}

impl Watch {
    /// Passes a point, unless a fault strikes there.
    async fn pass(&self, point: FaultPoint) -> Result<(), Failure> {
        match self.script.strike(point, &self.service) {
            None => Ok(()),
            Some(FaultKind::Fail(failure)) => Err(failure),
            Some(FaultKind::Panic) => panic!("{}", injected(point)),
            Some(FaultKind::Hang) => pending().await,
        }
    }
}

impl ConfiguredType for Watched {
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

impl InstanceFactory for Watched {
    fn concurrency(&self) -> usize {
        self.factory().concurrency()
    }

    fn migrations(&self) -> &'static [Migration] {
        self.factory().migrations()
    }

    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        let inner = self.factory();
        Box::pin(async move {
            self.watch.pass(FaultPoint::Start).await?;
            let inner = inner.start(cx).await?;
            Ok(Box::new(WatchedInstance {
                inner: Some(inner),
                _life: self.watch.census.born(&self.watch.service),
                watch: self.watch.clone(),
            }) as Box<dyn Instance>)
        })
    }
}

impl Run for Watched {
    fn ends(&self) -> bool {
        self.source().ends()
    }

    fn is_single(&self) -> bool {
        self.source().is_single()
    }

    fn in_flight(&self) -> usize {
        self.source().in_flight()
    }

    fn run<'a>(&'a self, out: &'a mut SourceContext) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let _life = self.watch.census.born(&self.watch.service);
            match self
                .watch
                .script
                .strike(FaultPoint::Run, &self.watch.service)
            {
                // As one that waits for work: it ends when it is told to.
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

impl Watched {
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

struct WatchedInstance {
    /// `None` while dropping.
    inner: Option<Box<dyn Instance>>,
    watch: Watch,
    _life: Life,
}

impl WatchedInstance {
    fn inner(&mut self) -> &mut dyn Instance {
        &mut **self.inner.as_mut().expect("it is there until the drop")
    }
}

impl Instance for WatchedInstance {
    fn handle<'a>(
        &'a mut self,
        input: usize,
        message: &'a Message,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        Box::pin(async move {
            self.watch.pass(FaultPoint::Handle).await?;
            let reply = self.inner().handle(input, message, cx).await?;
            self.watch.pass(FaultPoint::Handled).await?;
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
            if let Err(failure) = self.watch.pass(FaultPoint::Handle).await {
                return all(failure);
            }
            let results = self.inner().handle_batch(input, messages, cx).await;
            match self.watch.pass(FaultPoint::Handled).await {
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
            self.watch.pass(FaultPoint::Tick).await?;
            self.inner().tick(tick, cx).await
        })
    }

    fn stop<'a>(&'a mut self, cx: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.watch.pass(FaultPoint::Stop).await?;
            self.inner().stop(cx).await
        })
    }
}

impl Drop for WatchedInstance {
    fn drop(&mut self) {
        drop(self.inner.take());
        let struck = self
            .watch
            .script
            .strike(FaultPoint::Drop, &self.watch.service);
        // A panic while another one unwinds would end the process.
        if struck.is_some() && !std::thread::panicking() {
            panic!("{}", injected(FaultPoint::Drop));
        }
    }
}
