//! The test's desk: what came on every topic, what services asked, what they have in
//! hand.
//!
//! The transport writes here, the test reads. Owns no message's duty to be settled; that
//! is between services and the transport.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::clock::later;
use crate::delivery::Reply;
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::Completion;

/// Answers the questions of one topic for the test.
pub(super) type Answer = Box<dyn FnMut(&Message) -> Reply + Send>;

/// What a test can see of an app from outside.
#[derive(Default)]
pub(super) struct Recorder {
    state: Mutex<State>,
    /// Something came.
    changed: Notify,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<Arc<str>, Topic>,
    answers: BTreeMap<Arc<str>, Answer>,
    /// What is in the hands of services, by a number of its own.
    deliveries: BTreeMap<u64, Taken>,
    next: u64,
    /// Publications without a word about them.
    silent: Vec<Completion>,
}

/// What came on one topic.
#[derive(Default)]
struct Topic {
    /// What nobody expected yet, by when it is there and the order in which it came.
    unread: BTreeMap<(Instant, u64), Message>,
    questions: VecDeque<Asked>,
    count: u64,
    last: Option<Message>,
}

/// A question on the test's desk.
pub(super) struct Asked {
    pub(super) message: Message,
    pub(super) reply: oneshot::Sender<Reply>,
}

struct Taken {
    queue: QueueId,
    message: Message,
}

/// What came on a topic, for people.
pub(super) struct TopicSummary {
    pub(super) topic: Arc<str>,
    pub(super) count: u64,
    pub(super) last: Option<Message>,
    pub(super) questions: usize,
}

impl Recorder {
    /// Notes what services published, to be there after its delay.
    pub(super) fn published(&self, messages: Vec<(Message, Duration)>) {
        let mut state = self.state.lock();
        for (message, delay) in messages {
            let place = state.number();
            let topic = state.topics.entry(message.topic.clone()).or_default();
            topic.note(&message);
            topic.unread.insert((later(delay), place), message);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Notes what the test sent itself.
    pub(super) fn sent(&self, message: &Message) {
        let mut state = self.state.lock();
        let topic = state.topics.entry(message.topic.clone()).or_default();
        topic.note(message);
    }

    /// The next message of a topic, if it comes by `deadline`.
    pub(super) async fn next(&self, topic: &str, deadline: Instant) -> Option<Message> {
        self.wait(deadline, |state| {
            let Some(topic) = state.topics.get_mut(topic) else {
                return Err(None);
            };
            match topic.unread.first_entry() {
                Some(first) if first.key().0 <= Instant::now() => Ok(first.remove()),
                Some(first) => Err(Some(first.key().0)),
                None => Err(None),
            }
        })
        .await
    }

    /// What came on a topic and nobody expected.
    pub(super) fn unread(&self, topic: &str) -> Vec<Message> {
        let state = self.state.lock();
        let topic = state.topics.get(topic).into_iter();
        topic
            .flat_map(|topic| topic.unread.values().cloned())
            .collect()
    }

    /// When the last message that is scheduled for later will be there.
    pub(super) fn last_scheduled(&self) -> Option<Instant> {
        let state = self.state.lock();
        let topics = state.topics.values();
        let last = topics.filter_map(|topic| topic.unread.last_key_value());
        last.map(|((at, _), _)| *at)
            .filter(|at| *at > Instant::now())
            .max()
    }

    /// The next question on a topic, if one comes by `deadline`.
    pub(super) async fn next_question(&self, topic: &str, deadline: Instant) -> Option<Asked> {
        self.wait(deadline, |state| {
            let topic = state.topics.get_mut(topic);
            topic
                .and_then(|topic| topic.questions.pop_front())
                .ok_or(None)
        })
        .await
    }

    /// Waits until `look` finds something, or until `deadline`. What it doesn't find may
    /// be there at a time that it knows.
    async fn wait<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&mut State) -> Result<T, Option<Instant>>,
    ) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            let again = match look(&mut self.state.lock()) {
                Ok(found) => return Some(found),
                Err(at) => at.map_or(deadline, |at| at.min(deadline)),
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(again) => if again >= deadline { return None },
            }
        }
    }

    /// Notes a question, and answers it if the test said how. The answer, or where it
    /// will come from.
    pub(super) fn asked(&self, message: Message) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let state = &mut *state;
        let topic = state.topics.entry(message.topic.clone()).or_default();
        topic.note(&message);
        match state.answers.get_mut(&message.topic) {
            Some(answer) => {
                // The receiver is at hand.
                let _sent = sender.send(answer(&message));
            }
            None => topic.questions.push_back(Asked {
                message,
                reply: sender,
            }),
        }
        self.changed.notify_waiters();
        receiver
    }

    /// From now on questions on this topic, also those that wait, are answered so.
    pub(super) fn answer(&self, topic: &str, mut answer: Answer) {
        let mut state = self.state.lock();
        let waiting = state.topics.get_mut(topic);
        for Asked { message, reply } in waiting.into_iter().flat_map(|t| t.questions.drain(..)) {
            // Who has stopped waiting needs no answer.
            let _gone = reply.send(answer(&message));
        }
        state.answers.insert(topic.into(), answer);
    }

    pub(super) fn answers(&self, topic: &str) -> bool {
        self.state.lock().answers.contains_key(topic)
    }

    /// Notes a delivery, and returns its number.
    pub(super) fn taken(&self, queue: &QueueId, message: &Message) -> u64 {
        let mut state = self.state.lock();
        let number = state.number();
        let taken = Taken {
            queue: queue.clone(),
            message: message.clone(),
        };
        state.deliveries.insert(number, taken);
        number
    }

    pub(super) fn settled(&self, number: u64) {
        self.state.lock().deliveries.remove(&number);
    }

    /// Deliveries that are not settled, as text.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let state = self.state.lock();
        let unsettled = state.deliveries.values();
        unsettled
            .map(|Taken { queue, message }| format!("{} from {queue}", message.id))
            .collect()
    }

    /// Keeps a publication without a word about it, until the app has stopped.
    pub(super) fn silence(&self, done: Completion) {
        self.state.lock().silent.push(done);
    }

    /// Lets go of publications without a word about them: they are unconfirmed.
    pub(super) fn end_silence(&self) {
        // Outside the lock: each is told by its drop.
        let silent = std::mem::take(&mut self.state.lock().silent);
        drop(silent);
    }

    /// What came on every topic, for people.
    pub(super) fn topics(&self) -> Vec<TopicSummary> {
        let state = self.state.lock();
        let topics = state.topics.iter().map(|(topic, it)| TopicSummary {
            topic: topic.clone(),
            count: it.count,
            last: it.last.clone(),
            questions: it.questions.len(),
        });
        topics.collect()
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Topic {
    fn note(&mut self, message: &Message) {
        self.count += 1;
        self.last = Some(message.clone());
    }
}
