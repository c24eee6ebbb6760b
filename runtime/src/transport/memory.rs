//! `memory:`: the queue engine without a journal.
//!
//! Messages do not outlive the process. A publication is confirmed before
//! [`Transport::publish`] returns.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::engine::Engine;
use super::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Outgoing,
    SearchBounds, SearchQuery, SearchResult, Status, Topology, Transport, TransportError,
};
use crate::message::Message;
use crate::names::QueueId;

const GUARANTEES: Guarantees = Guarantees {
    durable: false,
    redelivers: true,
    ordered: true,
    crosses_processes: false,
    delays: true,
    limits: true,
    searches: true,
};

/// Makes memory transports: `memory:`.
pub struct MemoryConnector;

impl Connector for MemoryConnector {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        GUARANTEES
    }

    fn check(&self, url: &str) -> Result<(), String> {
        if url == "memory:" {
            Ok(())
        } else {
            Err("memory: takes nothing after the colon".into())
        }
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            self.check(url).map_err(|why| TransportError::Connect {
                url: url.to_owned(),
                why,
            })?;
            Ok(Arc::new(Memory::new(pressure)) as Arc<dyn Transport>)
        })
    }
}

/// Queues in the memory of this process.
pub struct Memory {
    engine: Engine,
    status: watch::Sender<Status>,
}

impl Memory {
    /// Makes a transport without queues. Its timer runs on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(pressure: Arc<Backpressure>) -> Self {
        Self {
            engine: Engine::new(pressure, "memory", None),
            status: watch::Sender::default(),
        }
    }
}

impl Transport for Memory {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn guarantees(&self) -> Guarantees {
        GUARANTEES
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move { self.engine.declare_all(topology) })
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        self.engine.publish(batch, done);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            let consumer = self.engine.consume(queue, bound)?;
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        self.engine.ask(request, within, |_| ())
    }

    fn late_replies(&self) -> u64 {
        self.engine.replies().late()
    }

    fn overflowed(&self, queue: &QueueId) -> u64 {
        self.engine.overflowed(queue)
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { self.engine.depth(queue) })
    }

    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(async move { Ok(self.engine.find(wanted, bounds).await) })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        // Every call has taken effect before it returned.
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.engine.close();
        })
    }
}
