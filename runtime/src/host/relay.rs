//! The relay of a service with a store: publishes what waits in its outbox.
//!
//! In the order in which it was committed, many under way at a time; what is confirmed is
//! removed. After a failure it begins anew with the first that is left, so that a later one
//! may be published twice, under its id, and none is passed over. Also cleans the inbox.

use std::panic::AssertUnwindSafe;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, OptionFuture};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, warn};

use super::core::WINDOW;
use super::environment::Environment;
use super::guard::panic_text;
use super::seldom::Seldom;
use crate::metrics::Cause;
use crate::sqlite::{Migration, SqliteError};
use crate::store::{Opened, Row};
use crate::supervision::History;
use crate::transport::{Completion, TransportError};

/// How often the inbox is cleaned.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// So many entries are forgotten in one transaction: others come between.
const CLEAN_MAX: u32 = 500;
/// The inbox remembers a message at least so long.
const REMEMBER_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The relay of one service.
pub(crate) struct Relay {
    env: Arc<Environment>,
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
    pub(crate) fn new(env: Arc<Environment>, migrations: &'static [Migration]) -> Self {
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
        let carrier = Carrier {
            env: self.env.clone(),
            migrations: self.migrations,
            finish: self.finish.subscribe(),
            refusals: Seldom::default(),
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

struct Carrier {
    env: Arc<Environment>,
    migrations: &'static [Migration],
    finish: watch::Receiver<Option<Instant>>,
    refusals: Seldom,
}

/// Why it doesn't go on for now.
enum Trouble {
    /// The transport didn't take something.
    Transport(TransportError),
    /// The store can't be read or written.
    Store(String),
}

impl From<SqliteError> for Trouble {
    fn from(error: SqliteError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Carrier {
    async fn run(mut self) {
        let origin = Instant::now();
        let mut history = History::default();
        while !self.is_over() {
            let began = origin.elapsed();
            let carried = AssertUnwindSafe(self.carry()).catch_unwind().await;
            let trouble = match carried {
                Ok(Ok(())) => return,
                Ok(Err(trouble)) => trouble,
                Err(payload) => Trouble::Store(format!("panicked: {}", panic_text(payload))),
            };
            if origin.elapsed().saturating_sub(began) >= Duration::from_secs(1) {
                history.success();
            }
            let (restart, next) =
                history.failure(&self.env.restart, origin.elapsed(), fastrand::f64());
            history = next;
            let wait = restart.wait().max(self.env.restart.backoff.min);
            self.report(&trouble, wait);
            self.wait(&trouble, wait).await;
        }
    }

    fn report(&self, trouble: &Trouble, wait: Duration) {
        let text = match trouble {
            Trouble::Transport(error) => error.to_string(),
            Trouble::Store(text) => text.clone(),
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

    async fn wait(&self, trouble: &Trouble, wait: Duration) {
        let mut finish = self.finish.clone();
        let ending = async move {
            // The sender is in the actor, which waits for this.
            let _over = finish.wait_for(Option::is_some).await;
        };
        let pause = async {
            match trouble {
                Trouble::Transport(_) if self.env.transport_is_down() => {
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
    async fn carry(&mut self) -> Result<(), Trouble> {
        let opening = self.env.open_store(self.migrations).await;
        let opened = opening.map_err(|failure| Trouble::Store(failure.text().to_owned()))?;
        opened.outbox.rewind();
        let flight = Arc::new(Flight::default());
        let mut after = 0;
        let mut under_way = 0;
        let mut trouble = None;
        let mut confirmed: Vec<i64> = Vec::new();
        let mut removal: Option<LocalBoxFuture<'_, Result<(), SqliteError>>> = None;
        let mut clean_at = Instant::now();
        let mut finish = self.finish.clone();
        loop {
            let landed = flight.take();
            under_way -= landed.count();
            if trouble.is_none() {
                trouble = landed.failed.map(Trouble::Transport);
            }
            for (n, why) in landed.refused {
                error!(service = %self.env.label, n, error = %why, "a message stays in the outbox: it can't be published");
                opened.refuse(n, why).await?;
            }
            confirmed.extend(landed.confirmed);
            if removal.is_none() && !confirmed.is_empty() {
                let (opened, name) = (opened.clone(), self.env.label.clone());
                let confirmed = std::mem::take(&mut confirmed);
                removal = Some(Box::pin(async move {
                    opened
                        .outbox
                        .remove(&opened.database, &name, confirmed)
                        .await
                }));
            }
            let quiet = under_way == 0 && removal.is_none();
            if let Some(trouble) = trouble.take_if(|_| quiet) {
                return Err(trouble);
            }
            let finishing = *finish.borrow_and_update();
            if let Some(by) = finishing
                && ((quiet && opened.outbox.waiting() == 0) || Instant::now() >= by)
            {
                return Ok(());
            }
            if trouble.is_none() && under_way < WINDOW {
                let name = &*self.env.label;
                let next = opened
                    .outbox
                    .next(&opened.database, name, after, WINDOW - under_way);
                let next = next.await?;
                if let Some(last) = next.last() {
                    after = last.n;
                    under_way += self.publish(next, &flight);
                    continue;
                }
            }
            if Instant::now() >= clean_at {
                clean_at = Instant::now() + CLEAN_EVERY;
                self.clean(&opened).await?;
            }
            let removing = OptionFuture::from(removal.as_mut());
            tokio::select! {
                () = flight.landed.notified() => {}
                () = opened.outbox.more(), if trouble.is_none() && under_way < WINDOW => {}
                Some(removed) = removing => {
                    removal = None;
                    removed?;
                }
                () = sleep_until(clean_at) => {}
                () = sleep_until(finishing.unwrap_or(clean_at)), if finishing.is_some() => {}
                _ = finish.changed() => {}
            }
        }
    }

    /// Publishes until one is known to have failed; says how many.
    fn publish(&self, rows: Vec<Row>, flight: &Arc<Flight>) -> usize {
        let now_ms = self.env.clock.unix_ms();
        let mut published = 0;
        for row in rows {
            if flight.has_failed() {
                break;
            }
            published += 1;
            let outgoing = row.outgoing(now_ms);
            let (env, flight) = (self.env.clone(), flight.clone());
            let done = Completion::new(move |outcome| {
                if outcome.is_ok()
                    && let Ok(output) = env.output(&row.output)
                {
                    env.meters.emitted(output, 1);
                }
                flight.land(row.n, outcome);
            });
            self.env.publish(vec![outgoing], done);
        }
        published
    }

    /// Forgets what came so long ago that it doesn't come again.
    async fn clean(&self, opened: &Opened) -> Result<(), SqliteError> {
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
            .retry
            .backoff
            .max
            .saturating_mul(self.env.retry.attempts);
        REMEMBER_MIN.max(tries.saturating_mul(2))
    }
}

/// What was published and has come back.
#[derive(Default)]
struct Flight {
    back: Mutex<Landed>,
    landed: Notify,
}

#[derive(Default)]
struct Landed {
    confirmed: Vec<i64>,
    refused: Vec<(i64, String)>,
    lost: usize,
    failed: Option<TransportError>,
}

impl Landed {
    fn count(&self) -> usize {
        self.confirmed.len() + self.refused.len() + self.lost
    }
}

impl Flight {
    fn land(&self, n: i64, outcome: Result<(), TransportError>) {
        let mut back = self.back.lock();
        match outcome {
            Ok(()) => back.confirmed.push(n),
            Err(error) if error.is_permanent() => back.refused.push((n, error.to_string())),
            Err(error) => {
                back.lost += 1;
                back.failed = Some(error);
            }
        }
        drop(back);
        self.landed.notify_one();
    }

    fn has_failed(&self) -> bool {
        self.back.lock().failed.is_some()
    }

    fn take(&self) -> Landed {
        std::mem::take(&mut *self.back.lock())
    }
}

/// Waits for a relay to finish, but not much longer than it has time.
pub(super) async fn finish(relay: &actix::Addr<Relay>, by: Instant) {
    const SLACK: Duration = Duration::from_millis(200);
    let slack = by.saturating_duration_since(Instant::now()) + SLACK;
    // What stays in the outbox is published at the next start.
    let _either = timeout(slack, relay.send(Finish(by))).await;
}
