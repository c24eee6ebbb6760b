//! The records that were found, by message and input.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::{AttemptRecord, Next};
use super::report::{Attempt, MessageState, Outboxed};
use crate::clock::Rfc3339;
use crate::dead_letters::Letter;
use crate::id::MessageId;
use crate::message::Message;
use crate::metrics::Outcome;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::transport::{FoundMessage, QueueSection};

/// A transport may write an ack this much later. Until then the acked message can still be seen
/// in its queue.
const ACK_DELAY_MS: u64 = 2_000;

/// Everything that was found. Texts of messages are without secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(super) messages: BTreeMap<MessageId, MessageFindings>,
    /// When reading the queues started, in milliseconds since 1970-01-01 UTC.
    pub(super) queues_read_ms: u64,
    pub(super) looked_at: Vec<String>,
    pub(super) missed: Vec<String>,
    redactor: Arc<Redactor>,
}

/// The records of one message.
#[derive(Debug, Clone, Default)]
pub(super) struct MessageFindings {
    /// A copy of the message. Missing if only ids were recorded.
    pub(super) message: Option<Message>,
    pub(super) trace_id: Option<u128>,
    pub(super) parent: Option<MessageId>,
    pub(super) inputs: BTreeMap<QueueId, InputFindings>,
    pub(super) outboxes: Vec<Outboxed>,
}

/// The records of one message at one input.
#[derive(Debug, Clone, Default)]
pub(super) struct InputFindings {
    /// Each attempt with its end, in milliseconds since 1970-01-01 UTC.
    pub(super) attempts: Vec<(u64, AttemptRecord)>,
    /// The time of the inbox entry, in milliseconds since 1970-01-01 UTC.
    pub(super) stored_ms: Option<u64>,
    /// The state of a copy in a queue, a mailbox, a handler or a dead-letter queue.
    copy: Option<MessageState>,
}

/// A time of day, as the answer shows it.
pub(super) fn time(unix_ms: u64) -> String {
    Rfc3339 { unix_ms }.to_string()
}

impl InputFindings {
    /// The recorded attempts, as the answer shows them.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let attempts = self.attempts.iter().map(|(ended_ms, record)| Attempt {
            attempt: record.attempt,
            outcome: Outcome::NAMES[record.outcome as usize].to_owned(),
            at: time(*ended_ms),
            took_us: record.duration().as_micros() as u64,
            emitted: record.emitted.into(),
        });
        attempts.collect()
    }

    /// The state by the newest record: a success just now, a copy that was seen, the last
    /// attempt, the inbox entry.
    pub(super) fn state(&self, queues_read_ms: u64) -> MessageState {
        let last = self.attempts.last();
        let is_ok = last.is_some_and(|(_, record)| record.outcome == Outcome::Ok);
        let is_new = |(ended_ms, _): &(u64, _)| ended_ms + ACK_DELAY_MS >= queues_read_ms;
        match (&self.copy, last) {
            (_, Some(last)) if is_ok && is_new(last) => MessageState::Done,
            (Some(copy), _) => copy.clone(),
            (None, Some((ended_ms, record))) => match (record.outcome, record.next) {
                (Outcome::Ok, _) => MessageState::Done,
                (Outcome::Expired, _) => MessageState::Expired,
                (_, Next::DeadLetter) => MessageState::dead_lettered(),
                (outcome, Next::Retry { after_ms })
                    if ended_ms + u64::from(after_ms) >= queues_read_ms =>
                {
                    MessageState::Delayed {
                        until: time(ended_ms + u64::from(after_ms)),
                        attempt: record.attempt + u32::from(outcome != Outcome::Defer),
                    }
                }
                _ => MessageState::Unknown,
            },
            (None, None) if self.stored_ms.is_some() => MessageState::Done,
            (None, None) => MessageState::Unknown,
        }
    }
}

impl Findings {
    pub(super) fn new(redactor: Arc<Redactor>) -> Self {
        Self {
            redactor,
            ..Self::default()
        }
    }

    /// The text without secrets.
    pub(super) fn clean(&self, text: impl ToString) -> String {
        self.redactor.clean(&text.to_string()).into_owned()
    }

    /// Records a place that could not be read.
    pub(super) fn miss(&mut self, place: impl ToString) {
        let place = self.clean(place);
        if !self.missed.contains(&place) {
            self.missed.push(place);
        }
    }

    /// Adds a message, or what another copy did not show.
    fn add(&mut self, message: &Message) -> &mut MessageFindings {
        let found = self.messages.entry(message.id.clone()).or_default();
        found.trace_id = Some(message.trace().trace_id);
        found.parent.clone_from(&message.parent);
        found.message.get_or_insert_with(|| message.clone());
        found
    }

    /// Adds a copy of a message. The one that is nearest to its end counts.
    fn add_copy(&mut self, message: &Message, at: QueueId, state: MessageState) {
        let rank = |state: &MessageState| match state {
            MessageState::DeadLettered { .. } => 3,
            MessageState::InFlight { handled: true, .. } => 2,
            MessageState::InFlight { .. } => 1,
            _ => 0,
        };
        let copy = &mut self.add(message).inputs.entry(at).or_default().copy;
        if copy.as_ref().is_none_or(|copy| rank(copy) <= rank(&state)) {
            *copy = Some(state);
        }
    }

    /// Adds attempts from the history of a service, the oldest first.
    pub(crate) fn add_attempt(&mut self, record: AttemptRecord, ended_ms: u64, at: QueueId) {
        let found = self.messages.entry(record.id.clone()).or_default();
        found.trace_id = Some(record.trace_id());
        found.parent.clone_from(&record.parent);
        let input = found.inputs.entry(at).or_default();
        input.attempts.push((ended_ms, record));
    }

    /// Adds a delivery in a mailbox or, with `handled`, in a handler.
    pub(crate) fn add_in_flight(
        &mut self,
        message: &Message,
        at: QueueId,
        handled: bool,
        attempt: u32,
    ) {
        self.add_copy(message, at, MessageState::InFlight { handled, attempt });
    }

    /// Adds a message in a queue.
    pub(super) fn add_queued(&mut self, found: FoundMessage) {
        if found.queue == QueueId::dead_letters(&found.queue.service) {
            return self.add_dead_letter(&found.queue.service, Letter::new(found.message));
        }
        let attempt = found.attempt;
        let state = match found.place {
            QueueSection::Ready { ahead } => MessageState::Waiting { ahead },
            QueueSection::InHand => MessageState::InFlight {
                handled: false,
                attempt,
            },
            QueueSection::Delayed { due_ms, .. } => MessageState::Delayed {
                until: time(due_ms),
                attempt,
            },
            QueueSection::Suspect => MessageState::Suspect { attempt },
        };
        self.add_copy(&found.message, found.queue, state);
    }

    /// Adds a dead letter. One without a record counts for the dead-letter queue itself.
    pub(super) fn add_dead_letter(&mut self, service: &str, letter: Letter) {
        let (at, state) = match &letter.dead_letter {
            Some(record) => (
                QueueId::new(service, &record.input),
                MessageState::DeadLettered {
                    reason: Some(record.reason),
                    error: Some(self.clean(&record.error)),
                    attempts: Some(record.attempts),
                    at: Some(time(record.failed_at_ms)),
                },
            ),
            None => (
                QueueId::dead_letters(service),
                MessageState::dead_lettered(),
            ),
        };
        self.add_copy(&letter.message, at, state);
    }

    /// Adds a message in an outbox.
    pub(super) fn add_outboxed(&mut self, message: &Message, mut outboxed: Outboxed) {
        outboxed.refused = outboxed.refused.map(|text| self.clean(text));
        self.add(message).outboxes.push(outboxed);
    }

    /// Adds an inbox entry.
    pub(super) fn add_inbox_entry(&mut self, id: &MessageId, at: QueueId, at_ms: u64) {
        let found = self.messages.entry(id.clone()).or_default();
        found.inputs.entry(at).or_default().stored_ms = Some(at_ms);
    }
}
