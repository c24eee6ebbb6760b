//! One round of the relay: publishes messages in order and sorts the confirms.
//!
//! A round begins with the first message in the outbox and lasts until a failure or the end of
//! the relay. It deletes no messages: [`confirmed`](Round::confirmed) collects those to delete.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, warn};

use super::confirms::{Confirmed, Confirms, FailureScope};
use super::per_output::OutputQueues;
use crate::host::service_run::ServiceRun;
use crate::host::service_state::WINDOW;
use crate::log_throttle::LogThrottle;
use crate::metrics::Cause;
use crate::sqlite::SqliteError;
use crate::store::{OpenStore, Row};
use crate::supervision::Backoff;
use crate::transport::{Completion, TransportError};

/// Maximum wait before a held output is retried, which costs one message.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// Minimum wait before a held output is retried.
const HOLD_MIN: Duration = Duration::from_millis(10);

/// State of one round.
pub(super) struct Round<'a> {
    env: &'a Arc<ServiceRun>,
    log: &'a LogThrottle,
    /// Deadline of the relay, once it has to finish.
    finish: watch::Receiver<Option<Instant>>,
    opened: Arc<OpenStore>,
    pub(super) confirms: Arc<Confirms>,
    pub(super) outputs: OutputQueues,
    /// All messages up to this number are done, in flight, or of a held output.
    after: i64,
    pub(super) in_flight: usize,
    /// Confirmed messages, to be deleted.
    pub(super) confirmed: Vec<i64>,
    /// The failure that ends this round, as soon as no message is in flight.
    pub(super) error: Option<TransportError>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        env: &'a Arc<ServiceRun>,
        log: &'a LogThrottle,
        finish: watch::Receiver<Option<Instant>>,
        opened: Arc<OpenStore>,
    ) -> Self {
        Self {
            env,
            log,
            finish,
            opened,
            confirms: Arc::default(),
            outputs: OutputQueues::default(),
            after: 0,
            in_flight: 0,
            confirmed: Vec::new(),
            error: None,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.error.is_none() && self.in_flight < WINDOW
    }

    /// Processes the confirms and failures that have arrived.
    pub(super) async fn take_confirms(&mut self) -> Result<(), SqliteError> {
        let env = self.env;
        for Confirmed { n, output, outcome } in self.confirms.take() {
            self.in_flight -= 1;
            let Err(error) = outcome else {
                self.outputs.confirmed(&output, n);
                self.confirmed.push(n);
                continue;
            };
            match FailureScope::of(&error) {
                FailureScope::Message => {
                    self.outputs.failed(&output);
                    error!(service = %env.label, n, %error, "message can't be published, it stays in the outbox");
                    self.opened.refuse(&env.label, n, error.to_string()).await?;
                }
                FailureScope::Output if !env.transport_is_down() => {
                    let wait = hold_wait(env, self.finish.borrow().is_some());
                    if let Some(wait) = self.outputs.refused(&output, n, wait) {
                        self.report_held(&output, &error, wait);
                    }
                }
                FailureScope::Output | FailureScope::Transport => {
                    self.outputs.failed(&output);
                    self.error.get_or_insert(error);
                }
            }
        }
        Ok(())
    }

    fn report_held(&self, output: &str, error: &TransportError, wait: Duration) {
        let text = self.env.redactor.clean(&error.to_string()).into_owned();
        self.env.note(Cause::Relay, &text);
        if let Some(suppressed) = self.log.event() {
            let service = &*self.env.label;
            warn!(service, output, error = %text, ?wait, suppressed, "output refused, its messages wait in the outbox");
        }
    }

    /// Publishes waiting messages: first those of held outputs that are due, then the others.
    /// Returns whether it made progress, so that more may wait.
    pub(super) async fn publish_some(&mut self) -> Result<bool, SqliteError> {
        let (env, opened) = (self.env, self.opened.clone());
        let (outbox, database) = (&opened.outbox, &opened.database);
        let mut progress = false;
        for quota in self.outputs.due(Instant::now()) {
            let at_most = quota.at_most.min(WINDOW - self.in_flight);
            if at_most == 0 {
                break;
            }
            let range = (quota.after, self.after);
            let rows = outbox.of_output(database, &env.label, &quota.output, range, at_most);
            let rows = rows.await?;
            progress = true;
            self.outputs.retrying(&quota.output);
            if rows.is_empty() {
                self.outputs.caught_up(&quota.output);
            }
            for row in rows {
                if self.confirms.blocks(&row.output) {
                    break;
                }
                if !self.outputs.skip_confirmed(&row.output, row.n) {
                    self.publish(row);
                }
            }
        }
        let at_most = WINDOW - self.in_flight;
        if at_most > 0 {
            let next = outbox.next(database, &env.label, self.after, at_most);
            for row in next.await? {
                progress = true;
                self.after = row.n;
                // A held output continues from its own number.
                if !self.confirms.blocks(&row.output) && !self.outputs.is_held(&row.output) {
                    self.publish(row);
                }
            }
        }
        Ok(progress)
    }

    fn publish(&mut self, row: Row) {
        self.outputs.published(&row.output, row.n);
        self.in_flight += 1;
        let outgoing = row.outgoing(&self.env.label, self.env.clock.unix_ms());
        let (publisher, confirms) = (self.env.publisher.clone(), self.confirms.clone());
        let done = Completion::new(move |outcome| {
            if outcome.is_ok()
                && let Ok(output) = publisher.output(&row.output)
            {
                publisher.meters.emitted(output, 1);
            }
            let Row { n, output, .. } = row;
            confirms.add(Confirmed { n, output, outcome });
        });
        self.env.publish(vec![outgoing], done);
    }
}

/// Returns the wait of a held output as a function of the refusals in a row before.
fn hold_wait(env: &ServiceRun, is_finishing: bool) -> impl Fn(u32) -> Duration {
    let backoff = env.settings.restart.policy.backoff;
    let max = backoff.max.min(HOLD_MAX);
    let backoff = Backoff { max, ..backoff };
    move |refusals| {
        let refusals = if is_finishing { 0 } else { refusals };
        backoff.delay(refusals, fastrand::f64()).max(HOLD_MIN)
    }
}
