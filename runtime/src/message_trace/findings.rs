//! What is known of messages, wherever it was found: plain data, by message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::attempts::AttemptRecord;
use crate::dead_letters::Letter;
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::names::QueueId;
use crate::transport::{FoundMessage, QueueSection};

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    messages: BTreeMap<MessageId, MessageFindings>,
    /// When the queues were looked at, in milliseconds since 1970-01-01 UTC.
    pub(super) looked_ms: u64,
    /// Everything in the queues was looked at.
    pub(super) searched: bool,
    pub(super) looked_at: Vec<String>,
    pub(super) missed: Vec<String>,
}

/// What is known of one message.
#[derive(Debug, Default)]
pub(super) struct MessageFindings {
    pub(super) trace_id: Option<u128>,
    pub(super) about: Option<MessageInfo>,
    pub(super) tries: Vec<AttemptInfo>,
    pub(super) entries: Vec<Entry>,
    pub(super) queued: Vec<Queued>,
    pub(super) held: Vec<Holding>,
    pub(super) letters: Vec<DeadLetterInfo>,
    pub(super) outbox: Vec<Outboxed>,
}

/// What a message says of itself.
#[derive(Debug, Clone)]
pub(super) struct MessageInfo {
    pub(super) parent: Option<MessageId>,
    pub(super) kind: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) source: Arc<str>,
}

/// An attempt, in the trail of a service.
#[derive(Debug, Clone)]
pub(super) struct AttemptInfo {
    pub(super) at: QueueId,
    pub(super) attempt: u32,
    pub(super) outcome: &'static str,
    pub(super) at_ms: u64,
    pub(super) took: Duration,
    pub(super) again_at_ms: Option<u64>,
    pub(super) gave_up: bool,
    /// How many messages it emitted, by output.
    pub(super) emitted: Vec<(Arc<str>, u32)>,
    /// It may have emitted more.
    pub(super) more: bool,
}

/// An entry in the inbox of a store.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) at: QueueId,
    pub(super) at_ms: u64,
}

/// A copy in a queue.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) at: QueueId,
    pub(super) place: QueueSection,
    pub(super) attempt: u32,
}

/// A copy that a process has taken.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) at: QueueId,
    pub(super) attempt: u32,
    /// An instance has it; otherwise it waits in the mailbox.
    pub(super) handled: bool,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub(super) struct DeadLetterInfo {
    pub(super) service: Box<str>,
    pub(super) letter: Letter,
}

/// A copy in the outbox of a store.
#[derive(Debug, Clone)]
pub(super) struct Outboxed {
    pub(super) service: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) due_ms: Option<u64>,
    pub(super) refused: Option<String>,
}

impl MessageFindings {
    fn hear(&mut self, message: &Envelope) {
        self.trace_id = Some(message.trace().trace_id);
        // What is kept as a letter says the same, and no more.
        self.about.get_or_insert_with(|| MessageInfo {
            parent: message.parent.clone(),
            kind: message.kind.clone(),
            topic: message.topic.clone(),
            source: message.source.clone(),
        });
    }

    /// The services of which something is known, each with its input.
    pub(super) fn hops(&self) -> BTreeSet<QueueId> {
        let tries = self.tries.iter().map(|it| &it.at);
        let entries = self.entries.iter().map(|it| &it.at);
        let queued = self.queued.iter().map(|it| &it.at);
        let held = self.held.iter().map(|it| &it.at);
        let inputs = tries.chain(entries).chain(queued).chain(held).cloned();
        inputs
            .chain(self.letters.iter().map(DeadLetterInfo::at))
            .collect()
    }
}

impl DeadLetterInfo {
    /// The input that gave it up; of one that doesn't say, the dead-letter queue itself.
    pub(super) fn at(&self) -> QueueId {
        match &self.letter.why {
            Some(why) => QueueId::new(&self.service, &why.input),
            None => QueueId::dead_letters(&self.service),
        }
    }
}

impl Findings {
    pub(super) fn of(&self, id: &MessageId) -> Option<&MessageFindings> {
        self.messages.get(id)
    }

    pub(super) fn knows(&self, id: &MessageId) -> bool {
        self.messages.contains_key(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &MessageId> {
        self.messages.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&MessageId, &MessageFindings)> {
        self.messages.iter()
    }

    /// The traces that some messages belong to, as far as that is known.
    pub(super) fn traces<'a>(&self, ids: impl Iterator<Item = &'a MessageId>) -> Vec<u128> {
        ids.filter_map(|id| self.of(id)?.trace_id).collect()
    }

    pub(super) fn missed(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.missed.contains(&what) {
            self.missed.push(what);
        }
    }

    fn known(&mut self, id: &MessageId) -> &mut MessageFindings {
        self.messages.entry(id.clone()).or_default()
    }

    /// An attempt that the trail of a service has.
    pub(super) fn tried(
        &mut self,
        step: &AttemptRecord,
        at_ms: u64,
        service: &str,
        inputs: &[Arc<str>],
        output: impl Fn(usize) -> Arc<str>,
    ) {
        let Some(input) = inputs.get(usize::from(step.input)) else {
            return;
        };
        let known = self.known(&step.id);
        known.trace_id = Some(step.trace_id());
        let emitted = step.emitted.counts();
        known.tries.push(AttemptInfo {
            at: QueueId::new(service, input),
            attempt: step.attempt,
            outcome: step.outcome(),
            at_ms,
            took: step.duration(),
            again_at_ms: step.again_ms().map(|again| at_ms + again),
            gave_up: step.gave_up(),
            emitted: emitted.map(|(it, count)| (output(it), count)).collect(),
            more: step.emitted.more,
        });
    }

    /// A message that a process has taken.
    pub(super) fn holds(&mut self, message: &Message, holding: Holding) {
        let known = self.known(&message.id);
        known.hear(message);
        known.held.push(holding);
    }

    /// A message in a queue.
    pub(super) fn found(&mut self, found: FoundMessage) {
        let known = self.known(&found.message.id);
        known.hear(&found.message);
        if found.queue == QueueId::dead_letters(&found.queue.service) {
            known.letters.push(DeadLetterInfo {
                service: found.queue.service,
                letter: Letter::new(found.message),
            });
            return;
        }
        known.queued.push(Queued {
            at: found.queue,
            place: found.place,
            attempt: found.attempt,
        });
    }

    /// A dead letter.
    pub(super) fn letter(&mut self, service: &str, letter: Letter) {
        let known = self.known(&letter.message.id);
        known.hear(&letter.message);
        known.letters.push(DeadLetterInfo {
            service: service.into(),
            letter,
        });
    }

    /// A message in an outbox.
    pub(super) fn outboxed(&mut self, message: &Envelope, outboxed: Outboxed) {
        let known = self.known(&message.id);
        known.hear(message);
        known.outbox.push(outboxed);
    }

    /// An entry in an inbox.
    pub(super) fn entered(&mut self, id: &MessageId, entry: Entry) {
        self.known(id).entries.push(entry);
    }
}
