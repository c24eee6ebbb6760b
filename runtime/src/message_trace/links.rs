//! Which message led to which.
//!
//! A message carries the id of its parent. Places that record ids alone (histories, inboxes)
//! don't show it. But the id of an emitted message is derived from its parent's id, the
//! service, the output and a number, so the ids of possible children are computed and looked
//! up. The history of a service says how many children there were. Without a history, [`GAP`]
//! more numbers are tried than children are known.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{AttemptInfo, Findings, MessageFindings};
use super::port_graph::{GraphService, PortGraph};
use super::report::EmittedBy;
use crate::id::MessageId;
use crate::names::QueueId;

/// Numbers tried beyond the known children of a message.
const GAP: u32 = 8;

/// The children and parents of the messages that were found.
#[derive(Debug, Default)]
pub(super) struct Links {
    children: BTreeMap<MessageId, BTreeMap<MessageId, EmittedBy>>,
    parents: BTreeMap<MessageId, MessageId>,
    /// The limit of derived ids was reached: children may be missing.
    pub(super) is_cut: bool,
}

/// A possible child of a message.
struct Candidate {
    parent: MessageId,
    id: MessageId,
    by: EmittedBy,
    /// A history counts it.
    is_recorded: bool,
}

impl Links {
    /// Links every message that was found to its children, generation after generation.
    ///
    /// `asked` are ids that may not be recorded themselves. `read_inboxes` adds the inbox
    /// entries of some ids to the findings. At most `ids_max` ids are derived.
    pub(super) fn find(
        findings: &mut Findings,
        graph: &PortGraph,
        asked: impl IntoIterator<Item = MessageId>,
        ids_max: usize,
        mut read_inboxes: impl FnMut(&[MessageId], &mut Findings),
    ) -> Self {
        let mut links = Self::default();
        for (id, message) in findings.iter() {
            if let Some(parent) = message.parent() {
                let source = message.info.as_ref().map_or("", |info| &info.source);
                let by = EmittedBy {
                    service: source.rsplit('/').next().unwrap_or_default().to_owned(),
                    output: None,
                    index: None,
                };
                links.add(parent, id, by);
            }
        }
        let mut generation: BTreeSet<MessageId> = asked.into_iter().collect();
        generation.extend(findings.iter().map(|(id, _)| id.clone()));
        generation.extend(links.children.keys().cloned());
        let mut looked_up = BTreeSet::new();
        let mut ids_left = ids_max;
        while !generation.is_empty() {
            let mut candidates = Vec::new();
            for parent in &generation {
                candidates.extend(links.candidates(parent, findings, graph, &mut ids_left));
            }
            let ids = generation.iter().chain(candidates.iter().map(|it| &it.id));
            let new: Vec<MessageId> = ids
                .filter(|id| looked_up.insert((*id).clone()))
                .cloned()
                .collect();
            read_inboxes(&new, findings);
            generation.clear();
            for candidate in candidates {
                let is_known = findings.get(&candidate.id).is_some()
                    || links.children.contains_key(&candidate.id);
                if (candidate.is_recorded || is_known)
                    && links.add(&candidate.parent, &candidate.id, candidate.by)
                {
                    // The parent again: there may be children with higher numbers.
                    generation.extend([candidate.id, candidate.parent]);
                }
            }
            if ids_left == 0 {
                links.is_cut = true;
                break;
            }
        }
        links
    }

    /// Returns whether the child is new.
    fn add(&mut self, parent: &MessageId, child: &MessageId, by: EmittedBy) -> bool {
        let children = self.children.entry(parent.clone()).or_default();
        let is_new = !children.contains_key(child);
        if is_new || by.output.is_some() {
            children.insert(child.clone(), by);
        }
        self.parents
            .entry(child.clone())
            .or_insert_with(|| parent.clone());
        is_new
    }

    /// Whether the message led to another one.
    pub(super) fn has_children(&self, id: &MessageId) -> bool {
        self.children.contains_key(id)
    }

    /// The messages that this one led to, by service, output and number.
    pub(super) fn children(&self, id: &MessageId) -> Vec<(MessageId, EmittedBy)> {
        let children = self.children.get(id).into_iter().flatten();
        let mut children: Vec<_> = children.map(|(id, by)| (id.clone(), by.clone())).collect();
        children.sort_by(|a, b| a.1.cmp(&b.1));
        children
    }

    pub(super) fn parent(&self, id: &MessageId) -> Option<&MessageId> {
        self.parents.get(id)
    }

    /// The ids that children of this message have, or would have.
    fn candidates(
        &self,
        parent: &MessageId,
        findings: &Findings,
        graph: &PortGraph,
        ids_left: &mut usize,
    ) -> Vec<Candidate> {
        let message = findings.get(parent);
        let known_children = self.children.get(parent).map_or(0, BTreeMap::len) as u32;
        let mut candidates = Vec::new();
        for service in possible_handlers(message, graph) {
            let last = message.and_then(|message| last_success(message, &service.label));
            let tried = match last.is_none_or(|last| last.may_have_more) {
                true => known_children + GAP,
                false => 0,
            };
            for output in &service.outputs {
                let emitted = last.and_then(|last| {
                    let mut counts = last.emitted.iter();
                    counts.find(|(name, _)| *name == output.name)
                });
                let emitted = emitted.map_or(0, |(_, count)| *count);
                for index in 0..emitted.max(tried) {
                    if *ids_left == 0 {
                        return candidates;
                    }
                    *ids_left -= 1;
                    candidates.push(Candidate {
                        parent: parent.clone(),
                        id: parent.child(&service.label, &output.name, index),
                        by: EmittedBy {
                            service: service.label.to_string(),
                            output: Some(output.name.to_string()),
                            index: Some(index),
                        },
                        is_recorded: index < emitted,
                    });
                }
            }
        }
        candidates
    }
}

/// The services that may have handled a message: those with a record of it, and the readers of
/// its topic. If nothing is recorded, any service with inputs.
fn possible_handlers<'a>(
    message: Option<&MessageFindings>,
    graph: &'a PortGraph,
) -> Vec<&'a GraphService> {
    let inputs: BTreeSet<QueueId> = message.map(MessageFindings::inputs).unwrap_or_default();
    let topics = match message.and_then(|message| message.info.as_ref()) {
        Some(info) => vec![info.topic.clone()],
        None => graph.topics_of_inputs(&inputs),
    };
    let readers = graph.readers(&topics);
    let labels = inputs.iter().chain(&readers).map(|at| &*at.service);
    let labels: BTreeSet<&str> = labels.collect();
    let is_any = inputs.is_empty() && topics.is_empty();
    let services = graph.services.iter().filter(|it| !it.inputs.is_empty());
    services
        .filter(|service| is_any || labels.contains(&*service.label))
        .collect()
}

/// The last successful attempt of a service: its emitted messages are the children.
fn last_success<'a>(message: &'a MessageFindings, service: &str) -> Option<&'a AttemptInfo> {
    let attempts = message.attempts.iter();
    let successes = attempts.filter(|it| *it.at.service == *service && it.shown.outcome == "ok");
    successes.max_by_key(|it| it.ended_ms)
}
