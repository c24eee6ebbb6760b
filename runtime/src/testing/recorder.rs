//! Records the traffic of the app under test: messages on topics, requests to the test, and
//! deliveries in flight.
//!
//! The transport decorator writes here, the test reads. Settling messages stays between
//! services and transport.

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

/// Replies to the requests on one topic.
pub(super) type Answer = Box<dyn FnMut(&Message) -> Reply + Send>;

/// The recorded traffic of one app.
#[derive(Default)]
pub(super) struct Recorder {
    state: Mutex<State>,
    /// Notified after each new message or request.
    changed: Notify,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<Arc<str>, Topic>,
    answers: BTreeMap<Arc<str>, Answer>,
    /// Deliveries in flight, by a number of their own.
    deliveries: BTreeMap<u64, Taken>,
    next: u64,
    /// Publications that a fault leaves without a confirm.
    unanswered: Vec<Completion>,
}

/// The traffic on one topic.
#[derive(Default)]
struct Topic {
    /// Messages that the test has not expected yet, by due time and order.
    unread: BTreeMap<(Instant, u64), Message>,
    requests: VecDeque<Asked>,
    count: u64,
    last: Option<Message>,
}

/// A request that waits for the test's reply.
pub(super) struct Asked {
    pub(super) message: Message,
    pub(super) reply: oneshot::Sender<Reply>,
}

struct Taken {
    queue: QueueId,
    message: Message,
}

/// Summary of a topic, for reports.
pub(super) struct TopicSummary {
    pub(super) topic: Arc<str>,
    pub(super) count: u64,
    pub(super) last: Option<Message>,
    pub(super) requests: usize,
}

impl Recorder {
    /// Records messages that services published, each due after its delay.
    pub(super) fn published(&self, messages: Vec<(Message, Duration)>) {
        let mut state = self.state.lock();
        for (message, delay) in messages {
            let number = state.number();
            let topic = state.topics.entry(message.topic.clone()).or_default();
            topic.record(&message);
            topic.unread.insert((later(delay), number), message);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Records a message that the test sent.
    pub(super) fn sent(&self, message: &Message) {
        let mut state = self.state.lock();
        let topic = state.topics.entry(message.topic.clone()).or_default();
        topic.record(message);
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

    /// The messages on a topic that the test has not expected.
    pub(super) fn unread(&self, topic: &str) -> Vec<Message> {
        let state = self.state.lock();
        let topic = state.topics.get(topic).into_iter();
        topic
            .flat_map(|topic| topic.unread.values().cloned())
            .collect()
    }

    /// The due time of the last message that is scheduled for later.
    pub(super) fn last_scheduled(&self) -> Option<Instant> {
        let state = self.state.lock();
        let topics = state.topics.values();
        let last = topics.filter_map(|topic| topic.unread.last_key_value());
        last.map(|((at, _), _)| *at)
            .filter(|at| *at > Instant::now())
            .max()
    }

    /// The next request on a topic, if one comes by `deadline`.
    pub(super) async fn next_request(&self, topic: &str, deadline: Instant) -> Option<Asked> {
        self.wait(deadline, |state| {
            let topic = state.topics.get_mut(topic);
            topic
                .and_then(|topic| topic.requests.pop_front())
                .ok_or(None)
        })
        .await
    }

    /// Waits until `find` succeeds, at most until `deadline`. An error may hold the time at
    /// which to try again.
    async fn wait<T>(
        &self,
        deadline: Instant,
        mut find: impl FnMut(&mut State) -> Result<T, Option<Instant>>,
    ) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            let again = match find(&mut self.state.lock()) {
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

    /// Records a request, and replies if the test has set a reply function. Returns the
    /// channel of the reply.
    pub(super) fn asked(&self, message: Message) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let state = &mut *state;
        let topic = state.topics.entry(message.topic.clone()).or_default();
        topic.record(&message);
        match state.answers.get_mut(&message.topic) {
            Some(answer) => {
                // The receiver is alive: it is returned below.
                let _sent = sender.send(answer(&message));
            }
            None => topic.requests.push_back(Asked {
                message,
                reply: sender,
            }),
        }
        self.changed.notify_waiters();
        receiver
    }

    /// Sets the reply function of a topic, and replies to the requests that wait there.
    pub(super) fn answer(&self, topic: &str, mut answer: Answer) {
        let mut state = self.state.lock();
        let waiting = state.topics.get_mut(topic);
        for Asked { message, reply } in waiting.into_iter().flat_map(|t| t.requests.drain(..)) {
            // The service may have stopped waiting.
            let _gone = reply.send(answer(&message));
        }
        state.answers.insert(topic.into(), answer);
    }

    pub(super) fn answers(&self, topic: &str) -> bool {
        self.state.lock().answers.contains_key(topic)
    }

    /// Records a delivery, and returns its number.
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

    /// Unsettled deliveries, as text.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let state = self.state.lock();
        let unsettled = state.deliveries.values();
        unsettled
            .map(|Taken { queue, message }| format!("{} from {queue}", message.id))
            .collect()
    }

    /// Keeps a publication without confirm until the app has stopped.
    pub(super) fn leave_unanswered(&self, done: Completion) {
        self.state.lock().unanswered.push(done);
    }

    /// Drops the publications without confirm: they complete as unconfirmed.
    pub(super) fn drop_unanswered(&self) {
        // Outside of the lock, since the drop calls the completions.
        let unanswered = std::mem::take(&mut self.state.lock().unanswered);
        drop(unanswered);
    }

    /// Summaries of all topics.
    pub(super) fn topics(&self) -> Vec<TopicSummary> {
        let state = self.state.lock();
        let topics = state.topics.iter().map(|(topic, it)| TopicSummary {
            topic: topic.clone(),
            count: it.count,
            last: it.last.clone(),
            requests: it.requests.len(),
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
    fn record(&mut self, message: &Message) {
        self.count += 1;
        self.last = Some(message.clone());
    }
}
