//! Builds the answer from the records: a tree of messages, and the state of each at every input.
//!
//! A message carries the id of its parent, and an attempt records it. Inboxes record ids alone.
//! But the id of an emitted message is derived from its parent's id, the service, the output and
//! a number: the ids that children of a message would have are computed and looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::{Findings, MessageFindings, time};
use super::port_graph::PortGraph;
use super::query::{TraceQuery, root_of};
use super::report::{EmittedBy, Hop, MessageState, Trace, TracedMessage};
use super::stores::Stores;
use crate::id::MessageId;
use crate::names::QueueId;
use crate::trace_context::TraceContext;

/// Maximum messages in an answer.
const MESSAGES_MAX: usize = 1_000;
/// Maximum generations in an answer. JSON readers limit the nesting, too.
const DEPTH_MAX: usize = 50;
/// Maximum ids of possible children.
const DERIVED_IDS_MAX: usize = 50_000;
/// Numbers tried beyond the known children of a message.
const GAP: usize = 8;

/// Builds the answer.
pub(super) fn build(
    query: &TraceQuery,
    findings: Findings,
    stores: &Stores,
    graph: &PortGraph,
) -> Trace {
    let mut named: BTreeMap<MessageId, Vec<MessageId>> = BTreeMap::new();
    for (id, message) in &findings.messages {
        if let Some(parent) = &message.parent {
            named.entry(parent.clone()).or_default().push(id.clone());
        }
    }
    let mut builder = TreeBuilder {
        findings,
        stores,
        graph,
        named,
        looked_up: BTreeSet::new(),
        shown: BTreeSet::new(),
        cut: None,
    };
    let mut messages = Vec::new();
    for id in builder.roots(query) {
        let is_known = builder.is_known(&id);
        let message = builder.message(&id, None, 0);
        messages.extend(message.filter(|message| is_known || !message.led_to.is_empty()));
    }
    let own_trace = builder.findings.messages.get(query.id());
    let trace_id = own_trace
        .and_then(|found| found.trace_id)
        .or_else(|| query.trace_id())
        .or_else(|| (!messages.is_empty()).then(|| TraceContext::root(query.id()).trace_id));
    let findings = &builder.findings;
    let ancestors = builder.line_of(query.id()).skip(1);
    Trace {
        app: graph.app.to_string(),
        asked: findings.clean(query),
        found: !messages.is_empty(),
        trace_id: trace_id.map(|trace| format!("{trace:032x}")),
        came_of: ancestors.map(|id| findings.clean(id)).collect(),
        messages,
        looked_at: findings.looked_at.clone(),
        missed: findings.missed.clone(),
        cut: builder.cut,
    }
}

struct TreeBuilder<'a> {
    findings: Findings,
    stores: &'a Stores,
    graph: &'a PortGraph,
    /// The messages that name a message as their parent.
    named: BTreeMap<MessageId, Vec<MessageId>>,
    /// The ids that were looked up in the inboxes.
    looked_up: BTreeSet<MessageId>,
    shown: BTreeSet<MessageId>,
    /// Why the answer is not complete.
    cut: Option<String>,
}

impl TreeBuilder<'_> {
    /// The messages at the top of the answer: the one that is asked for, and the first messages
    /// of the trace that is asked for, the earliest first.
    fn roots(&self, query: &TraceQuery) -> Vec<MessageId> {
        let mut first: BTreeMap<MessageId, u64> = BTreeMap::new();
        let is_asked = |found: &MessageFindings| {
            found.trace_id.is_some() && found.trace_id == query.trace_id()
        };
        let messages = self.findings.messages.iter();
        for (id, message) in messages.filter(|(_, found)| is_asked(found)) {
            let attempts = message.inputs.values().flat_map(|input| &input.attempts);
            let earliest = attempts.map(|(ended_ms, _)| *ended_ms).min();
            let top = self.line_of(id).last().unwrap_or(id);
            let since = first.entry(top.clone()).or_insert(u64::MAX);
            *since = (*since).min(earliest.unwrap_or(u64::MAX));
        }
        let mut first: Vec<(u64, MessageId)> = first.into_iter().map(|(id, at)| (at, id)).collect();
        first.sort();
        let asked = [Some(query.id().clone()), query.trace_id().map(root_of)];
        let first = first.into_iter().map(|(_, id)| id);
        asked.into_iter().flatten().chain(first).collect()
    }

    /// A message and its known ancestors, its parent first.
    fn line_of<'a>(&'a self, id: &'a MessageId) -> impl Iterator<Item = &'a MessageId> {
        let parent = |id: &&MessageId| self.findings.messages.get(*id)?.parent.as_ref();
        std::iter::successors(Some(id), parent).take(DEPTH_MAX)
    }

    /// Whether anything is recorded of a message, in inboxes or elsewhere.
    fn is_known(&mut self, id: &MessageId) -> bool {
        if self.looked_up.insert(id.clone()) {
            self.stores.read_inboxes(id, &mut self.findings);
        }
        self.findings.messages.contains_key(id) || self.named.contains_key(id)
    }

    /// A message with all that it led to; `None` if the answer has it already, or is full.
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
        if !self.shown.insert(id.clone()) {
            return None;
        }
        let nothing = MessageFindings::default();
        let found = self.findings.messages.get(id).unwrap_or(&nothing);
        let output = by
            .as_ref()
            .and_then(|by| Some((&by.service, by.output.as_ref()?)));
        let topics = match (output, &found.message) {
            (Some((service, output)), _) => self.graph.topics_of_output(service, output),
            (None, Some(message)) => vec![message.topic.clone()],
            (None, None) => Vec::new(),
        };
        let mut message = TracedMessage {
            id: self.findings.clean(id),
            by,
            kind: found
                .message
                .as_ref()
                .map(|it| self.findings.clean(&it.kind)),
            topics: topics.iter().map(ToString::to_string).collect(),
            hops: self.hops(found, &topics),
            outboxes: found.outboxes.clone(),
            led_to: Vec::new(),
        };
        let children = self.children(id, &topics, &message.hops);
        mark_handled(&mut message.hops, &children);
        if depth >= DEPTH_MAX && !children.is_empty() {
            self.cut = Some(format!("stopped {depth} messages deep"));
            return Some(message);
        }
        let children = children.into_iter();
        let children = children.filter_map(|(by, child)| self.message(&child, by, depth + 1));
        message.led_to = children.collect();
        Some(message)
    }

    /// The state of the message at every input that has a record of it or reads its topic.
    fn hops(&self, found: &MessageFindings, topics: &[Arc<str>]) -> Vec<Hop> {
        let mut inputs: BTreeSet<QueueId> = found.inputs.keys().cloned().collect();
        // A message in an outbox has not reached the readers yet.
        let is_outboxed = |topic: &str| found.outboxes.iter().any(|it| it.topic == topic);
        let published = topics.iter().filter(|topic| !is_outboxed(topic)).cloned();
        inputs.extend(self.graph.readers(&published.collect::<Vec<_>>()));
        let hops = inputs.into_iter().map(|at| {
            let records = found.inputs.get(&at);
            let state = records.map(|it| it.state(self.findings.queues_read_ms));
            Hop {
                service: at.service.into(),
                input: at.input.into(),
                attempts: records.map(|it| it.attempts()).unwrap_or_default(),
                stored_at: records.and_then(|it| it.stored_ms).map(time),
                now: state.unwrap_or(MessageState::Unknown),
            }
        });
        hops.collect()
    }

    /// The known messages that this one led to, by service, output and number.
    fn children(
        &mut self,
        id: &MessageId,
        topics: &[Arc<str>],
        hops: &[Hop],
    ) -> Vec<(Option<EmittedBy>, MessageId)> {
        let named = self.named.get(id).cloned().unwrap_or_default();
        let tried = named.len() + GAP;
        let mut children: BTreeMap<MessageId, Option<EmittedBy>> = BTreeMap::new();
        for child in named {
            let message = self.findings.messages.get(&child);
            let source = message
                .and_then(|it| it.message.as_ref())
                .map(|it| &it.source);
            let by = source.map(|source| EmittedBy {
                service: source.rsplit('/').next().unwrap_or_default().to_owned(),
                output: None,
                index: None,
            });
            children.insert(child, by);
        }
        let graph = self.graph;
        let handles = |label: &str| hops.iter().any(|hop| hop.service == label);
        // Without a record of its topic, any service may have handled the message.
        let handlers = graph.services.iter().filter(|it| !it.inputs.is_empty());
        for service in handlers.filter(|it| topics.is_empty() || handles(&it.label)) {
            for output in &service.outputs {
                let mut index = 0;
                let mut end = tried;
                while index < end {
                    if self.looked_up.len() >= DERIVED_IDS_MAX {
                        let text = "too many ids to look up: messages may be missing";
                        self.cut = Some(text.into());
                        break;
                    }
                    let child = id.child(&service.label, &output.name, index as u32);
                    if self.is_known(&child) {
                        let by = EmittedBy {
                            service: service.label.to_string(),
                            output: Some(output.name.to_string()),
                            index: Some(index as u32),
                        };
                        children.insert(child, Some(by));
                        end = end.max(index + 1 + GAP);
                    }
                    index += 1;
                }
            }
        }
        let mut children: Vec<_> = children.into_iter().map(|(id, by)| (by, id)).collect();
        children.sort();
        children
    }
}

/// A message that a service emitted shows that the service handled the one before. At which of
/// several inputs is not known.
fn mark_handled(hops: &mut [Hop], children: &[(Option<EmittedBy>, MessageId)]) {
    for (by, _) in children {
        let is_of = |hop: &&mut Hop| by.as_ref().is_some_and(|by| by.service == hop.service);
        if let [hop] = &mut hops.iter_mut().filter(is_of).collect::<Vec<_>>()[..]
            && hop.now == MessageState::Unknown
        {
            hop.now = MessageState::Done;
        }
    }
}

#[cfg(test)]
mod tests;
