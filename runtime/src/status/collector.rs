//! The collector: converts the meters of an app to Prometheus metrics.
//!
//! A scrape reads the meters that the hot path writes; no value is stored twice. Label values
//! are names of the manifest or of this crate, so their number is bounded. Every possible
//! series exists from the start with 0, because `rate` over a series that appears with its
//! first event would miss that event.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::app_status::{AppStatus, ServiceStatus, State};
use super::family::{Family, Spec};
use crate::metrics::{Cause, Outcome};
use crate::stderr;

const COUNTER: MetricType = MetricType::COUNTER;
const GAUGE: MetricType = MetricType::GAUGE;
const HISTOGRAM: MetricType = MetricType::HISTOGRAM;

/// The table of metrics: name, type, labels, help.
macro_rules! metrics {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(
            static $constant: Spec = Spec {
                name: concat!("brickwork_", $name),
                help: $help,
                kind: $kind,
                labels: &[$($label),*],
            };
        )*

        /// All metrics of an app, in the order of the documentation.
        static ALL: &[&Spec] = &[$(&$constant),*];
    };
}

metrics! {
    HANDLED = "messages_handled_total" COUNTER ["service", "input", "outcome"]
        "Attempts to handle a message, by outcome.";
    HANDLE = "handle_duration_seconds" HISTOGRAM ["service", "input"]
        "Run time of handlers, per message.";
    WAIT = "wait_duration_seconds" HISTOGRAM ["service", "input"]
        "Time from receiving a message from its queue to handling it.";
    EMITTED = "messages_emitted_total" COUNTER ["service", "output"]
        "Messages that the transport has confirmed, counted once per topic.";
    ANONYMOUS = "messages_anonymous_total" COUNTER ["service"]
        "Attempts to handle a message without an id, whose duplicates can't be detected.";
    MAILBOX = "mailbox_messages" GAUGE ["service"]
        "Messages in the mailbox, received from a queue and waiting for an instance.";
    INSTANCES = "instances" GAUGE ["service"]
        "Instances that have started and can handle messages.";
    RESTARTS = "restarts_total" COUNTER ["service", "reason"]
        "Restarts of instances, sources and bridges, by reason.";
    GROUP_RESTARTS = "group_restarts_total" COUNTER ["group"]
        "Times that the supervisor of a group restarted services of it.";
    SERVICE_UP = "service_up" GAUGE ["service"]
        "1 if the service is ready and consumes all its inputs, or is a source that has ended.";
    BREAKER = "breaker_state" GAUGE ["service"]
        "State of the circuit breaker: 0 closed, 1 open, 2 half-open.";
    KEYS_HELD = "keys_held" GAUGE ["service"]
        "Keys whose message waits for its retry.";
    MESSAGES_BEHIND = "messages_behind_keys" GAUGE ["service"]
        "Messages that wait behind a message of their key.";
    DEAD_LETTERS = "dead_letters_total" COUNTER ["service", "reason"]
        "Messages that became dead letters, by reason.";
    QUEUE = "queue_messages" GAUGE ["service", "input"]
        "Messages in the queue of an input: ready, in flight or delayed. Dead letters have the input dlq.";
    QUEUE_HIGH_WATER = "queue_high_water_messages" GAUGE ["service", "input"]
        "The queue's high-water mark: sources that lead to it wait while it is above.";
    OUTBOX = "outbox_messages" GAUGE ["service"]
        "Messages that a service committed to its outbox and the transport has not confirmed.";
    REPEATED = "messages_repeated_total" COUNTER ["service"]
        "Redelivered messages that were already handled, and were acked without effect.";
    ENTITIES = "entities_active" GAUGE ["service"]
        "Entities in memory.";
    ENTITIES_STARTED = "entities_started_total" COUNTER ["service"]
        "Entities that came into memory: new ones, and those whose state was read.";
    ENTITIES_PASSIVATED = "entities_passivated_total" COUNTER ["service"]
        "Entities that left memory because they were idle, or because there were too many.";
    SOURCES_PAUSED = "sources_paused" GAUGE []
        "Sources that wait because a queue is above its high-water mark.";
    TRANSPORT_UP = "transport_up" GAUGE ["transport"]
        "1 if the transport works.";
    RECONNECTS = "transport_reconnects_total" COUNTER ["transport"]
        "Reconnections of the transport.";
    UNSETTLED = "settlements_failed_total" COUNTER ["transport"]
        "Failed attempts to settle a delivery: to store its retry, dead letter or reply.";
    OVERDUE = "delays_overdue" GAUGE ["transport"]
        "Delays whose messages have not arrived in time.";
    CLOCK_SKEW = "clock_skew_seconds" GAUGE ["transport"]
        "Seconds by which the broker's clock is ahead of this machine's. Deadlines of requests are corrected by it.";
    STRANDED = "stranded_messages" GAUGE ["transport"]
        "Messages in queues of the app that no service reads.";
    CONFIRM = "confirm_duration_seconds" HISTOGRAM ["transport"]
        "Time from publishing a message to its confirm.";
    ASKS = "asks_total" COUNTER ["service", "outcome"]
        "Requests that the service made, by outcome.";
    EXPIRED = "requests_expired_total" COUNTER ["service", "asker"]
        "Requests whose deadline passed before the service handled them, by the first 16 askers and others.";
    WORKER_LAG = "worker_lag_seconds" GAUGE ["worker"]
        "Greatest delay of a worker thread in the last 10 to 20 seconds.";
    LOG_LINES_DROPPED = "log_lines_dropped_total" COUNTER []
        "Log lines that were dropped since stderr was not read in time.";
    EVENTS_DROPPED = "events_dropped_total" COUNTER []
        "Events that were dropped since the transport did not take them in time.";
    BUILD_INFO = "build_info" GAUGE ["version"]
        "1, with the running version as label.";
}

/// Registers the metrics of an app and of its process.
///
/// # Errors
/// The registry already has metrics of the same names.
pub(crate) fn register(
    registry: &prometheus::Registry,
    view: Arc<AppStatus>,
) -> prometheus::Result<()> {
    registry.register(Box::new(AppCollector::new(view)))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    Ok(())
}

struct AppCollector {
    view: Arc<AppStatus>,
    descs: Vec<Desc>,
}

impl AppCollector {
    fn new(view: Arc<AppStatus>) -> Self {
        Self {
            view,
            descs: ALL.iter().map(|spec| spec.desc()).collect(),
        }
    }
}

impl Collector for AppCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let view = &*self.view;
        let mut families = service_families(view);
        families.extend(transport_families(view));
        let mut groups = Family::new(&GROUP_RESTARTS);
        for group in &view.groups {
            groups.add(&[&group.name], group.restarts.load(Relaxed) as f64);
        }
        let mut lags = Family::new(&WORKER_LAG);
        for (worker, lag) in view.workers.recent().enumerate() {
            lags.add(&[&worker.to_string()], lag.as_secs_f64());
        }
        let mut dropped = Family::new(&LOG_LINES_DROPPED);
        dropped.add(&[], stderr::lines_dropped() as f64);
        let mut events = Family::new(&EVENTS_DROPPED);
        events.add(&[], view.events.dropped() as f64);
        let mut build = Family::new(&BUILD_INFO);
        build.add(&[env!("CARGO_PKG_VERSION")], 1.0);
        families.extend([groups, lags, dropped, events, build]);
        families.into_iter().map(Family::done).collect()
    }
}

fn service_families(view: &AppStatus) -> Vec<Family> {
    let mut messages = MessageFamilies::new();
    let mut emitted = Family::new(&EMITTED);
    let mut anonymous = Family::new(&ANONYMOUS);
    let mut mailbox = Family::new(&MAILBOX);
    let mut instances = Family::new(&INSTANCES);
    let mut restarts = Family::new(&RESTARTS);
    let mut up = Family::new(&SERVICE_UP);
    let mut breakers = Family::new(&BREAKER);
    let mut keys = Family::new(&KEYS_HELD);
    let mut behind = Family::new(&MESSAGES_BEHIND);
    let mut letters = Family::new(&DEAD_LETTERS);
    let mut queues = Family::new(&QUEUE);
    let mut marks = Family::new(&QUEUE_HIGH_WATER);
    let mut asks = Family::new(&ASKS);
    let mut expired = Family::new(&EXPIRED);
    let mut outbox = Family::new(&OUTBOX);
    let mut repeated = Family::new(&REPEATED);
    let mut entities = Family::new(&ENTITIES);
    let mut started = Family::new(&ENTITIES_STARTED);
    let mut passivated = Family::new(&ENTITIES_PASSIVATED);
    for service in &view.services {
        let (env, meters) = (service.env(), &service.hosted.meters);
        let label = &*env.label;
        messages.add(service);
        for (output, count) in env.outputs.iter().zip(meters.outputs()) {
            emitted.add(&[label, &output.name], count as f64);
        }
        instances.add(&[label], service.instances_ready() as f64);
        for (reason, count) in meters.restarts() {
            // A source has the reason `source` and no other; `process` applies to every service.
            let of_source = reason == Cause::Source.as_str();
            if of_source == service.is_source() || reason == Cause::Process.as_str() {
                restarts.add(&[label, reason], count as f64);
            }
        }
        let works = matches!(
            service.state(),
            State::Up | State::Paused | State::StandingBy | State::Ended
        );
        up.add(&[label], f64::from(u8::from(works)));
        for (outcome, count) in meters.asks() {
            asks.add(&[label, outcome], count as f64);
        }
        if service.is_source() {
            continue;
        }
        if env.stores.is_some() {
            let figures = service.hosted.figures();
            outbox.add(&[label], figures.outbox as f64);
            repeated.add(&[label], figures.repeated as f64);
        }
        if service.hosted.holds_entities() {
            entities.add(&[label], service.hosted.figures().entities as f64);
            started.add(&[label], meters.entities.started.get() as f64);
            passivated.add(&[label], meters.entities.passivated.get() as f64);
        }
        if let Some(breaker) = service.hosted.breaker_status() {
            breakers.add(&[label], breaker.metric());
        }
        let held = service.hosted.keys_held().unwrap_or_default();
        keys.add(&[label], held.keys as f64);
        behind.add(&[label], held.messages as f64);
        for (asker, count) in meters.expired.counts() {
            expired.add(&[label, &asker], count as f64);
        }
        anonymous.add(&[label], meters.anonymous.get() as f64);
        mailbox.add(&[label], service.hosted.waiting() as f64);
        for (reason, count) in service.hosted.dead_letters() {
            letters.add(&[label, reason], count as f64);
        }
        for queue in service.queues() {
            if !queue.is_auxiliary() {
                marks.add(&[label, &queue.input], env.settings.queue.high_water as f64);
            }
            if let Some(depth) = view.depth(&queue) {
                queues.add(&[label, &queue.input], depth.total() as f64);
            }
        }
    }
    let MessageFamilies {
        handled,
        handle,
        wait,
    } = messages;
    vec![
        handled, handle, wait, emitted, anonymous, mailbox, instances, restarts, up, breakers,
        keys, behind, letters, queues, marks, asks, expired, outbox, repeated, entities, started,
        passivated,
    ]
}

/// The metrics of each input.
struct MessageFamilies {
    handled: Family,
    handle: Family,
    wait: Family,
}

impl MessageFamilies {
    fn new() -> Self {
        Self {
            handled: Family::new(&HANDLED),
            handle: Family::new(&HANDLE),
            wait: Family::new(&WAIT),
        }
    }

    fn add(&mut self, service: &ServiceStatus) {
        let env = &service.hosted;
        for (input, meter) in env.inputs.iter().zip(&env.meters.inputs) {
            for (outcome, counter) in Outcome::NAMES.iter().zip(&meter.outcomes) {
                let labels = [&*env.label, &**input, outcome];
                self.handled.add(&labels, counter.get() as f64);
            }
            let labels = [&*env.label, &**input];
            self.handle.add_durations(&labels, &meter.handle);
            self.wait.add_durations(&labels, &meter.wait);
        }
    }
}

fn transport_families(view: &AppStatus) -> Vec<Family> {
    let scheme = view.transport.scheme();
    let status = view.transport_status();
    let mut paused = Family::new(&SOURCES_PAUSED);
    paused.add(&[], view.sources_paused() as f64);
    let mut up = Family::new(&TRANSPORT_UP);
    up.add(&[scheme], f64::from(u8::from(status.down.is_none())));
    let mut reconnects = Family::new(&RECONNECTS);
    reconnects.add(&[scheme], status.reconnects as f64);
    let figures = [
        (&UNSETTLED, status.failed_settlements),
        (&OVERDUE, status.overdue_delays),
        (&STRANDED, view.stranded_messages()),
    ];
    let figures = figures.map(|(spec, value)| {
        let mut family = Family::new(spec);
        family.add(&[scheme], value as f64);
        family
    });
    let mut confirm = Family::new(&CONFIRM);
    // All services of an app share one histogram.
    let mut confirms = view.services.iter();
    if let Some(confirms) = confirms.find_map(|service| service.hosted.confirms.as_ref()) {
        confirm.add_durations(&[scheme], &confirms.lock());
    }
    let mut skew = Family::new(&CLOCK_SKEW);
    skew.add(&[scheme], status.clock_skew_ms as f64 / 1000.0);
    let mut families = vec![paused, up, reconnects, skew];
    families.extend(figures);
    families.push(confirm);
    families
}

#[cfg(test)]
mod tests;
