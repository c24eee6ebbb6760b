//! Finds cycles of queues that all reject messages above their limit.
//!
//! A message stays in its queue until its outputs are confirmed. If every queue of a cycle
//! may refuse those outputs, all queues can be full and wait for each other for ever.
//!
//! Warns of cycles of requests, too.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::codes;
use super::report::Problems;
use super::suggest::list;
use super::table_reader::Section;
use crate::app::ServicePlan;
use crate::service::Kind;
use crate::transport::Overflow;

/// Reports each cycle once, at `overflow = "reject"` of its first service.
pub(super) fn check(top: &Section<'_>, services: &[ServicePlan], out: &mut Problems) {
    let fed = fed(services, |service, asks| rejects(service) && !asks);
    let mut known = vec![false; services.len()];
    for start in 0..services.len() {
        if known[start] || !rejects(&services[start]) {
            continue;
        }
        let Some(cycle) = cycle_through(start, &fed) else {
            continue;
        };
        for &service in &cycle {
            known[service] = true;
        }
        let labels = cycle.iter().chain([&start]);
        let path: Vec<String> = labels
            .map(|&index| format!("`{}`", services[index].label))
            .collect();
        let message = format!(
            "the queues of a cycle all reject above their limits: {}; once all are full, none \
             can empty",
            path.join(" → ")
        );
        let help = "set `overflow = \"dead-letter\"` for one of them, or remove its `limit`: ";
        let help = help.to_owned() + &list(cycle.iter().map(|&index| &*services[index].label));
        let label = &services[start].label;
        let place = top.place_at(&["services", label, "queue", "overflow"]);
        out.add(codes::BLOCKING_CYCLE, place, message, Some(help));
    }
}

fn rejects(service: &ServicePlan) -> bool {
    service.settings.queue.limit.is_some() && service.settings.queue.overflow == Overflow::Reject
}

/// Warns of each ring of requests once, at its first service. If a service of the ring has one
/// instance, that instance waits for an answer that needs itself.
pub(super) fn warn_of_asks(top: &Section<'_>, services: &[ServicePlan], out: &mut Problems) {
    let asked = fed(services, |_, asks| asks);
    let mut known = vec![false; services.len()];
    for start in 0..services.len() {
        if known[start] {
            continue;
        }
        let Some(ring) = cycle_through(start, &asked) else {
            continue;
        };
        for &service in &ring {
            known[service] = true;
        }
        let single = ring
            .iter()
            .find(|service| has_one_instance(&services[**service]));
        let Some(&single) = single else {
            continue;
        };
        let labels = ring.iter().chain([&start]);
        let path: Vec<String> = labels
            .map(|&index| format!("`{}`", services[index].label))
            .collect();
        let single = &services[single].label;
        let message = format!(
            "the services of a ring ask each other: {}; the only instance of `{single}` waits for \
             an answer that may need it, until its time is over",
            path.join(" → ")
        );
        let help = format!(
            "emit a message in place of a request, or give every service of the ring more \
             `instances` than messages are in the ring at once; `{single}` has one"
        );
        let place = top.place_at(&["services", &services[start].label]);
        out.add(codes::ASK_RING, place, message, Some(help));
    }
}

fn has_one_instance(service: &ServicePlan) -> bool {
    let lanes = match service.blueprint.role() {
        Kind::Service(factory) => factory.concurrency(),
        Kind::Source(_) => 1,
    };
    service.settings.instances.max.saturating_mul(lanes) == 1
}

/// Returns, for each service, the services that it feeds. `counts` gets a reader, and whether
/// the port is one of requests. In a cycle of full queues asks do not count: an ask that is
/// refused fails the handler, and the attempt counts.
fn fed(
    services: &[ServicePlan],
    counts: impl Fn(&ServicePlan, bool) -> bool,
) -> Vec<BTreeSet<usize>> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        for topic in service.inputs.iter().flat_map(|input| &input.topics) {
            readers.entry(topic).or_default().push(index);
        }
    }
    let fed_by = |service: &ServicePlan| {
        let ports = &service.blueprint.ports().outputs;
        let mut fed = BTreeSet::new();
        for (wired, port) in service.outputs.iter().zip(ports) {
            let read = wired
                .topics
                .iter()
                .filter_map(|topic| readers.get(&**topic));
            let asks = port.reply.is_some();
            fed.extend(read.flatten().filter(|it| counts(&services[**it], asks)));
        }
        fed
    };
    services.iter().map(fed_by).collect()
}

/// Returns the shortest cycle through a service.
fn cycle_through(start: usize, fed: &[BTreeSet<usize>]) -> Option<Vec<usize>> {
    let mut came_from: Vec<Option<usize>> = vec![None; fed.len()];
    let mut next = VecDeque::from([start]);
    while let Some(from) = next.pop_front() {
        if fed[from].contains(&start) {
            // The start has no predecessor, so the walk back ends there.
            let path = std::iter::successors(Some(from), |&service| came_from[service]);
            let mut path: Vec<usize> = path.collect();
            path.reverse();
            return Some(path);
        }
        for &to in &fed[from] {
            if came_from[to].is_none() {
                came_from[to] = Some(from);
                next.push_back(to);
            }
        }
    }
    None
}
