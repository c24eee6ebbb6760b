//! Finds cycles of queues that all reject messages above their limit.
//!
//! A message stays in its queue until its outputs are confirmed. If every queue of a cycle
//! may refuse those outputs, all queues can be full and wait for each other for ever.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::codes;
use super::report::Problems;
use super::suggest::list;
use super::table_reader::Section;
use crate::app::ServicePlan;
use crate::transport::Overflow;

/// Reports each cycle once, at `overflow = "reject"` of its first service.
pub(super) fn check(top: &Section<'_>, services: &[ServicePlan], out: &mut Problems) {
    let fed = fed(services);
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

/// Returns, for each service, the rejecting services that it feeds. Asks do not count: an
/// ask that is refused fails the handler, and the attempt counts.
fn fed(services: &[ServicePlan]) -> Vec<BTreeSet<usize>> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, service) in services.iter().enumerate().filter(|(_, s)| rejects(s)) {
        for topic in service.inputs.iter().flat_map(|input| &input.topics) {
            readers.entry(topic).or_default().push(index);
        }
    }
    let fed_by = |service: &ServicePlan| {
        let ports = &service.blueprint.ports().outputs;
        let outputs = service.outputs.iter().zip(ports);
        let published = outputs.filter(|(_, port)| port.reply.is_none());
        let topics = published.flat_map(|(wired, _)| &wired.topics);
        let fed = topics.filter_map(|topic| readers.get(&**topic)).flatten();
        fed.copied().collect()
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
