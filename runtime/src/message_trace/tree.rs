//! Builds the answer from the facts: a tree of messages, and the state of each at every input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::{AttemptInfo, Findings, MessageFindings, time};
use super::links::Links;
use super::port_graph::PortGraph;
use super::query::{TraceQuery, root_of};
use super::report::{EmittedBy, Hop, MessageState, Trace, TracedMessage};
use crate::id::MessageId;
use crate::names::QueueId;
use crate::trace_context::TraceContext;

/// Maximum messages in an answer.
const MESSAGES_MAX: usize = 1_000;
/// Maximum generations in an answer. JSON readers limit the nesting, too.
const DEPTH_MAX: usize = 50;
/// A transport may write an ack this much later. Until then the acked message can still be seen
/// in its queue.
const ACK_DELAY_MS: u64 = 2_000;

/// Builds the answer.
pub(super) fn build(
    query: &TraceQuery,
    findings: &Findings,
    links: &Links,
    graph: &PortGraph,
) -> Trace {
    let mut builder = TreeBuilder {
        findings,
        links,
        graph,
        shown: BTreeSet::new(),
        cut: links
            .is_cut
            .then(|| "too many ids to look up: messages may be missing".to_owned()),
    };
    let messages: Vec<TracedMessage> = roots(query, findings, links)
        .iter()
        .filter_map(|id| builder.message(id, None, 0))
        .collect();
    let own_trace = findings.get(query.id()).and_then(|it| it.trace_id);
    let trace_id = own_trace
        .or_else(|| query.trace_id())
        .or_else(|| (!messages.is_empty()).then(|| TraceContext::root(query.id()).trace_id));
    let ancestors = std::iter::successors(links.parent(query.id()), |id| links.parent(id));
    Trace {
        app: graph.app.to_string(),
        asked: query.to_string(),
        found: !messages.is_empty(),
        trace_id: trace_id.map(|trace| format!("{trace:032x}")),
        came_of: ancestors.take(DEPTH_MAX).map(ToString::to_string).collect(),
        messages,
        looked_at: findings.looked_at.clone(),
        missed: findings.missed.clone(),
        cut: builder.cut,
    }
}

/// The messages at the top of the answer: the one that is asked for, and the first messages of
/// the trace that is asked for, the earliest first.
fn roots(query: &TraceQuery, findings: &Findings, links: &Links) -> Vec<MessageId> {
    let mut roots = Vec::new();
    let id = query.id();
    if findings.get(id).is_some() || links.has_children(id) {
        roots.push(id.clone());
    }
    let Some(trace) = query.trace_id() else {
        return roots;
    };
    let mut first: BTreeMap<MessageId, u64> = BTreeMap::new();
    for (id, message) in findings.iter().filter(|(_, it)| it.trace_id == Some(trace)) {
        let above = std::iter::successors(Some(id), |id| links.parent(id));
        let top = above.take(DEPTH_MAX).last().unwrap_or(id);
        let earliest = message.attempts.iter().map(|it| it.ended_ms).min();
        let earliest = earliest.unwrap_or(u64::MAX);
        let since = first.entry(top.clone()).or_insert(earliest);
        *since = earliest.min(*since);
    }
    let root = root_of(trace);
    if first.is_empty() && links.has_children(&root) {
        first.insert(root, 0);
    }
    first.remove(id);
    let mut first: Vec<(u64, MessageId)> = first.into_iter().map(|(id, at)| (at, id)).collect();
    first.sort();
    roots.extend(first.into_iter().map(|(_, id)| id));
    roots
}

struct TreeBuilder<'a> {
    findings: &'a Findings,
    links: &'a Links,
    graph: &'a PortGraph,
    shown: BTreeSet<MessageId>,
    /// Why the answer is not complete.
    cut: Option<String>,
}

impl TreeBuilder<'_> {
    /// A message with all that it led to; `None` when there are too many.
    fn message(
        &mut self,
        id: &MessageId,
        by: Option<EmittedBy>,
        depth: usize,
    ) -> Option<TracedMessage> {
        if self.shown.len() >= MESSAGES_MAX {
            self.cut = Some(format!(
                "stopped after {MESSAGES_MAX} messages: trace one of those below by its id"
            ));
            return None;
        }
        let found = self.findings.get(id);
        let info = found.and_then(|found| found.info.as_ref());
        let output = by.as_ref().and_then(|by| by.output.as_deref());
        let topics = match (&by, output) {
            (Some(by), Some(output)) => self.graph.topics_of_output(&by.service, output),
            _ => info.map(|info| info.topic.clone()).into_iter().collect(),
        };
        let mut message = TracedMessage {
            id: id.to_string(),
            by,
            kind: info.map(|info| info.kind.to_string()),
            topics: topics.iter().map(ToString::to_string).collect(),
            ..TracedMessage::default()
        };
        if !self.shown.insert(id.clone()) {
            message.shown_before = true;
            return Some(message);
        }
        message.outboxes = found.map(|it| it.outboxes.clone()).unwrap_or_default();
        let children = self.links.children(id);
        message.hops = self.hops(found, &topics, &children);
        if depth >= DEPTH_MAX && !children.is_empty() {
            self.cut = Some(format!("stopped {depth} messages deep"));
            return Some(message);
        }
        for (child, by) in children {
            match self.message(&child, Some(by), depth + 1) {
                Some(child) => message.led_to.push(child),
                None => break,
            }
        }
        Some(message)
    }

    /// The state of the message at every input that has a record of it or reads its topic.
    fn hops(
        &self,
        found: Option<&MessageFindings>,
        topics: &[Arc<str>],
        children: &[(MessageId, EmittedBy)],
    ) -> Vec<Hop> {
        let mut inputs = found.map(MessageFindings::inputs).unwrap_or_default();
        // A message in an outbox has not reached the readers yet.
        let outboxes = found.map_or(&[][..], |found| &found.outboxes);
        let is_published = |topic: &&Arc<str>| !outboxes.iter().any(|it| it.topic == ***topic);
        let published: Vec<Arc<str>> = topics.iter().filter(is_published).cloned().collect();
        inputs.extend(self.graph.readers(&published));
        let mut hops: Vec<Hop> = inputs.iter().map(|at| self.hop(at, found)).collect();
        let services: Vec<String> = hops.iter().map(|hop| hop.service.clone()).collect();
        for hop in &mut hops {
            // A child shows that the service handled the message; at which of several inputs
            // is not known.
            let is_only_input = services.iter().filter(|it| **it == hop.service).count() == 1;
            let has_child = children.iter().any(|(_, by)| by.service == hop.service);
            if hop.now == MessageState::Unknown && is_only_input && has_child {
                // A message that is to come again would have been seen in a queue.
                hop.now = match self.findings.all_queues_read {
                    true => MessageState::Done,
                    false => MessageState::Handled,
                };
            }
        }
        hops
    }

    fn hop(&self, at: &QueueId, found: Option<&MessageFindings>) -> Hop {
        let mut hop = Hop {
            service: at.service.to_string(),
            input: at.input.to_string(),
            attempts: Vec::new(),
            stored_at: None,
            now: MessageState::Unknown,
        };
        let Some(found) = found else { return hop };
        let mut attempts: Vec<&AttemptInfo> =
            found.attempts.iter().filter(|it| it.at == *at).collect();
        attempts.sort_by_key(|it| it.ended_ms);
        hop.attempts = attempts.iter().map(|it| it.shown.clone()).collect();
        let mut entries = found.inbox_entries.iter().filter(|(input, _)| input == at);
        hop.stored_at = entries.next().map(|(_, at_ms)| time(*at_ms));
        let last = attempts.last().copied();
        let read_ms = self.findings.queues_read_ms;
        hop.now = seen_state(at, found, last, read_ms)
            .or_else(|| last.and_then(|last| state_after(last, read_ms)))
            .or_else(|| hop.stored_at.is_some().then_some(MessageState::Done))
            .unwrap_or(MessageState::Unknown);
        hop
    }
}

/// The state of a copy that was seen; `None` if there is none, or if the last attempt ended
/// afterwards.
fn seen_state(
    at: &QueueId,
    found: &MessageFindings,
    last: Option<&AttemptInfo>,
    read_ms: u64,
) -> Option<MessageState> {
    // Queues are read first: a later attempt is newer.
    if last.is_some_and(|last| last.ended_ms >= read_ms) {
        return None;
    }
    let is_acked = |attempt: u32| {
        last.is_some_and(|last| {
            last.retry_at_ms.is_none()
                && last.shown.attempt >= attempt
                && last.ended_ms + ACK_DELAY_MS >= read_ms
        })
    };
    let seen = found.sightings.iter().filter(|it| it.at == *at);
    let unacked = seen.filter(|it| !it.unacked_attempt.is_some_and(is_acked));
    let rank = |state: &MessageState| match state {
        MessageState::DeadLettered { .. } => 3,
        MessageState::InFlight { handled: true, .. } => 2,
        MessageState::InFlight { .. } => 1,
        _ => 0,
    };
    let best = unacked.max_by_key(|it| rank(&it.state));
    best.map(|it| it.state.clone())
}

/// The state that the last attempt left the message in.
fn state_after(last: &AttemptInfo, read_ms: u64) -> Option<MessageState> {
    if last.dead_lettered {
        return Some(MessageState::GivenUp);
    }
    let outcome = &*last.shown.outcome;
    match (outcome, last.retry_at_ms) {
        ("ok", _) => Some(MessageState::Done),
        ("expired", _) => Some(MessageState::Expired),
        // The queues could not be read; the retry is still to come.
        (_, Some(due_ms)) if due_ms + ACK_DELAY_MS >= read_ms => Some(MessageState::Delayed {
            until: time(due_ms),
            attempt: last.shown.attempt + u32::from(outcome != "defer"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
