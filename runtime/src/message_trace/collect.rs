//! Reads every place that knows something about a message, in a running app or in the files of
//! a stopped one.
//!
//! Order: queues first, then messages in flight, then histories, then stores. A message that
//! moves on meanwhile is seen where it arrived.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::findings::Findings;
use super::history::KEPT;
use super::port_graph::PortGraph;
use super::query::TraceQuery;
use super::report::Trace;
use super::stores::Stores;
use super::tree::build;
use crate::clock::{Clock, Rfc3339, unix_ms};
use crate::dead_letters::{Bounds, DeadLetters};
use crate::redact::Redactor;
use crate::transport::{
    Connector, SearchBounds, SearchQuery, SearchResult, Transport, TransportError,
};

/// Searches with the traces that the search before found.
const PASSES: usize = 3;

/// A service of this process, as a trace reads it.
pub(crate) trait LocalService: Send + Sync {
    fn label(&self) -> &str;
    /// Whether a child process runs the service. Its history and its messages in flight are
    /// in that process.
    fn is_remote(&self) -> bool;
    /// Adds the messages in flight, then the attempts.
    fn find(&self, wanted: &SearchQuery, findings: &mut Findings);
}

/// The services that this process runs.
pub(crate) struct RunningServices {
    pub(crate) since: SystemTime,
    pub(crate) services: Vec<Arc<dyn LocalService>>,
}

/// Traces messages of one app.
pub(crate) struct TraceCollector {
    pub(crate) graph: PortGraph,
    /// The data folder of the app, with its stores.
    pub(crate) data: PathBuf,
    pub(crate) redactor: Arc<Redactor>,
    /// Missing if this process doesn't run the app.
    pub(crate) running: Option<RunningServices>,
    pub(crate) queues: QueueAccess,
}

/// How the queues are read.
pub(crate) enum QueueAccess {
    /// Over the transport. Where a transport has no search, dead letters are read.
    Live(Arc<dyn Transport>, DeadLetters),
    /// From the files of a stopped app.
    Offline,
    /// The queues can't be read; the text says why.
    Unavailable(String),
}

impl TraceCollector {
    /// A collector that has nothing to read.
    #[cfg(test)]
    pub(crate) fn empty() -> Arc<Self> {
        Arc::new(Self {
            graph: PortGraph::default(),
            data: PathBuf::new(),
            redactor: Arc::default(),
            running: None,
            queues: QueueAccess::Unavailable("queues: a test has none".into()),
        })
    }

    /// Traces a message. `offline` is the connector and the URL of a stopped app's transport,
    /// for [`QueueAccess::Offline`].
    pub(crate) async fn trace(
        &self,
        query: &TraceQuery,
        offline: Option<(&dyn Connector, &str)>,
    ) -> Trace {
        let mut wanted = query.wanted();
        let mut findings = Findings::new(self.redactor.clone());
        for _ in 0..PASSES {
            findings = Findings::new(self.redactor.clone());
            findings.queues_read_ms = Clock::SYSTEM.unix_ms();
            self.read_queues(&wanted, offline, &mut findings).await;
            self.read_services(&wanted, &mut findings);
            let traces_before = wanted.traces.len();
            let found = wanted.ids.iter().filter_map(|id| findings.messages.get(id));
            wanted.traces.extend(found.filter_map(|it| it.trace_id));
            if wanted.traces.len() == traces_before {
                break;
            }
        }
        self.report_unread_services(&mut findings);
        let (graph, data, asked) = (self.graph.clone(), self.data.clone(), query.clone());
        // Reading stores blocks the thread.
        let building = tokio::task::spawn_blocking(move || {
            let stores = Stores::open(&graph, &data, &mut findings);
            stores.read_outboxes(&wanted, &mut findings);
            build(&asked, findings, &stores, &graph)
        });
        building.await.expect("building a trace does not panic")
    }

    async fn read_queues(
        &self,
        wanted: &SearchQuery,
        offline: Option<(&dyn Connector, &str)>,
        findings: &mut Findings,
    ) {
        let bounds = SearchBounds::default();
        let result = match (&self.queues, offline) {
            (QueueAccess::Live(transport, letters), _) => {
                let result = transport.find(wanted, bounds).await;
                if let Err(TransportError::Unsupported(_)) = result {
                    let scheme = transport.scheme();
                    findings.miss(format!(
                        "queues: those of {scheme}: can't be searched, only its dead-letter \
                         queues"
                    ));
                    return read_dead_letters(letters, wanted, findings).await;
                }
                result
            }
            (QueueAccess::Offline, Some((connector, url))) => {
                connector.search_offline(url, wanted, bounds).await
            }
            (QueueAccess::Offline, None) => Ok(SearchResult::default()),
            (QueueAccess::Unavailable(reason), _) => return findings.miss(reason.clone()),
        };
        match result {
            Ok(result) => {
                let text = "all queues: ready, in flight, delayed and dead-lettered messages";
                findings.looked_at.push(text.into());
                result.missed.into_iter().for_each(|it| findings.miss(it));
                let messages = result.messages.into_iter();
                messages.for_each(|it| findings.add_queued(it));
            }
            Err(error) => findings.miss(format!("queues: {error}")),
        }
    }

    /// Reads the messages in flight and the histories of this process's services.
    fn read_services(&self, wanted: &SearchQuery, findings: &mut Findings) {
        let Some(running) = &self.running else { return };
        for service in running.services.iter().filter(|it| !it.is_remote()) {
            service.find(wanted, findings);
        }
        let unix_ms = unix_ms(running.since);
        findings.looked_at.push(format!(
            "the last {KEPT} attempts of each service, since the app started at {}",
            Rfc3339 { unix_ms }
        ));
    }

    /// Names the services whose history this process doesn't have.
    fn report_unread_services(&self, findings: &mut Findings) {
        let Some(running) = &self.running else {
            return findings.miss(format!(
                "no app runs with the data folder {}: attempts are not known, only stores",
                self.data.display()
            ));
        };
        let is_remote = |label: &str| {
            let mut services = running.services.iter();
            services.any(|service| service.label() == label && service.is_remote())
        };
        let handlers = self.graph.services.iter();
        for service in handlers.filter(|it| !it.inputs.is_empty()) {
            let label = &service.label;
            if !service.runs_here {
                findings.miss(format!("attempts of {label}: it runs in another process"));
            } else if is_remote(label) {
                findings.miss(format!("attempts of {label}: it runs in a child process"));
            }
        }
    }
}

async fn read_dead_letters(letters: &DeadLetters, wanted: &SearchQuery, findings: &mut Findings) {
    for service in letters.services() {
        match letters.search(service, wanted, Bounds::default()).await {
            Ok(found) => {
                let text = format!("dead letters of {service}");
                if found.more {
                    findings.miss(format!("some {text}: there are too many"));
                }
                for letter in found.letters {
                    findings.add_dead_letter(service, letter);
                }
                findings.looked_at.push(text);
            }
            Err(TransportError::NoQueue(_)) => {}
            // The other queues would fail the same way.
            Err(error) => {
                return findings.miss(format!("dead letters of {service} and others: {error}"));
            }
        }
    }
}
