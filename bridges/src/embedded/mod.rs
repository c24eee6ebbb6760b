//! `embedded:PATH`: durable queues in this process, kept in a folder, without a broker.
//!
//! The transport is the queue engine ([`brickwork::transport::engine`]) with a journal in an
//! SQLite file. The files in layers; each uses only those above it:
//!
//! | file | content |
//! | --- | --- |
//! | `address` | URLs |
//! | `schema`, `record`, `statements` | tables, encoding of a message, SQL statements |
//! | `disk_space`, `health`, `delays` | free space, status, timer |
//! | `in_flight_log` | messages in flight, for the next process |
//! | `catalog` | queues and their owner in the file |
//! | `write_op`, `write_state`, `write_queue` | commands; which can be written at present; the mailbox of the journal |
//! | `commit` | one transaction: executes a group of commands |
//! | `journal`, `failed_commit`, `recovery` | the journal: commits, failures, damaged pages |
//! | `exclusive_trial`, `engine_journal` | isolation of a suspect; the journal as the engine sees it |
//! | `state`, `suspects`, `open` | parts of a transport; trials of suspects; opening a folder |
//! | `read_only`, `find`, `prune`, `inspection` | reading a folder that another process may use |
//! | `mod` | the connector and the transport |
//!
//! # Invariants
//! - A publication is confirmed after its commit is on the disk (`synchronous = FULL`).
//! - A message is in one row of one table: `message`, `delayed` or `suspect`. Its id gives its
//!   queue and its sequence number there; no id is used twice.
//! - The table `queue` has the counts of each queue; a commit changes counts and rows together.
//! - Memory changes only after the commit, in the order of the commits.
//! - An ack may be lost by a crash: its message is redelivered. An acked message is never
//!   handed out again by the same process.
//! - A row that cannot be read stays in the file; the rows beside it are served.
//!
//! # Recovery
//! SQLite recovers the file from its write-ahead log. Messages that the in-flight log of the
//! last process lists, and whose rows are still there, were in flight during a crash: `open`
//! counts that before anything is handed out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Inspection,
    Outgoing, Prune, Pruned, SearchBounds, SearchQuery, SearchResult, Status, StrandedQueue,
    Topology, Transport, TransportError,
};
use brickwork::{Message, QueueId};
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

mod address;
mod catalog;
mod commit;
mod delays;
mod disk_space;
mod engine_journal;
mod exclusive_trial;
mod failed_commit;
mod find;
mod health;
mod in_flight_log;
mod inspection;
mod journal;
mod open;
mod prune;
mod read_only;
mod record;
mod recovery;
mod schema;
mod state;
mod statements;
mod suspects;
mod write_op;
mod write_queue;
mod write_state;

use self::state::TransportState;
use suspects::SuspectQueue;
use write_op::{KnownQueues, WriteOp};

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

    /// Returns the folder `queues` in the data folder.
    fn default_url(&self, data: &Path) -> Option<String> {
        Some(address::url(&data.join("queues")))
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
            let inspecting = move || inspection::inspect(&folder, &topology);
            let inspected = tokio::task::spawn_blocking(inspecting).await;
            inspected.map_err(|_| failed("no thread is available to inspect it".into()))
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
            let opened = open::open(folder.clone(), pressure).await;
            let (state, suspects) = opened.map_err(|error| failed(error.0))?;
            Ok(Arc::new(Queues::start(state, suspects, folder)) as Arc<dyn Transport>)
        })
    }

    fn search_offline<'a>(
        &'a self,
        url: &'a str,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(async move {
            let folder = address::folder(url).map_err(|why| failed(url, why))?;
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
    state: Arc<TransportState>,
    suspects: Arc<SuspectQueue>,
    folder: PathBuf,
    runtime: Handle,
    tasks: Vec<AbortHandle>,
    closed: watch::Sender<bool>,
}

impl Queues {
    fn start(state: Arc<TransportState>, suspects: SuspectQueue, folder: PathBuf) -> Self {
        let suspects = Arc::new(suspects);
        let tasks = vec![
            tokio::spawn(state.journal.clone().run()).abort_handle(),
            tokio::spawn(state.journal.clone().run_timer()).abort_handle(),
            tokio::spawn(suspects.clone().run()).abort_handle(),
        ];
        Self {
            state,
            suspects,
            folder,
            runtime: Handle::current(),
            tasks,
            closed: watch::Sender::new(false),
        }
    }

    async fn declare_queues(&self, topology: &Topology, make: bool) -> Result<(), TransportError> {
        let (reply, outcome) = oneshot::channel();
        let (engine, suspects) = (self.state.engine.clone(), self.suspects.clone());
        let declared = topology.clone();
        let add = move |known: KnownQueues| {
            engine.declare(&declared, |id| {
                let (number, mut counts) = known.get(id).copied()?;
                counts.suspects = suspects.count(number);
                Some((number, counts))
            })
        };
        self.state.journal.push(WriteOp::Declare {
            topology: topology.clone(),
            make,
            done: Box::new(|known| {
                // The caller may no longer wait.
                let _gone = reply.send(known.and_then(add));
            }),
        });
        outcome.await.unwrap_or(Err(TransportError::Closed))
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
        Box::pin(self.declare_queues(topology, true))
    }

    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(self.declare_queues(topology, false))
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        self.state.engine.publish(batch, done);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            let consumer = self.state.engine.consume(queue, bound)?;
            let number = consumer.queue().number();
            self.suspects.try_before_consuming(number).await;
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let TransportState {
            engine, exclusive, ..
        } = &*self.state;
        engine.ask(request, within, |request| {
            exclusive.ask(&engine.queues_asked(request))
        })
    }

    fn late_replies(&self) -> u64 {
        self.state.engine.replies().late()
    }

    fn overflowed(&self, queue: &QueueId) -> u64 {
        self.state.engine.overflowed(queue)
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { self.state.engine.depth(queue) })
    }

    fn stranded<'a>(
        &'a self,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Vec<StrandedQueue>, TransportError>> {
        let (folder, topology) = (self.folder.clone(), topology.clone());
        Box::pin(async move {
            let found = move || prune::stranded(&folder, &topology);
            match tokio::task::spawn_blocking(found).await {
                Ok(found) => found.map_err(|error| TransportError::Lost(error.to_string())),
                Err(_) => Err(TransportError::Closed),
            }
        })
    }

    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(find::find(self.folder.clone(), wanted, bounds))
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.state.journal.health.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async {
            let (reply, outcome) = oneshot::channel();
            self.state.journal.push(WriteOp::Flush { reply });
            outcome.await.unwrap_or(Err(TransportError::Closed))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // In a task: it is completed even if the caller stops waiting.
        if self.state.engine.close() {
            for task in &self.tasks {
                task.abort();
            }
            let (state, closed) = (self.state.clone(), self.closed.clone());
            self.runtime.spawn(async move {
                state.journal.close().await;
                state.in_flight_log.clear();
                *state.lock.lock() = None;
                state.journal.health.ended();
                closed.send_replace(true);
            });
        }
        Box::pin(async {
            let mut closed = self.closed.subscribe();
            // The sender is `self`, so it is there.
            let _closed = closed.wait_for(|closed| *closed).await;
        })
    }
}

impl Drop for Queues {
    /// Without [`Transport::close`]: leaves the folder as a crash would.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // First: messages in flight stay recorded.
        self.state.in_flight_log.detach();
        drop(self.state.journal.abort());
        self.state.engine.close();
        *self.state.lock.lock() = None;
    }
}
