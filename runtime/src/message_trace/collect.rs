//! Reads every place that knows something about a message, in a running app or in the files of
//! a stopped one.
//!
//! Order: queues first, then messages in flight, then histories, then stores. A message that
//! moves on meanwhile is seen where it arrived.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::findings::Findings;
use super::history::{AttemptHistory, ClockPair, KEPT};
use super::links::Links;
use super::port_graph::PortGraph;
use super::query::{TraceQuery, root_of};
use super::report::Trace;
use super::stores::Stores;
use super::tree::build;
use crate::clock::{Clock, Rfc3339, unix_ms};
use crate::dead_letters::{Bounds, DeadLetters};
use crate::delivery::Delivery;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::transport::{
    Connector, SearchBounds, SearchQuery, SearchResult, Transport, TransportError,
};

/// Searches with the traces that the search before found.
const PASSES: usize = 3;
/// Maximum ids of possible messages.
const DERIVED_IDS_MAX: usize = 50_000;
/// Maximum services named in one line.
const NAMED_MAX: usize = 10;

/// A service of this process, as a trace reads it.
pub(crate) trait LocalService: Send + Sync {
    fn label(&self) -> &str;
    /// Whether a child process runs the service. Its history and its messages in flight are
    /// in that process.
    fn is_remote(&self) -> bool;
    fn input(&self, number: usize) -> &Arc<str>;
    fn output(&self, number: usize) -> &Arc<str>;
    fn clock(&self) -> &Clock;
    fn history(&self) -> &AttemptHistory;
    /// Calls `visit` with each delivery in the mailbox (`false`) and in a handler (`true`).
    fn each_in_flight(&self, visit: &mut dyn FnMut(&Delivery, bool));
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
        let mut findings = Findings::default();
        for _ in 0..PASSES {
            findings = Findings::default();
            findings.queues_read_ms = Clock::SYSTEM.unix_ms();
            self.read_queues(&wanted, offline, &mut findings).await;
            self.read_services(&wanted, &mut findings);
            let traces_before = wanted.traces.len();
            wanted.traces.extend(findings.traces(wanted.ids.iter()));
            if wanted.traces.len() == traces_before {
                break;
            }
        }
        self.report_unread_services(&mut findings);
        let (graph, data, asked) = (self.graph.clone(), self.data.clone(), query.clone());
        // Reading stores blocks the thread.
        let built = tokio::task::spawn_blocking(move || {
            let stores = Stores::open(&graph, &data, &mut findings);
            stores.read_outboxes(&wanted, &mut findings);
            let ids = [asked.id().clone()].into_iter();
            let ids = ids.chain(asked.trace_id().map(root_of));
            let read = |ids: &[_], findings: &mut _| stores.read_inboxes(ids, findings);
            let links = Links::find(&mut findings, &graph, ids, DERIVED_IDS_MAX, read);
            build(&asked, &findings, &links, &graph)
        });
        let trace = built.await.unwrap_or_else(|error| {
            let mut findings = Findings::default();
            findings.miss(format!("everything: {error}"));
            build(query, &findings, &Links::default(), &self.graph)
        });
        trace.clean(&self.redactor)
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
                findings.all_queues_read = result.missed.is_empty();
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
        let local = running.services.iter().filter(|it| !it.is_remote());
        let local: Vec<&dyn LocalService> = local.map(|service| &**service).collect();
        for service in &local {
            service.each_in_flight(&mut |delivery, handled| {
                let message = delivery.message();
                if wanted.covers(message) {
                    let at = QueueId::new(service.label(), service.input(delivery.input()));
                    findings.add_in_flight(message, at, handled, delivery.attempt());
                }
            });
        }
        let mut limited = Vec::new();
        for service in &local {
            let now = ClockPair::now(service.clock());
            let records = service.history().find(|record| {
                wanted.ids.contains(&record.id) || wanted.traces.contains(&record.trace_id())
            });
            for record in &records {
                let at = QueueId::new(service.label(), service.input(record.input.into()));
                let output = |number| service.output(number).clone();
                findings.add_attempt(record, record.ended_ms(now), at, output);
            }
            if let Some(unix_ms) = service.history().oldest_if_full(now) {
                limited.push(format!("{} since {}", service.label(), Rfc3339 { unix_ms }));
            }
        }
        let unix_ms = unix_ms(running.since);
        let mut text = format!(
            "the last {KEPT} attempts of each service, since the app started at {}",
            Rfc3339 { unix_ms }
        );
        if !limited.is_empty() {
            text.push_str(&format!("; of {}", listed(&limited)));
        }
        findings.looked_at.push(text);
    }

    /// Names the services whose history this process doesn't have.
    fn report_unread_services(&self, findings: &mut Findings) {
        let Some(running) = &self.running else {
            findings.miss(format!(
                "no app runs with the data folder {}: attempts are not known, only stores",
                self.data.display()
            ));
            return;
        };
        let remote = running.services.iter().filter(|it| it.is_remote());
        let remote: Vec<&str> = remote.map(|service| service.label()).collect();
        let handles = self
            .graph
            .services
            .iter()
            .filter(|it| !it.inputs.is_empty());
        let (here, elsewhere): (Vec<_>, Vec<_>) = handles.partition(|it| it.runs_here);
        let in_children = here.into_iter().filter(|it| remote.contains(&&*it.label));
        for (services, place) in [
            (in_children.collect(), "in child processes"),
            (elsewhere, "in other processes"),
        ] {
            let labels: Vec<String> = services.iter().map(|it| it.label.to_string()).collect();
            if !labels.is_empty() {
                let labels = listed(&labels);
                findings.miss(format!("attempts of {labels}: they run {place}"));
            }
        }
    }
}

/// The names, or the first of many.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} others"),
    }
}

async fn read_dead_letters(letters: &DeadLetters, wanted: &SearchQuery, findings: &mut Findings) {
    let services: Vec<String> = letters.services().map(str::to_owned).collect();
    let mut read = Vec::new();
    for (number, service) in services.iter().enumerate() {
        match letters.search(service, wanted, Bounds::default()).await {
            Ok(found) => {
                if found.more {
                    findings.miss(format!(
                        "some dead letters of {service}: there are too many"
                    ));
                }
                for letter in found.letters {
                    findings.add_dead_letter(service, letter);
                }
                read.push(service.clone());
            }
            Err(TransportError::NoQueue(_)) => {}
            Err(error) => {
                // The other queues would fail the same way.
                let unread = listed(&services[number..]);
                findings.miss(format!("dead letters of {unread}: {error}"));
                break;
            }
        }
    }
    if !read.is_empty() {
        let text = format!("dead letters of {}", listed(&read));
        findings.looked_at.push(text);
    }
}
