//! From what is known of messages to their way: a function over values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::descendants::{Child, Descendants};
use super::findings::{AttemptInfo, Findings, MessageFindings};
use super::port_graph::Wiring;
use super::query::{TraceQuery, root_of};
use super::report::{Attempt, EmittedBy, Hop, MessageState, Outboxed, Trace, TracedMessage};
use crate::clock::Rfc3339;
use crate::id::MessageId;
use crate::names::QueueId;
use crate::trace_context::TraceContext;
use crate::transport::QueueSection;

/// How much is shown, and tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreeBounds {
    pub(super) messages: usize,
    pub(super) depth: usize,
    /// Ids that are made.
    pub(super) ids: usize,
}

impl Default for TreeBounds {
    fn default() -> Self {
        Self {
            messages: 1_000,
            // What is read as JSON may not be nested much deeper.
            depth: 50,
            ids: 200_000,
        }
    }
}

/// What is settled is on its way to the disk for a moment: so long after an attempt, a copy
/// that is still seen there is taken for the same.
const SETTLING_MS: u64 = 2_000;

/// Puts the way together.
pub(super) fn build(
    question: &TraceQuery,
    evidence: &Findings,
    wiring: &Wiring,
    bounds: TreeBounds,
) -> Trace {
    let mut family = Descendants::new(evidence, wiring, bounds.ids);
    let parents = parents(&mut family, bounds);
    let mut asked = Vec::new();
    if let Some(trace) = question.trace_id() {
        asked = beginnings(evidence, &parents, trace);
        let root = root_of(trace);
        if asked.is_empty() && family.by_parent.contains_key(&root) {
            asked.push(root);
        }
    }
    if family.knows(question.id()) || !family.children(question.id()).is_empty() {
        asked.retain(|id| id != question.id());
        asked.insert(0, question.id().clone());
    }
    let mut builder = Builder {
        family,
        evidence,
        wiring,
        bounds,
        shown: BTreeSet::new(),
        cut: None,
    };
    let messages: Vec<TracedMessage> = asked
        .iter()
        .filter_map(|id| builder.message(id, None, 0))
        .collect();
    let cut = match builder.family.is_spent() {
        true => Some(format!("stopped after {} ids were tried", bounds.ids)),
        false => builder.cut,
    };
    let trace_id = question
        .trace_id()
        .filter(|_| !evidence.knows(question.id()))
        .or_else(|| evidence.of(question.id())?.trace_id)
        .or_else(|| (!messages.is_empty()).then(|| TraceContext::root(question.id()).trace_id));
    Trace {
        app: wiring.app.to_string(),
        asked: question.to_string(),
        found: !messages.is_empty(),
        trace_id: trace_id.map(|trace| format!("{trace:032x}")),
        came_of: ancestors(question.id(), &parents, bounds.depth),
        messages,
        looked_at: evidence.looked_at.clone(),
        missed: evidence.missed.clone(),
        cut,
    }
}

/// Of which message each known one came.
fn parents(family: &mut Descendants<'_>, bounds: TreeBounds) -> BTreeMap<MessageId, MessageId> {
    let mut parents = BTreeMap::new();
    let mentioned = family.by_parent.keys().copied();
    let known: BTreeSet<&MessageId> = family.evidence.ids().chain(mentioned).collect();
    for parent in known {
        if family.ids_left < bounds.ids / 2 {
            // The rest is for what is shown.
            break;
        }
        for child in family.children(parent) {
            parents.insert(child.id, parent.clone());
        }
    }
    parents
}

fn ancestors(
    id: &MessageId,
    parents: &BTreeMap<MessageId, MessageId>,
    depth: usize,
) -> Vec<String> {
    let mut above = Vec::new();
    let mut at = id;
    while let Some(parent) = parents.get(at).filter(|_| above.len() < depth) {
        above.push(parent.to_string());
        at = parent;
    }
    above
}

/// The messages that a trace begins with, as far as it is known: the earliest first.
fn beginnings(
    evidence: &Findings,
    parents: &BTreeMap<MessageId, MessageId>,
    trace: u128,
) -> Vec<MessageId> {
    let of_trace = evidence
        .iter()
        .filter(|(_, known)| known.trace_id == Some(trace));
    let mut first: BTreeSet<(u64, MessageId)> = BTreeSet::new();
    for (id, known) in of_trace {
        let mut top = id;
        let mut height = 0;
        while let Some(parent) = parents.get(top).filter(|_| height < 64) {
            top = parent;
            height += 1;
        }
        let times = known.tries.iter().map(|it| it.at_ms);
        first.insert((times.min().unwrap_or(u64::MAX), top.clone()));
    }
    let mut ids: Vec<MessageId> = Vec::new();
    for (_, id) in first {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

struct Builder<'a> {
    family: Descendants<'a>,
    evidence: &'a Findings,
    wiring: &'a Wiring,
    bounds: TreeBounds,
    shown: BTreeSet<MessageId>,
    cut: Option<String>,
}

impl Builder<'_> {
    /// A message with all that it led to; `None` when there are too many.
    fn message(
        &mut self,
        id: &MessageId,
        by: Option<EmittedBy>,
        depth: usize,
    ) -> Option<TracedMessage> {
        if self.shown.len() >= self.bounds.messages {
            self.cut = Some(format!(
                "stopped after {} messages: ask for one of those below by its id",
                self.bounds.messages
            ));
            return None;
        }
        let known = self.evidence.of(id);
        let about = known.and_then(|known| known.about.as_ref());
        let topics = match (&by, about) {
            (Some(by), _) if by.output.is_some() => self.topics(by),
            (_, Some(about)) => vec![about.topic.clone()],
            _ => Vec::new(),
        };
        let mut tracked = TracedMessage {
            id: id.to_string(),
            by,
            kind: about.map(|about| about.kind.to_string()),
            topics: topics.iter().map(ToString::to_string).collect(),
            ..TracedMessage::default()
        };
        if !self.shown.insert(id.clone()) {
            tracked.shown_before = true;
            return Some(tracked);
        }
        let outbox = known.map_or(&[][..], |known| &known.outbox);
        tracked.outboxes = outbox.iter().map(outboxed).collect();
        let mut hops = known.map(MessageFindings::hops).unwrap_or_default();
        // What is still in an outbox has come to nobody.
        let published = topics
            .iter()
            .filter(|topic| !outbox.iter().any(|it| it.topic == **topic))
            .cloned();
        let published: Vec<Arc<str>> = published.collect();
        hops.extend(self.wiring.readers(&published));
        let hops = hops.into_iter();
        tracked.hops = hops
            .map(|at| hop(&at, known, self.evidence.looked_ms))
            .collect();
        let children = self.family.children(id);
        self.conclude(&mut tracked.hops, &children);
        if depth >= self.bounds.depth && !children.is_empty() {
            self.cut = Some(format!("stopped {depth} messages deep"));
            return Some(tracked);
        }
        for child in children {
            match self.message(&child.id, Some(child.by), depth + 1) {
                Some(child) => tracked.led_to.push(child),
                None => break,
            }
        }
        Some(tracked)
    }

    /// An id that is made of a message's proves that it was handled. Whether it is done with
    /// is known where it would be seen otherwise, or where what came of it was committed.
    fn conclude(&self, hops: &mut [Hop], children: &[Child]) {
        let inputs: Vec<String> = hops.iter().map(|hop| hop.service.clone()).collect();
        let unknown = hops
            .iter_mut()
            .filter(|hop| hop.now == MessageState::Unknown);
        for hop in unknown {
            // Of a service that reads it on several inputs nobody knows which one it was.
            if inputs.iter().filter(|it| **it == hop.service).count() > 1 {
                continue;
            }
            let mut proofs = children
                .iter()
                .filter(|child| child.by.output.is_some() && child.by.service == hop.service)
                .peekable();
            if proofs.peek().is_none() {
                continue;
            }
            let committed = |child: &Child| {
                let known = self.evidence.of(&child.id);
                known.is_some_and(|known| known.outbox.iter().any(|it| *it.service == hop.service))
            };
            hop.now = match self.evidence.searched || proofs.any(committed) {
                true => MessageState::Done,
                false => MessageState::Handled,
            };
        }
    }

    fn topics(&self, by: &EmittedBy) -> Vec<Arc<str>> {
        let output = by.output.as_deref().unwrap_or_default();
        let service = self.wiring.service(&by.service);
        let port = service.and_then(|service| service.output(output));
        port.map(|port| port.topics.clone()).unwrap_or_default()
    }
}

fn time(unix_ms: u64) -> String {
    Rfc3339 { unix_ms }.to_string()
}

fn outboxed(it: &super::findings::Outboxed) -> Outboxed {
    Outboxed {
        service: it.service.to_string(),
        topic: it.topic.to_string(),
        until: it.due_ms.map(time),
        refused: it.refused.clone(),
    }
}

/// A message at an input.
fn hop(at: &QueueId, known: Option<&MessageFindings>, looked_ms: u64) -> Hop {
    let mut hop = Hop {
        service: at.service.to_string(),
        input: at.input.to_string(),
        attempts: Vec::new(),
        stored_at: None,
        now: MessageState::Unknown,
    };
    let Some(known) = known else { return hop };
    let mut tries: Vec<&AttemptInfo> = known.tries.iter().filter(|it| it.at == *at).collect();
    tries.sort_by_key(|it| it.at_ms);
    let attempts = tries.iter().map(|it| Attempt {
        attempt: it.attempt,
        outcome: it.outcome.to_owned(),
        at: time(it.at_ms),
        took_us: it.took.as_micros() as u64,
    });
    hop.attempts = attempts.collect();
    let mut entries = known.entries.iter().filter(|it| it.at == *at);
    hop.stored_at = entries.next().map(|entry| time(entry.at_ms));
    hop.now = whereabouts(at, known, tries.last().copied(), looked_ms);
    if hop.now == MessageState::Unknown && hop.stored_at.is_some() {
        hop.now = MessageState::Done;
    }
    hop
}

/// Where a message is: in a queue or in hand, if it is seen there, unless it has gone on
/// since; else where its last attempt has left it.
fn whereabouts(
    at: &QueueId,
    known: &MessageFindings,
    last: Option<&AttemptInfo>,
    looked_ms: u64,
) -> MessageState {
    // Queues were looked at first: what came later counts.
    let since = last.filter(|it| it.at_ms >= looked_ms);
    if since.is_none() {
        if let Some(dead) = known.letters.iter().find(|dead| dead.at() == *at) {
            let why = dead.letter.why.as_ref();
            return MessageState::DeadLettered {
                reason: why.map(|why| why.reason),
                error: why.map(|why| why.error.clone()),
                attempts: why.map(|why| why.attempts),
                at: why.map(|why| time(why.failed_at_ms)),
            };
        }
        let mut held: Vec<_> = known.held.iter().filter(|it| it.at == *at).collect();
        held.sort_by_key(|it| it.handled);
        if let Some(held) = held.last() {
            return MessageState::InHand {
                handled: held.handled,
                attempt: held.attempt,
            };
        }
        // It is done, and the disk doesn't know yet.
        let settling = |attempt: u32| {
            last.is_some_and(|it| {
                it.again_at_ms.is_none()
                    && it.attempt >= attempt
                    && it.at_ms + SETTLING_MS >= looked_ms
            })
        };
        for queued in known.queued.iter().filter(|it| it.at == *at) {
            let attempt = queued.attempt;
            match queued.place {
                QueueSection::Delayed { due_ms, .. } => {
                    return MessageState::Delayed {
                        until: time(due_ms),
                        attempt,
                    };
                }
                QueueSection::Suspect => return MessageState::Suspect { attempt },
                _ if settling(attempt) => {}
                QueueSection::InHand => {
                    return MessageState::InHand {
                        handled: false,
                        attempt,
                    };
                }
                QueueSection::Ready { ahead } => return MessageState::Waiting { ahead },
            }
        }
    }
    match last {
        None => MessageState::Unknown,
        Some(it) if it.gave_up => MessageState::GivenUp,
        Some(it) => match (it.outcome, it.again_at_ms) {
            ("ok", _) => MessageState::Done,
            ("expired", _) => MessageState::Expired,
            // Where the queues can't be searched, this is all that is known.
            (outcome, Some(due_ms)) if due_ms + SETTLING_MS >= looked_ms => MessageState::Delayed {
                until: time(due_ms),
                attempt: it.attempt + u32::from(outcome != "defer"),
            },
            _ => MessageState::Unknown,
        },
    }
}

#[cfg(test)]
mod tests;
