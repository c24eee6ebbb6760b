//! The relay of a service with a store: publishes the messages in the outbox.
//!
//! Messages are published in the order of their commits, many at a time, and deleted when they
//! are confirmed. After a failure the relay starts again with the first message that is left:
//! a later message may be published twice, under the same id, and none is left out. The relay
//! also cleans the inbox.
//!
//! # Refused messages
//! A full queue that rejects messages blocks only the outputs that go there. Such an output is
//! held: its messages wait in the outbox and are retried one at a time until the output has
//! caught up.
//!
//! Each output keeps its order: no message is published while an earlier one of the same output
//! is known to be refused. Messages that were in flight together with the refused one may have
//! been confirmed before it. Transports that refuse at once, such as `memory:` and `embedded:`,
//! have no such messages.

mod confirms;
mod per_output;
mod round;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, OptionFuture};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use self::round::Round;
use super::service_run::ServiceRun;
use crate::log_throttle::LogThrottle;
use crate::metrics::Cause;
use crate::panic::panic_text;
use crate::sqlite::{Migration, SqliteError};
use crate::store::OpenStore;
use crate::supervision::History;
use crate::transport::TransportError;

/// Time between two cleanings of the inbox.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum entries deleted in one transaction, so that other transactions run in between.
const CLEAN_MAX: u32 = 500;
/// Minimum age of a deleted inbox entry.
const INBOX_KEEP_MIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// A relay that worked for this long starts with the first back-off again.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// Wait before the last try of a relay that has to finish.
const FINISH_RETRY_WAIT: Duration = Duration::from_millis(10);

/// The relay of one service.
pub(crate) struct Relay {
    env: Arc<ServiceRun>,
    migrations: &'static [Migration],
    /// Deadline of the relay, once it has to finish.
    finish: watch::Sender<Option<Instant>>,
    done: watch::Sender<bool>,
}

/// Publishes the waiting messages, as many as possible before the deadline, and ends.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Finish(pub(crate) Instant);

impl Relay {
    pub(crate) fn new(env: Arc<ServiceRun>, migrations: &'static [Migration]) -> Self {
        Self {
            env,
            migrations,
            finish: watch::Sender::new(None),
            done: watch::Sender::new(false),
        }
    }
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        let task = RelayTask {
            env: self.env.clone(),
            migrations: self.migrations,
            finish: self.finish.subscribe(),
            log: LogThrottle::default(),
        };
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            task.run().await;
            done.send_replace(true);
        });
    }
}

impl Handler<Finish> for Relay {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Finish(by): Finish, cx: &mut Context<Self>) -> ResponseFuture<()> {
        self.finish.send_replace(Some(by));
        let mut done = self.done.subscribe();
        let address = cx.address();
        Box::pin(async move {
            // An error means that the actor is gone, so the relay has ended too.
            let _gone = done.wait_for(|done| *done).await;
            drop(address);
        })
    }
}

struct RelayTask {
    env: Arc<ServiceRun>,
    migrations: &'static [Migration],
    finish: watch::Receiver<Option<Instant>>,
    log: LogThrottle,
}

/// The reason for an interruption of the relay.
enum RelayError {
    /// The transport refused a message.
    Transport(TransportError),
    /// The store can't be read or written.
    Store(String),
}

impl From<SqliteError> for RelayError {
    fn from(error: SqliteError) -> Self {
        Self::Store(error.to_string())
    }
}

impl RelayTask {
    async fn run(self) {
        let origin = Instant::now();
        let mut history = History::default();
        while !self.is_over() {
            let began = origin.elapsed();
            let published = AssertUnwindSafe(self.publish_all()).catch_unwind().await;
            let error = match published {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(payload) => RelayError::Store(format!("panicked: {}", panic_text(payload))),
            };
            if origin.elapsed().saturating_sub(began) >= HEALTHY_AFTER {
                history.success();
            }
            let policy = &self.env.settings.restart.policy;
            let (restart, next) = history.failure(policy, origin.elapsed(), fastrand::f64());
            history = next;
            let wait = restart.wait().max(policy.backoff.min);
            self.report(&error, wait);
            self.wait(&error, wait).await;
        }
    }

    fn report(&self, error: &RelayError, wait: Duration) {
        let text = match error {
            RelayError::Transport(error) => error.to_string(),
            RelayError::Store(text) => text.clone(),
        };
        let text = self.env.redactor.clean(&text).into_owned();
        self.env.meters.restarted(Cause::Relay);
        self.env.note(Cause::Relay, &text);
        // The transport itself logs that it is down.
        if !self.env.transport_is_down() && self.log.event().is_some() {
            let service = &*self.env.label;
            warn!(service, error = %text, ?wait, "outbox not published, trying again");
        }
    }

    /// Waits before the next try: until the transport works, for the back-off, or until the
    /// relay has to finish.
    async fn wait(&self, error: &RelayError, wait: Duration) {
        let mut finish = self.finish.clone();
        let finishing = async move {
            // Never an error: the actor owns the sender, and waits for this task.
            let _open = finish.wait_for(Option::is_some).await;
            sleep(FINISH_RETRY_WAIT).await;
        };
        let pause = async {
            match error {
                RelayError::Transport(_) if self.env.transport_is_down() => {
                    self.env.transport_works().await;
                }
                _ => sleep(wait).await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = finishing => {}
        }
    }

    fn is_over(&self) -> bool {
        let finish = *self.finish.borrow();
        finish.is_some_and(|by| Instant::now() >= by)
    }

    /// Publishes messages until the relay has to finish (`Ok`), or a failure.
    async fn publish_all(&self) -> Result<(), RelayError> {
        let opening = self.env.open_store(self.migrations).await;
        let opened = opening.map_err(|failure| RelayError::Store(failure.text().to_owned()))?;
        if !self.env.transport.guarantees().durable {
            opened.restore_reminders(&self.env.label).await?;
        }
        opened.outbox.rewind();
        let mut finish = self.finish.clone();
        let mut round = Round::new(&self.env, &self.log, finish.clone(), opened.clone());
        let mut removal: Option<LocalBoxFuture<'_, Result<(), SqliteError>>> = None;
        let mut clean_at = Instant::now();
        loop {
            round.take_confirms().await?;
            if removal.is_none() && !round.confirmed.is_empty() {
                let confirmed = std::mem::take(&mut round.confirmed);
                removal = Some(Box::pin(opened.remove(&self.env.label, confirmed)));
            }
            let idle = round.in_flight == 0 && removal.is_none();
            if let Some(error) = round.error.take_if(|_| idle) {
                return Err(RelayError::Transport(error));
            }
            let finishing = *finish.borrow_and_update();
            if let Some(by) = finishing
                && ((idle && opened.outbox.waiting() == 0) || Instant::now() >= by)
            {
                return Ok(());
            }
            if round.has_room() && round.publish_some().await? {
                continue;
            }
            if Instant::now() >= clean_at {
                clean_at = Instant::now() + CLEAN_INTERVAL;
                self.clean_inbox(&opened).await?;
            }
            let removing = OptionFuture::from(removal.as_mut());
            let retry_at = round.outputs.retry_at().filter(|_| round.has_room());
            tokio::select! {
                () = round.confirms.arrived.notified() => {}
                () = opened.outbox.more(), if round.has_room() => {}
                () = sleep_until(retry_at.unwrap_or(clean_at)), if retry_at.is_some() => {}
                Some(removed) = removing => {
                    removal = None;
                    removed?;
                }
                () = sleep_until(clean_at) => {}
                () = sleep_until(finishing.unwrap_or(clean_at)), if finishing.is_some() => {}
                _ = finish.changed() => round.outputs.retry_now(),
            }
        }
    }

    /// Deletes the inbox entries of messages that can't be redelivered any more.
    async fn clean_inbox(&self, opened: &OpenStore) -> Result<(), SqliteError> {
        let older_ms = u64::try_from(self.inbox_keep().as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.env.clock.unix_ms();
        loop {
            let name = &*self.env.label;
            let deleted = opened
                .clean_inbox(name, older_ms, now_ms, CLEAN_MAX)
                .await?;
            if deleted < CLEAN_MAX as usize || self.finish.borrow().is_some() {
                return Ok(());
            }
        }
    }

    /// Returns the time that inbox entries are kept: longer than all attempts of a message
    /// take, and some days for replayed dead letters.
    fn inbox_keep(&self) -> Duration {
        let retry = &self.env.settings.retry;
        let attempts = retry.backoff.max.saturating_mul(retry.attempts);
        INBOX_KEEP_MIN.max(attempts.saturating_mul(2))
    }
}

/// Waits for a relay to finish, not much longer than its deadline.
pub(super) async fn finish(relay: &actix::Addr<Relay>, by: Instant) {
    const SLACK: Duration = Duration::from_millis(200);
    let slack = by.saturating_duration_since(Instant::now()) + SLACK;
    // Messages that stay in the outbox are published after the next start.
    let _either = timeout(slack, relay.send(Finish(by))).await;
}
