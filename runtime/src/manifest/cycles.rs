//! Cycles of queues that reject: a way round on which, once all are full, none can empty.
//!
//! A message stays in its queue until what came of it was taken over. Where every queue
//! of a cycle may refuse that, all can wait for each other for ever.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::spanned_toml::{Entry, Value};
use super::suggest::list;
use super::table_reader::Section;
use crate::app::ServicePlan;
use crate::transport::Overflow;

/// Reports each cycle once, where the first of its services says `reject`.
pub(super) fn check(top: &Section<'_>, services: &[ServicePlan], out: &mut Problems) {
    let fed = fed(services);
    let mut known = vec![false; services.len()];
    for start in 0..services.len() {
        if known[start] || !rejects(&services[start]) {
            continue;
        }
        let Some(cycle) = way_round(start, &fed) else {
            continue;
        };
        for &service in &cycle {
            known[service] = true;
        }
        let labels = cycle.iter().chain([&start]);
        let way: Vec<String> = labels
            .map(|&index| format!("`{}`", services[index].label))
            .collect();
        let message = format!(
            "messages can go round ({}), and every queue on the way rejects: when all are full, \
             none can empty",
            way.join(" → ")
        );
        let help = "let one of them dead-letter what comes beyond its limit, or have none: ";
        let help = help.to_owned() + &list(cycle.iter().map(|&index| &*services[index].label));
        let place = place(top, &services[start].label).unwrap_or(top.place);
        out.add(codes::BLOCKING_CYCLE, place, message, Some(help));
    }
}

fn rejects(service: &ServicePlan) -> bool {
    service.settings.queue.limit.is_some() && service.settings.queue.overflow == Overflow::Reject
}

/// Which services that reject each service feeds. What one asks is no output: if it can't
/// be asked, the handler fails and its message has had an attempt.
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

/// The shortest way from a service back to itself.
fn way_round(start: usize, fed: &[BTreeSet<usize>]) -> Option<Vec<usize>> {
    let mut came_from: Vec<Option<usize>> = vec![None; fed.len()];
    let mut next = VecDeque::from([start]);
    while let Some(from) = next.pop_front() {
        if fed[from].contains(&start) {
            // The start came from nowhere: there the way back ends.
            let way = std::iter::successors(Some(from), |&service| came_from[service]);
            let mut way: Vec<usize> = way.collect();
            way.reverse();
            return Some(way);
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

/// Where a service says `queue.overflow`.
fn place(top: &Section<'_>, label: &str) -> Option<Span> {
    let mut entry: Option<&Entry> = None;
    let mut table = top.table;
    for key in ["services", label, "queue", "overflow"] {
        let found = table.get(key)?;
        if let Value::Table(inner) = &found.node.value {
            table = inner;
        }
        entry = Some(found);
    }
    entry.map(Entry::place)
}
