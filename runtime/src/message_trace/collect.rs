//! Gathering what is known: from a running app, or from what one left behind.
//!
//! Queues are looked at first, then hands, then trails: whatever moves on meanwhile is seen
//! where it came to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::descendants::Descendants;
use super::findings::{Findings, Holding};
use super::port_graph::Wiring;
use super::query::TraceQuery;
use super::report::Trace;
use super::stores::Stores;
use super::tree::{TreeBounds, build};
use crate::app::AppStatus;
use crate::attempts::{ClockPair, KEPT};
use crate::clock::{Clock, Rfc3339, unix_ms};
use crate::dead_letters::{Bounds, DeadLetters};
use crate::host::ServiceHandle;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::transport::{
    Connector, SearchBounds, SearchQuery, SearchResult, Transport, TransportError,
};

/// So often what was found may name a trace that was not looked for yet.
const PASSES: usize = 3;
/// So many ids are looked up in inboxes.
const LOOKED_UP_MAX: usize = 50_000;
/// So many services are named in one line.
const NAMED_MAX: usize = 10;

/// Where an app's messages can be looked for.
pub(crate) struct TraceCollector {
    pub(crate) wiring: Wiring,
    /// The data folder of the app, where its stores are.
    pub(crate) data: PathBuf,
    pub(crate) redactor: Arc<Redactor>,
    /// The app, if this process runs it.
    pub(crate) view: Option<Arc<AppStatus>>,
    pub(crate) queues: QueueAccess,
}

/// How the queues can be reached.
pub(crate) enum QueueAccess {
    /// By the transport; dead letters also where queues can't be searched.
    Live(Arc<dyn Transport>, DeadLetters),
    /// By what was left in files.
    Left,
    /// Not at all, and why.
    Nowhere(String),
}

impl TraceCollector {
    /// One that looks at services alone, which have no wires.
    #[cfg(test)]
    pub(crate) fn of(view: Arc<AppStatus>) -> Arc<Self> {
        Arc::new(Self {
            wiring: Wiring::default(),
            data: PathBuf::new(),
            redactor: Arc::default(),
            view: Some(view),
            queues: QueueAccess::Nowhere("the queues".into()),
        })
    }

    /// Follows a message. `left` is who made the transport, and its URL: of an app that
    /// doesn't run, whose queues are [`QueueAccess::Left`].
    pub(crate) async fn trace(
        &self,
        question: &TraceQuery,
        left: Option<(&dyn Connector, &str)>,
    ) -> Trace {
        let mut wanted = question.wanted();
        let mut evidence = Findings::default();
        for _ in 0..PASSES {
            evidence = Findings::default();
            evidence.looked_ms = Clock::SYSTEM.unix_ms();
            self.look_at_queues(&wanted, left, &mut evidence).await;
            self.look_at_services(&wanted, &mut evidence);
            let more = evidence.traces(wanted.ids.iter());
            let known = wanted.traces.len();
            wanted.traces.extend(more);
            if wanted.traces.len() == known {
                break;
            }
        }
        let mut evidence = self.look_at_stores(wanted, evidence).await;
        self.say_what_is_missing(&mut evidence);
        let trace = build(question, &evidence, &self.wiring, TreeBounds::default());
        trace.clean(&self.redactor)
    }

    async fn look_at_queues(
        &self,
        wanted: &SearchQuery,
        left: Option<(&dyn Connector, &str)>,
        evidence: &mut Findings,
    ) {
        let bounds = SearchBounds::default();
        let searched = match (&self.queues, left) {
            (QueueAccess::Live(transport, _), _) => transport.find(wanted, bounds).await,
            (QueueAccess::Left, Some((connector, url))) => {
                connector.search_offline(url, wanted, bounds).await
            }
            (QueueAccess::Nowhere(why), _) => return evidence.missed(why.clone()),
            (QueueAccess::Left, None) => Ok(SearchResult::default()),
        };
        match (searched, &self.queues) {
            (Ok(searched), _) => {
                let text = "every queue: what waits, what waits for its time, dead letters";
                evidence.looked_at.push(text.into());
                evidence.searched = searched.missed.is_empty();
                searched
                    .missed
                    .into_iter()
                    .for_each(|it| evidence.missed(it));
                searched
                    .messages
                    .into_iter()
                    .for_each(|it| evidence.found(it));
            }
            (Err(TransportError::Unsupported(_)), QueueAccess::Live(transport, letters)) => {
                let scheme = transport.scheme();
                evidence.missed(format!(
                    "what waits in queues: those of {scheme}: can't be searched, only its \
                     dead-letter queues"
                ));
                look_at_letters(letters, wanted, evidence).await;
            }
            (Err(error), _) => evidence.missed(format!("the queues: {error}")),
        }
    }

    /// What services of this process have in hand, and what they handled last.
    fn look_at_services(&self, wanted: &SearchQuery, evidence: &mut Findings) {
        let Some(view) = &self.view else { return };
        let here = view.services.iter().map(|service| &service.hosted);
        let here: Vec<_> = here.filter(|hosted| !hosted.is_apart()).collect();
        for hosted in &here {
            look_in_hands(hosted, wanted, evidence);
        }
        let mut forgotten = Vec::new();
        for hosted in &here {
            let now = ClockPair::now(&hosted.clock);
            let steps = hosted.attempts.find(|step| {
                wanted.ids.contains(&step.id) || wanted.traces.contains(&step.trace_id())
            });
            for step in &steps {
                let output = |number: usize| hosted.outputs[number].name.clone();
                evidence.tried(step, step.at_ms(now), &hosted.label, &hosted.inputs, output);
            }
            if let Some(unix_ms) = hosted.attempts.since_ms(now) {
                forgotten.push(format!("of {} since {}", hosted.label, Rfc3339 { unix_ms }));
            }
        }
        let started = Rfc3339 {
            unix_ms: unix_ms(view.started),
        };
        let mut text = format!(
            "what each service handled last, up to {KEPT} attempts, since the app started at \
             {started}"
        );
        let more = forgotten.len().saturating_sub(NAMED_MAX);
        for since in forgotten.iter().take(NAMED_MAX) {
            text.push_str(&format!(", {since}"));
        }
        if more > 0 {
            text.push_str(&format!(", and of {more} others not all of it"));
        }
        evidence.looked_at.push(text);
    }

    /// Outboxes, and, generation after generation, inboxes: they know ids alone.
    async fn look_at_stores(&self, wanted: SearchQuery, mut evidence: Findings) -> Findings {
        if !self.wiring.services.iter().any(|it| it.has_store) {
            return evidence;
        }
        let (wiring, data) = (self.wiring.clone(), self.data.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        let looking = tokio::task::spawn_blocking(move || {
            let stores = Stores::open(&wiring, &data, &mut evidence);
            if !stores.is_empty() {
                stores.outboxes(&wanted, &mut evidence);
                look_at_inboxes(&stores, &wiring, &wanted, &mut evidence);
            }
            // Who asked is still there: this is awaited.
            let _told = tell.send(evidence);
        });
        let ended = looking.await;
        match (ended, told.await) {
            (Ok(()), Ok(evidence)) => evidence,
            _ => {
                let mut evidence = Findings::default();
                evidence.missed("everything: there is no thread to look");
                evidence
            }
        }
    }

    fn say_what_is_missing(&self, evidence: &mut Findings) {
        if self.view.is_none() {
            let data = self.data.display();
            evidence.missed(format!(
                "no app runs with the data folder {data}: what its services handled is known \
                 from their stores alone"
            ));
            return;
        }
        let named = |labels: Vec<&str>| match labels.len() {
            count if count > NAMED_MAX => {
                let more = count - NAMED_MAX;
                format!("{} and {more} others", labels[..NAMED_MAX].join(", "))
            }
            _ => labels.join(", "),
        };
        let services = self
            .wiring
            .services
            .iter()
            .filter(|it| !it.inputs.is_empty());
        let (here, elsewhere): (Vec<_>, Vec<_>) = services.partition(|it| it.runs_here);
        let apart = here
            .iter()
            .filter(|it| it.apart && self.is_apart(&it.label));
        let apart: Vec<&str> = apart.map(|it| &*it.label).collect();
        if !apart.is_empty() {
            let apart = named(apart);
            evidence.missed(format!(
                "what {apart} handled: they run in processes of their own, which aren't asked"
            ));
        }
        let elsewhere: Vec<&str> = elsewhere.iter().map(|it| &*it.label).collect();
        if !elsewhere.is_empty() {
            let elsewhere = named(elsewhere);
            evidence.missed(format!(
                "what {elsewhere} handled: other processes run them"
            ));
        }
    }

    fn is_apart(&self, label: &str) -> bool {
        let view = self.view.iter();
        let mut services = view.flat_map(|view| &view.services);
        services.any(|it| *it.hosted.label == *label && it.hosted.is_apart())
    }
}

fn look_in_hands(hosted: &ServiceHandle, wanted: &SearchQuery, evidence: &mut Findings) {
    let env = hosted.env();
    let mut held = Vec::new();
    env.mailbox.each(|delivery| {
        if wanted.covers(delivery.message()) {
            held.push((
                delivery.message().clone(),
                delivery.attempt(),
                delivery.input(),
                false,
            ));
        }
    });
    for hand in &*env.in_flight.lock() {
        hand.each(|delivery| {
            if wanted.covers(delivery.message()) {
                held.push((
                    delivery.message().clone(),
                    delivery.attempt(),
                    delivery.input(),
                    true,
                ));
            }
        });
    }
    for (message, attempt, input, handled) in held {
        let at = QueueId::new(&hosted.label, &hosted.inputs[input]);
        let holding = Holding {
            at,
            attempt,
            handled,
        };
        evidence.holds(&message, holding);
    }
}

async fn look_at_letters(letters: &DeadLetters, wanted: &SearchQuery, evidence: &mut Findings) {
    let services: Vec<String> = letters.services().map(str::to_owned).collect();
    let mut looked = Vec::new();
    let mut rest = services.into_iter();
    while let Some(service) = rest.next() {
        match letters.search(&service, wanted, Bounds::default()).await {
            Ok(found) => {
                if found.more {
                    evidence.missed(format!("not all dead letters of {service}: too many"));
                }
                for letter in found.letters {
                    evidence.letter(&service, letter);
                }
                looked.push(service);
            }
            Err(TransportError::NoQueue(_)) => {}
            Err(error) => {
                evidence.missed(format!("the dead letters of {service}: {error}"));
                // The next ones would fail alike.
                let rest: Vec<String> = rest.by_ref().collect();
                if !rest.is_empty() {
                    evidence.missed(format!("the dead letters of {}", rest.join(", ")));
                }
            }
        }
    }
    if !looked.is_empty() {
        let text = format!("the dead letters of {}", looked.join(", "));
        evidence.looked_at.push(text);
    }
}

fn look_at_inboxes(
    stores: &Stores,
    wiring: &Wiring,
    wanted: &SearchQuery,
    evidence: &mut Findings,
) {
    let mut asked = BTreeSet::new();
    let mut next: BTreeSet<_> = evidence.ids().chain(&wanted.ids).cloned().collect();
    let bounds = TreeBounds::default();
    loop {
        let mut family = Descendants::new(evidence, wiring, bounds.ids);
        let mut parents = BTreeMap::new();
        for id in &next {
            let children = family.candidates(id).into_iter();
            parents.extend(children.map(|child| (child, id.clone())));
        }
        let ids: Vec<_> = next
            .iter()
            .chain(parents.keys())
            .filter(|id| asked.insert((*id).clone()))
            .cloned()
            .collect();
        if asked.len() > LOOKED_UP_MAX {
            evidence.missed(format!("inboxes: more than {LOOKED_UP_MAX} ids to look up"));
            return;
        }
        let found = stores.inboxes(&ids, evidence);
        if found.is_empty() {
            return;
        }
        // Of whom some children are known now there may be more.
        let again = found.iter().filter_map(|id| parents.get(id).cloned());
        next = again.chain(found.iter().cloned()).collect();
    }
}
