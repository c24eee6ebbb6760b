//! The facts that were found about messages, by message id: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::history::AttemptRecord;
use super::report::{Attempt, MessageState, Outboxed};
use crate::clock::Rfc3339;
use crate::dead_letters::Letter;
use crate::id::MessageId;
use crate::message::Envelope;
use crate::names::QueueId;
use crate::transport::{FoundMessage, QueueSection};

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    messages: BTreeMap<MessageId, MessageFindings>,
    /// When reading the queues started, in milliseconds since 1970-01-01 UTC.
    pub(super) queues_read_ms: u64,
    /// Every message in the queues was read.
    pub(super) all_queues_read: bool,
    pub(super) looked_at: Vec<String>,
    pub(super) missed: Vec<String>,
}

/// The facts about one message.
#[derive(Debug, Default)]
pub(super) struct MessageFindings {
    pub(super) trace_id: Option<u128>,
    /// Missing if only the id was recorded, as in an inbox.
    pub(super) info: Option<MessageInfo>,
    pub(super) attempts: Vec<AttemptInfo>,
    /// Entries in inboxes: the input, and the time in milliseconds since 1970-01-01 UTC.
    pub(super) inbox_entries: Vec<(QueueId, u64)>,
    pub(super) sightings: Vec<Sighting>,
    pub(super) outboxes: Vec<Outboxed>,
}

/// Fields of the message itself.
#[derive(Debug, Clone)]
pub(super) struct MessageInfo {
    pub(super) parent: Option<MessageId>,
    pub(super) kind: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) source: Arc<str>,
}

/// One attempt, from the history of a service.
#[derive(Debug, Clone)]
pub(super) struct AttemptInfo {
    pub(super) at: QueueId,
    pub(super) ended_ms: u64,
    /// When the next attempt is due, if the message is retried.
    pub(super) retry_at_ms: Option<u64>,
    pub(super) dead_lettered: bool,
    /// The number of messages emitted, by output.
    pub(super) emitted: Vec<(Arc<str>, u32)>,
    /// More messages may have been emitted.
    pub(super) may_have_more: bool,
    pub(super) shown: Attempt,
}

/// A copy of the message in a queue, a mailbox, a handler or a dead-letter queue.
#[derive(Debug, Clone)]
pub(super) struct Sighting {
    pub(super) at: QueueId,
    pub(super) state: MessageState,
    /// The attempt that a copy in the input's queue waits for. Such a copy may be acked already,
    /// with the ack not yet written.
    pub(super) unacked_attempt: Option<u32>,
}

/// A time of day, as the answer shows it.
pub(super) fn time(unix_ms: u64) -> String {
    Rfc3339 { unix_ms }.to_string()
}

impl MessageFindings {
    fn read_envelope(&mut self, message: &Envelope) {
        self.trace_id = Some(message.trace().trace_id);
        self.info.get_or_insert_with(|| MessageInfo {
            parent: message.parent.clone(),
            kind: message.kind.clone(),
            topic: message.topic.clone(),
            source: message.source.clone(),
        });
    }

    /// The inputs where something about the message is recorded.
    pub(super) fn inputs(&self) -> BTreeSet<QueueId> {
        let attempts = self.attempts.iter().map(|it| &it.at);
        let entries = self.inbox_entries.iter().map(|(at, _)| at);
        let sightings = self.sightings.iter().map(|it| &it.at);
        attempts.chain(entries).chain(sightings).cloned().collect()
    }

    pub(super) fn parent(&self) -> Option<&MessageId> {
        self.info.as_ref()?.parent.as_ref()
    }
}

impl Findings {
    pub(super) fn get(&self, id: &MessageId) -> Option<&MessageFindings> {
        self.messages.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&MessageId, &MessageFindings)> {
        self.messages.iter()
    }

    /// The traces that these messages belong to, as far as that is recorded.
    pub(super) fn traces<'a>(&self, ids: impl Iterator<Item = &'a MessageId>) -> Vec<u128> {
        ids.filter_map(|id| self.get(id)?.trace_id).collect()
    }

    /// Records a place that could not be read.
    pub(super) fn miss(&mut self, place: impl Into<String>) {
        let place = place.into();
        if !self.missed.contains(&place) {
            self.missed.push(place);
        }
    }

    fn entry(&mut self, id: &MessageId) -> &mut MessageFindings {
        self.messages.entry(id.clone()).or_default()
    }

    /// Adds an attempt from the history of a service.
    pub(super) fn add_attempt(
        &mut self,
        record: &AttemptRecord,
        ended_ms: u64,
        at: QueueId,
        output: impl Fn(usize) -> Arc<str>,
    ) {
        let message = self.entry(&record.id);
        message.trace_id = Some(record.trace_id());
        let emitted = record.emitted.counts();
        message.attempts.push(AttemptInfo {
            at,
            ended_ms,
            retry_at_ms: record.retry_after_ms().map(|after| ended_ms + after),
            dead_lettered: record.is_dead_lettered(),
            emitted: emitted.map(|(it, count)| (output(it), count)).collect(),
            may_have_more: record.emitted.may_have_more,
            shown: Attempt {
                attempt: record.attempt,
                outcome: record.outcome().to_owned(),
                at: time(ended_ms),
                took_us: record.duration().as_micros() as u64,
            },
        });
    }

    /// Adds a delivery in a mailbox or, with `handled`, in a handler.
    pub(super) fn add_in_flight(
        &mut self,
        message: &Envelope,
        at: QueueId,
        handled: bool,
        attempt: u32,
    ) {
        let found = self.entry(&message.id);
        found.read_envelope(message);
        found.sightings.push(Sighting {
            at,
            state: MessageState::InFlight { handled, attempt },
            unacked_attempt: None,
        });
    }

    /// Adds a message in a queue.
    pub(super) fn add_queued(&mut self, found: FoundMessage) {
        if found.queue == QueueId::dead_letters(&found.queue.service) {
            return self.add_dead_letter(&found.queue.service, Letter::new(found.message));
        }
        let attempt = found.attempt;
        let message = self.entry(&found.message.id);
        message.read_envelope(&found.message);
        let (state, unacked_attempt) = match found.place {
            QueueSection::Ready { ahead } => (MessageState::Waiting { ahead }, Some(attempt)),
            QueueSection::InHand => {
                let handled = false;
                (MessageState::InFlight { handled, attempt }, Some(attempt))
            }
            QueueSection::Delayed { due_ms, .. } => {
                let until = time(due_ms);
                (MessageState::Delayed { until, attempt }, None)
            }
            QueueSection::Suspect => (MessageState::Suspect { attempt }, None),
        };
        message.sightings.push(Sighting {
            at: found.queue,
            state,
            unacked_attempt,
        });
    }

    /// Adds a dead letter. One without a record counts for the dead-letter queue itself.
    pub(super) fn add_dead_letter(&mut self, service: &str, letter: Letter) {
        let message = self.entry(&letter.message.id);
        message.read_envelope(&letter.message);
        let record = letter.dead_letter.as_ref();
        message.sightings.push(Sighting {
            at: match record {
                Some(record) => QueueId::new(service, &record.input),
                None => QueueId::dead_letters(service),
            },
            state: MessageState::DeadLettered {
                reason: record.map(|it| it.reason),
                error: record.map(|it| it.error.clone()),
                attempts: record.map(|it| it.attempts),
                at: record.map(|it| time(it.failed_at_ms)),
            },
            unacked_attempt: None,
        });
    }

    /// Adds a message in an outbox.
    pub(super) fn add_outboxed(&mut self, message: &Envelope, outboxed: Outboxed) {
        let found = self.entry(&message.id);
        found.read_envelope(message);
        found.outboxes.push(outboxed);
    }

    /// Adds an inbox entry.
    pub(super) fn add_inbox_entry(&mut self, id: &MessageId, at: QueueId, at_ms: u64) {
        self.entry(id).inbox_entries.push((at, at_ms));
    }
}
