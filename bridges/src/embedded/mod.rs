//! `embedded:PATH`: durable queues in this process, kept in a folder, without a broker.
//!
//! | where | what |
//! | --- | --- |
//! | `address` | URLs |
//! | `open`, `declare` | a folder that is opened; the queues in it |
//! | `schema`, `head`, `rows`, `salvage` | tables; envelopes as they are kept; reading and writing; reading beside damage |
//! | `op`, `desk`, `drain` | what is to be done with the file; gathering that; doing it, in groups |
//! | `effects`, `blame` | what comes of that in memory; what is done when it fails |
//! | `core`, `wires` | what all parts share; where messages go |
//! | `queue`, `consumer` | a window on a queue, in memory; taking and settling |
//! | `delays` | what waits for its time |
//! | `hand`, `ward` | what was in hand when the process died, and trying it one at a time |
//! | `exclusive_trial` | which queues are open while a suspect is tried alone |
//! | `find` | looking for messages |
//! | `health`, `tries`, `room` | whether it can be written; when that is tried again; room on the disk |
//! | `sight`, `inspection`, `leftovers` | for who only looks; what is there; pruning |
//!
//! The way of a message: `publish` encodes it and puts it on the desk; a drain writes it,
//! together with everything else that is there; when that is on the disk, the publisher is
//! told, and the message is in its queue's window, or, if that is full, counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Inspection,
    Outgoing, Prune, Pruned, SearchBounds, SearchQuery, SearchResult, Status, Topology, Transport,
    TransportError,
};
use brickwork::{Message, QueueId};
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

mod address;
mod catalog;
mod commit;
mod commit_outcome;
mod consumer;
mod delays;
mod disk_space;
mod exclusive_trial;
mod failed_commit;
mod find;
mod health;
mod in_flight_log;
mod inspection;
mod open;
mod probe_backoff;
mod prune;
mod queue;
mod read_only;
mod record;
mod recovery;
mod routing;
mod schema;
mod state;
mod statements;
mod suspects;
mod write_op;
mod write_queue;

use self::state::TransportState;
use consumer::QueueConsumer;
use write_op::WriteOp;

const GUARANTEES: Guarantees = Guarantees {
    durable: true,
    redelivers: true,
    ordered: true,
    crosses_processes: false,
    delays: true,
    limits: true,
    searches: true,
};

/// Makes transports in a folder: `embedded:PATH`.
pub struct Embedded;

impl Connector for Embedded {
    fn schemes(&self) -> &'static [&'static str] {
        &["embedded"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        GUARANTEES
    }

    fn resolve(&self, url: &str, folder: &Path) -> String {
        address::resolve(url, folder)
    }

    /// `queues` in the data folder: durable, with nothing installed.
    fn default_url(&self, data: &Path) -> Option<String> {
        Some(address::of(&data.join("queues")))
    }

    fn check(&self, url: &str) -> Result<(), String> {
        address::folder(url).map(drop)
    }

    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| failed(url, why);
            let folder = address::folder(url).map_err(failed)?;
            let topology = topology.clone();
            let looking = move || inspection::inspect(&folder, &topology);
            let looked = tokio::task::spawn_blocking(looking).await;
            looked.map_err(|_| failed("there is no thread to look".into()))
        })
    }

    fn prune<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
        how: Prune,
    ) -> BoxFuture<'a, Result<Pruned, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| failed(url, why);
            let folder = address::folder(url).map_err(failed)?;
            let pruned = prune::prune(folder, topology.clone(), how).await;
            pruned.map_err(|error| failed(error.0))
        })
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| failed(url, why);
            let folder = address::folder(url).map_err(failed)?;
            let core = open::open(folder.clone(), pressure).await;
            let core = core.map_err(|error| failed(error.0))?;
            Ok(Arc::new(Queues::start(core, folder)) as Arc<dyn Transport>)
        })
    }

    fn search_offline<'a>(
        &'a self,
        url: &'a str,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(async move {
            let folder = address::folder(url).map_err(|why| TransportError::Connect {
                url: url.to_owned(),
                why,
            })?;
            find::find(folder, wanted, bounds).await
        })
    }
}

fn failed(url: &str, why: String) -> TransportError {
    TransportError::Connect {
        url: url.to_owned(),
        why,
    }
}

/// Queues in a folder.
struct Queues {
    core: Arc<TransportState>,
    folder: PathBuf,
    runtime: Handle,
    tasks: Vec<AbortHandle>,
    closed: watch::Sender<bool>,
}

impl Queues {
    fn start(core: Arc<TransportState>, folder: PathBuf) -> Self {
        let mut tasks = Vec::new();
        let (desk, ward, delays) = (core.clone(), core.clone(), core.clone());
        tasks.push(tokio::spawn(async move { desk.desk.run(&desk).await }).abort_handle());
        tasks.push(tokio::spawn(async move { ward.ward.run(&ward).await }).abort_handle());
        let timer = async move {
            loop {
                delays.delays.due().await;
                delays.desk.push(&delays, WriteOp::Due);
            }
        };
        tasks.push(tokio::spawn(timer).abort_handle());
        Self {
            core,
            folder,
            runtime: Handle::current(),
            tasks,
            closed: watch::Sender::new(false),
        }
    }

    async fn known(&self, topology: &Topology, make: bool) -> Result<(), TransportError> {
        let (reply, outcome) = oneshot::channel();
        let declare = WriteOp::Declare {
            topology: topology.clone(),
            make,
            reply,
        };
        self.core.desk.push(&self.core, declare);
        outcome.await.unwrap_or(Err(TransportError::Closed))
    }

    /// Puts a batch on the desk: all of it, or nothing if a queue rejects it.
    fn put(&self, batch: Vec<Outgoing>, done: Completion) {
        // While nothing can be written, nothing more is taken in that must be.
        if let Some(error) = self.core.health.error()
            && self.core.wires.read().is_read(&batch)
        {
            return done.complete(Err(error));
        }
        let replies = &self.core.replies;
        let rows = self
            .core
            .wires
            .read()
            .route(batch, |message, error| replies.answer(message, Err(error)));
        match rows {
            // A topic that nobody reads takes everything.
            Ok(rows) if rows.is_empty() => done.complete(Ok(())),
            Ok(rows) => self
                .core
                .desk
                .push(&self.core, WriteOp::Publish { rows, done }),
            Err(error) => done.complete(Err(error)),
        }
    }

    /// Nothing is taken, asked or published any more. Whether that is new.
    fn end(core: &TransportState) -> bool {
        let (queues, first): (Vec<_>, bool) = {
            let mut wires = core.wires.write();
            let first = !std::mem::replace(&mut wires.closed, true);
            (wires.by_number.values().cloned().collect(), first)
        };
        core.replies.close();
        for queue in queues {
            queue.close();
        }
        first
    }
}

impl Transport for Queues {
    fn scheme(&self) -> &'static str {
        "embedded"
    }

    fn guarantees(&self) -> Guarantees {
        GUARANTEES
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(self.known(topology, true))
    }

    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(self.known(topology, false))
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        self.put(batch, done);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            let queue = self.core.wires.read().queue(queue)?;
            let consumer = QueueConsumer::new(self.core.clone(), queue.clone(), bound);
            self.core.ward.try_before_consuming(&queue).await;
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        if !self.core.wires.read().topics.contains_key(&request.topic) {
            let text = format!("nobody reads the topic {}", request.topic);
            return Box::pin(async move { Err(AskError::Failed(text)) });
        }
        let (request, waiting) = match self.core.replies.expect(request) {
            Ok(expected) => expected,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let (done, sent) = Completion::channel();
        // Before the request is there: a suspect that asks isn't alone any more.
        let queues = self.core.wires.read().asked(&request);
        let asking = self.core.ward.exclusive.ask(&self.core, queues);
        self.put(vec![request.into()], done);
        Box::pin(async move {
            let _asking = asking;
            let answer = async {
                sent.await?;
                waiting.await
            };
            match tokio::time::timeout(within, answer).await {
                Ok(reply) => reply,
                Err(_) => Err(AskError::Timeout(within)),
            }
        })
    }

    fn late_replies(&self) -> u64 {
        self.core.replies.late()
    }

    fn overflowed(&self, queue: &QueueId) -> u64 {
        let wires = self.core.wires.read();
        wires
            .queues
            .get(queue)
            .map_or(0, |queue| queue.overflowed())
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { Ok(self.core.wires.read().queue(queue)?.depth()) })
    }

    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(find::find(self.folder.clone(), wanted, bounds))
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.core.health.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async {
            let (reply, outcome) = oneshot::channel();
            self.core.desk.push(&self.core, WriteOp::Flush { reply });
            outcome.await.unwrap_or(Err(TransportError::Closed))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Apart, so that it is done completely also if nobody waits for it.
        let (core, closed) = (self.core.clone(), self.closed.clone());
        if Self::end(&core) {
            for task in &self.tasks {
                task.abort();
            }
            self.runtime.spawn(async move {
                if let Some(database) = core.desk.close(&core).await {
                    database.close().await;
                }
                core.hand.forget();
                *core.lock.lock() = None;
                core.health.ended();
                closed.send_replace(true);
            });
        }
        Box::pin(async {
            let mut closed = self.closed.subscribe();
            // The sender is `self`: it can't be gone.
            let _closed = closed.wait_for(|closed| *closed).await;
        })
    }
}

impl Drop for Queues {
    /// Without closing: as if the process died now.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // First of all, so that what is in hand stays noted.
        self.core.hand.end();
        drop(self.core.desk.end());
        Self::end(&self.core);
        *self.core.lock.lock() = None;
    }
}
