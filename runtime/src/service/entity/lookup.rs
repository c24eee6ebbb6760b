//! Lookups: the state of an entity, and whether its message was done before.
//!
//! While one read is under way further lookups gather, and the next read answers all of them: a
//! message costs no thread of its own.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::sqlite::SqliteError;
use crate::store::entities::{self, SavedState};
use crate::store::{Entry, OpenStore, inbox};

/// Maximum lookups per read.
const READ_MAX: usize = 64;

/// A lookup for one message.
pub(super) struct Question {
    pub(super) key: Box<str>,
    /// Whether the state is wanted: the entity is not in memory.
    pub(super) wants_state: bool,
    /// Id of the message; `None` if it has none by which it could be found again.
    pub(super) id: Option<Box<str>>,
    pub(super) input: Arc<str>,
    /// Whether the message is a reminder.
    pub(super) is_reminder: bool,
}

/// The answer to a lookup.
pub(super) enum Found {
    /// The message was done before, with the stored reply.
    Done(Option<Bytes>),
    /// The reminder was cancelled.
    Cancelled,
    /// The message is new. The state, if it is wanted and there is one.
    New(Option<SavedState>),
}

impl Question {
    fn answer(&self, connection: &Connection) -> Result<Found, SqliteError> {
        if let Some(id) = &self.id {
            if let Entry::Done(reply) = inbox::find(connection, id, &self.input)? {
                return Ok(Found::Done(reply.map(Bytes::from)));
            }
            if self.is_reminder && !entities::has_reminder(connection, &self.key, id)? {
                return Ok(Found::Cancelled);
            }
        }
        match self.wants_state {
            true => Ok(Found::New(entities::load(connection, &self.key)?)),
            false => Ok(Found::New(None)),
        }
    }
}

type Answer = Result<Found, SqliteError>;

/// The lookups in a store.
pub(super) struct Lookups {
    opened: Arc<OpenStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bounded by the number of instances: each has one lookup.
    waiting: Vec<(Question, oneshot::Sender<Answer>)>,
    is_reading: bool,
}

impl Lookups {
    pub(super) fn new(opened: Arc<OpenStore>) -> Arc<Self> {
        Arc::new(Self {
            opened,
            state: Mutex::default(),
        })
    }

    /// Looks up one message.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) async fn ask(self: &Arc<Self>, question: Question) -> Result<Found, Failure> {
        let (sender, answer) = oneshot::channel();
        let starts = {
            let mut state = self.state.lock();
            state.waiting.push((question, sender));
            !std::mem::replace(&mut state.is_reading, true)
        };
        if starts {
            tokio::spawn(self.clone().read_all());
        }
        let answer = answer.await.unwrap_or(Err(SqliteError::Closed));
        Ok(answer?)
    }

    /// Reads until no lookup waits.
    async fn read_all(self: Arc<Self>) {
        loop {
            let asked: Vec<_> = {
                let mut state = self.state.lock();
                let count = state.waiting.len().min(READ_MAX);
                state.is_reading = count > 0;
                state.waiting.drain(..count).collect()
            };
            if asked.is_empty() {
                return;
            }
            let reading = self.opened.database.read("entities", move |connection| {
                for (question, sender) in asked {
                    // A handler that ran out of time waits no longer.
                    let _gone = sender.send(question.answer(connection));
                }
                Ok::<_, SqliteError>(())
            });
            if let Err(error) = reading.await {
                // The lookups of this read fail, since their senders are gone.
                tracing::warn!(%error, "entities could not be read");
            }
        }
    }
}
