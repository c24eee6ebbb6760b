//! Which messages one led to.
//!
//! That is never written down: their ids are made of its own, so they can be made again and
//! looked up. The trail of a service says how many there were; where there is none, as many
//! are tried as are known, and some more.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{AttemptInfo, Findings, MessageFindings};
use super::port_graph::{Wired, Wiring};
use super::report::EmittedBy;
use crate::id::MessageId;
use crate::names::QueueId;

/// After so many messages of which nothing is known, none comes any more.
const GAP: u32 = 8;
/// A message that another one led to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Child {
    pub(super) id: MessageId,
    pub(super) by: EmittedBy,
    /// It was emitted, whether or not anything is known of it.
    pub(super) certain: bool,
}

/// Makes the ids of what messages led to.
pub(super) struct Descendants<'a> {
    pub(super) evidence: &'a Findings,
    wiring: &'a Wiring,
    /// What is mentioned as a parent, with those that mention it.
    pub(super) by_parent: BTreeMap<&'a MessageId, Vec<&'a MessageId>>,
    pub(super) ids_left: usize,
}

impl<'a> Descendants<'a> {
    pub(super) fn new(evidence: &'a Findings, wiring: &'a Wiring, ids_max: usize) -> Self {
        let mut by_parent: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, known) in evidence.iter() {
            if let Some(parent) = known.about.as_ref().and_then(|about| about.parent.as_ref()) {
                by_parent.entry(parent).or_default().push(id);
            }
        }
        Self {
            evidence,
            wiring,
            by_parent,
            ids_left: ids_max,
        }
    }

    /// No more ids may be made.
    pub(super) fn is_spent(&self) -> bool {
        self.ids_left == 0
    }

    /// Whether anything is known of a message, if only that others came of it.
    pub(super) fn knows(&self, id: &MessageId) -> bool {
        self.evidence.knows(id) || self.by_parent.contains_key(id)
    }

    /// What is known to have come of a message, or must have.
    pub(super) fn children(&mut self, parent: &MessageId) -> Vec<Child> {
        let mut children = BTreeMap::new();
        self.each(parent, &mut |child, family| {
            let counts = child.certain || family.knows(&child.id);
            if counts {
                children.insert(child.id.clone(), child);
            }
            counts
        });
        for id in self.by_parent.get(parent).into_iter().flatten() {
            let about = self.evidence.of(id).and_then(|known| known.about.as_ref());
            let source = about.map_or("", |about| &about.source);
            let maker = source.rsplit('/').next().unwrap_or_default();
            children.entry((*id).clone()).or_insert_with(|| Child {
                id: (*id).clone(),
                by: EmittedBy {
                    service: maker.to_owned(),
                    output: None,
                    index: None,
                },
                certain: true,
            });
        }
        let mut children: Vec<Child> = children.into_values().collect();
        children.sort_by(|a, b| a.by.cmp(&b.by));
        children
    }

    /// Ids that may have come of a message, to be looked up: also some of which nothing is
    /// known.
    pub(super) fn candidates(&mut self, parent: &MessageId) -> Vec<MessageId> {
        let mut candidates = Vec::new();
        self.each(parent, &mut |child, family| {
            let counts = child.certain || family.knows(&child.id);
            candidates.push(child.id);
            counts
        });
        candidates
    }

    /// Makes the ids of what a message led to, one after the other; `visit` says whether
    /// each counts.
    fn each(&mut self, parent: &MessageId, visit: &mut dyn FnMut(Child, &Self) -> bool) {
        let known = self.evidence.of(parent);
        for service in self.handlers(known) {
            let exact = known.and_then(|known| emitted(known, &service.label));
            for output in &service.outputs {
                let counted = exact.map_or(0, |done| {
                    let mut counts = done.emitted.iter();
                    let count = counts.find(|(name, _)| *name == output.name);
                    count.map_or(0, |(_, count)| *count)
                });
                let may_be_more = exact.is_none_or(|done| done.more);
                let (mut index, mut misses) = (0, 0);
                while index < counted || (may_be_more && misses < GAP) {
                    if self.ids_left == 0 {
                        return;
                    }
                    self.ids_left -= 1;
                    let child = Child {
                        id: parent.child(&service.label, &output.name, index),
                        by: EmittedBy {
                            service: service.label.to_string(),
                            output: Some(output.name.to_string()),
                            index: Some(index),
                        },
                        certain: index < counted,
                    };
                    match visit(child, self) {
                        true => misses = 0,
                        false => misses += 1,
                    }
                    index += 1;
                }
            }
        }
    }

    /// The services that may have handled a message: those of which that is known, and those
    /// that read its topic, or, if nobody knows that, a topic by which it may have come to
    /// those; of a message of which nothing is known, any.
    fn handlers(&self, known: Option<&MessageFindings>) -> Vec<&'a Wired> {
        let hops: BTreeSet<QueueId> = known.map(MessageFindings::hops).unwrap_or_default();
        let topics = match known.and_then(|known| known.about.as_ref()) {
            Some(about) => vec![about.topic.clone()],
            None => self.wiring.topics_of(&hops),
        };
        let readers = self.wiring.readers(&topics);
        let all = hops.is_empty() && topics.is_empty();
        let named = hops.iter().chain(&readers).map(|hop| &*hop.service);
        let named: BTreeSet<&str> = named.collect();
        let services = self.wiring.services.iter();
        services
            .filter(|service| !service.inputs.is_empty())
            .filter(|service| all || named.contains(&*service.label))
            .collect()
    }
}

/// What a service emitted for a message in the last attempt that went well.
fn emitted<'a>(known: &'a MessageFindings, service: &str) -> Option<&'a AttemptInfo> {
    let tries = known.tries.iter();
    let done = tries.filter(|it| *it.at.service == *service && it.outcome == "ok");
    done.max_by_key(|it| it.at_ms)
}
