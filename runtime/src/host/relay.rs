//! The relay of a service with a store: publishes what waits in its outbox.
//!
//! In the order in which it was committed, many under way at a time; what is confirmed is
//! removed. After a failure it begins anew with the first that is left, so that a later one
//! may be published twice, under its id, and none is passed over. Also cleans the inbox.
//!
//! # What is refused
//! A queue that is full and rejects holds up the output that goes there, and no other: what is
//! emitted there waits, is tried again one message at a time, and goes with the others again
//! when it has caught up.
//!
//! The order of each output is kept: nothing is published while it is known that an earlier one
//! of the same output was refused. What was under way with that one, since confirms come later,
//! may have been taken over before it; a transport that refuses at once, as `memory:` and
//! `embedded:` do when a queue is full, has none of these.

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
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use self::round::Round;
use super::guard::panic_text;
use super::log_throttle::LogThrottle;
use super::service_run::ServiceRun;
use crate::failure::Failure;
use crate::metrics::Cause;
use crate::sqlite::{Migration, SqliteError};
use crate::store::OpenStore;
use crate::supervision::{Backoff, History};
use crate::transport::TransportError;

/// How often the inbox is cleaned.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// So many entries are forgotten in one transaction: others come between.
const CLEAN_MAX: u32 = 500;
/// The inbox remembers a message at least so long.
const REMEMBER_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// An output that is held is tried again at least so often: it costs one message.
const HELD_MAX: Duration = Duration::from_secs(1);
/// At least a moment, whatever the back-off.
const HELD_MIN: Duration = Duration::from_millis(10);

/// How long a service takes no messages when its outbox is full, before it tries again.
const FULL_WAIT: Duration = Duration::from_secs(1);

/// The relay of one service.
pub(crate) struct Relay {
    env: Arc<ServiceRun>,
    migrations: &'static [Migration],
    /// When it must be done, once it is to end.
    finish: watch::Sender<Option<Instant>>,
    done: watch::Sender<bool>,
}

/// Publish what is there, as far as that goes until then, and end.
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
        let carrier = RelayTask {
            env: self.env.clone(),
            migrations: self.migrations,
            finish: self.finish.subscribe(),
            refusals: LogThrottle::default(),
        };
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            carrier.run().await;
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
            // An actor that is gone is done, too.
            let _gone = done.wait_for(|done| *done).await;
            drop(address);
        })
    }
}

struct RelayTask {
    env: Arc<ServiceRun>,
    migrations: &'static [Migration],
    finish: watch::Receiver<Option<Instant>>,
    refusals: LogThrottle,
}

/// Why it doesn't go on for now.
enum RelayError {
    /// The transport didn't take something.
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
            let carried = AssertUnwindSafe(self.carry()).catch_unwind().await;
            let trouble = match carried {
                Ok(Ok(())) => return,
                Ok(Err(trouble)) => trouble,
                Err(payload) => RelayError::Store(format!("panicked: {}", panic_text(payload))),
            };
            if origin.elapsed().saturating_sub(began) >= Duration::from_secs(1) {
                history.success();
            }
            let (restart, next) = history.failure(
                &self.env.settings.restart.policy,
                origin.elapsed(),
                fastrand::f64(),
            );
            history = next;
            let wait = restart
                .wait()
                .max(self.env.settings.restart.policy.backoff.min);
            self.report(&trouble, wait);
            self.wait(&trouble, wait).await;
        }
    }

    fn report(&self, trouble: &RelayError, wait: Duration) {
        let text = match trouble {
            RelayError::Transport(error) => error.to_string(),
            RelayError::Store(text) => text.clone(),
        };
        let text = self.env.redactor.clean(&text).into_owned();
        self.env.meters.restarted(Cause::Relay);
        self.env.note(Cause::Relay, &text);
        // A transport that is down was said to be.
        if !self.env.transport_is_down() && self.refusals.happened().is_some() {
            let service = &*self.env.label;
            warn!(service, error = %text, ?wait, "the outbox is not published, trying again");
        }
    }

    async fn wait(&self, trouble: &RelayError, wait: Duration) {
        let mut finish = self.finish.clone();
        let ending = async move {
            // The sender is in the actor, which waits for this.
            let _over = finish.wait_for(Option::is_some).await;
        };
        let pause = async {
            match trouble {
                RelayError::Transport(_) if self.env.transport_is_down() => {
                    self.env.transport_works().await;
                }
                _ => tokio::time::sleep(wait).await,
            }
        };
        // One that is to end tries once more, soon.
        let ending = async {
            ending.await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        tokio::select! {
            () = pause => {}
            () = ending => {}
        }
    }

    fn is_over(&self) -> bool {
        let finish = *self.finish.borrow();
        finish.is_some_and(|by| Instant::now() >= by)
    }

    /// Carries until it is to end (`Ok`), or can't.
    async fn carry(&self) -> Result<(), RelayError> {
        let opening = self.env.open_store(self.migrations).await;
        let opened = opening.map_err(|failure| RelayError::Store(failure.text().to_owned()))?;
        opened.outbox.rewind();
        let mut round = Round::new(self, opened.clone());
        let mut removal: Option<LocalBoxFuture<'_, Result<(), SqliteError>>> = None;
        let mut clean_at = Instant::now();
        let mut finish = self.finish.clone();
        loop {
            round.land().await?;
            if removal.is_none() && !round.confirmed.is_empty() {
                let confirmed = std::mem::take(&mut round.confirmed);
                removal = Some(Box::pin(opened.remove(&self.env.label, confirmed)));
            }
            let quiet = round.under_way == 0 && removal.is_none();
            if let Some(trouble) = round.trouble.take_if(|_| quiet) {
                return Err(trouble);
            }
            let finishing = *finish.borrow_and_update();
            if let Some(by) = finishing
                && ((quiet && opened.outbox.waiting() == 0) || Instant::now() >= by)
            {
                return Ok(());
            }
            if round.has_room() && round.publish_some().await? {
                continue;
            }
            if Instant::now() >= clean_at {
                clean_at = Instant::now() + CLEAN_EVERY;
                self.clean(&opened).await?;
            }
            let removing = OptionFuture::from(removal.as_mut());
            let again = round.lanes.again().filter(|_| round.has_room());
            tokio::select! {
                () = round.flight.landed.notified() => {}
                () = opened.outbox.more(), if round.has_room() => {}
                () = sleep_until(again.unwrap_or(clean_at)), if again.is_some() => {}
                Some(removed) = removing => {
                    removal = None;
                    removed?;
                }
                () = sleep_until(clean_at) => {}
                () = sleep_until(finishing.unwrap_or(clean_at)), if finishing.is_some() => {}
                _ = finish.changed() => round.lanes.hasten(),
            }
        }
    }

    /// How long an output is held that was refused so often before.
    fn hold(&self, refusals: u32) -> Duration {
        let nth = match self.finish.borrow().is_some() {
            true => 0,
            false => refusals,
        };
        let backoff = self.env.settings.restart.policy.backoff;
        let max = backoff.max.min(HELD_MAX);
        let wait = Backoff { max, ..backoff }.delay(nth, fastrand::f64());
        wait.max(HELD_MIN)
    }

    fn report_held(&self, output: &str, error: &TransportError, wait: Duration) {
        let text = self.env.redactor.clean(&error.to_string()).into_owned();
        self.env.note(Cause::Relay, &text);
        if let Some(more) = self.refusals.happened() {
            let service = &*self.env.label;
            warn!(service, output, error = %text, ?wait, more, "what is emitted on this output waits in the outbox");
        }
    }

    /// Forgets what came so long ago that it doesn't come again.
    async fn clean(&self, opened: &OpenStore) -> Result<(), SqliteError> {
        let older_ms = u64::try_from(self.remember().as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.env.clock.unix_ms();
        loop {
            let name = &*self.env.label;
            let forgotten = opened.forget(name, older_ms, now_ms, CLEAN_MAX).await?;
            if forgotten < CLEAN_MAX as usize || self.finish.borrow().is_some() {
                return Ok(());
            }
        }
    }

    /// Longer than all tries of a message take, and some days for those that are replayed.
    fn remember(&self) -> Duration {
        let tries = self
            .env
            .settings
            .retry
            .backoff
            .max
            .saturating_mul(self.env.settings.retry.attempts);
        REMEMBER_MIN.max(tries.saturating_mul(2))
    }
}

impl ServiceRun {
    /// A message was to emit, and the outbox is full: takes none for a moment, and says why.
    ///
    /// Then some are tried: those that emit nothing go on, so that in a cycle of full queues
    /// one who waits for this service isn't waited for.
    pub(crate) fn outbox_is_full(self: &Arc<Self>) -> Failure {
        let holds = self.outbox();
        if let Some(more) = self.refusals.happened() {
            let service = &*self.label;
            warn!(
                service,
                holds, more, "the outbox is full: messages wait until it has halved"
            );
        }
        self.pause(FULL_WAIT);
        Failure::defer(
            FULL_WAIT,
            format!("the outbox is full, it holds {holds} messages"),
        )
    }
}

/// Waits for a relay to finish, but not much longer than it has time.
pub(super) async fn finish(relay: &actix::Addr<Relay>, by: Instant) {
    const SLACK: Duration = Duration::from_millis(200);
    let slack = by.saturating_duration_since(Instant::now()) + SLACK;
    // What stays in the outbox is published at the next start.
    let _either = timeout(slack, relay.send(Finish(by))).await;
}
