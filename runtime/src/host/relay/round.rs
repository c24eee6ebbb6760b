//! One round of the relay: what is published, in which order, and what becomes of it when it
//! comes back.
//!
//! Removes nothing and waits for nothing that is published: that is for who drives it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::error;

use super::confirms::{Confirmed, Confirms, FailureScope};
use super::per_output::OutputQueues;
use super::{RelayError, RelayTask};
use crate::host::service_state::WINDOW;
use crate::sqlite::SqliteError;
use crate::store::{OpenStore, Row};
use crate::transport::Completion;

/// From the first that is left, until there is trouble or an end.
pub(super) struct Round<'a> {
    carrier: &'a RelayTask,
    opened: Arc<OpenStore>,
    pub(super) flight: Arc<Confirms>,
    pub(super) lanes: OutputQueues,
    /// All up to here are done, under way, or in a lane that is held.
    after: i64,
    pub(super) under_way: usize,
    /// Taken over, and not removed yet.
    pub(super) confirmed: Vec<i64>,
    /// Nothing is published any more: it begins anew when all is back.
    pub(super) trouble: Option<RelayError>,
}

impl<'a> Round<'a> {
    pub(super) fn new(carrier: &'a RelayTask, opened: Arc<OpenStore>) -> Self {
        Self {
            carrier,
            opened,
            flight: Arc::default(),
            lanes: OutputQueues::default(),
            after: 0,
            under_way: 0,
            confirmed: Vec::new(),
            trouble: None,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.trouble.is_none() && self.under_way < WINDOW
    }

    /// Takes notice of what has come back.
    pub(super) async fn land(&mut self) -> Result<(), SqliteError> {
        let env = &self.carrier.env;
        for Confirmed { n, output, outcome } in self.flight.take() {
            self.under_way -= 1;
            let Err(error) = outcome else {
                self.lanes.taken(&output, n);
                self.confirmed.push(n);
                continue;
            };
            match FailureScope::of(&error) {
                FailureScope::Message => {
                    self.lanes.back(&output);
                    error!(service = %env.label, n, %error, "a message stays in the outbox: it can't be published");
                    self.opened.refuse(&env.label, n, error.to_string()).await?;
                }
                FailureScope::Output if !env.transport_is_down() => {
                    let wait = |refusals| self.carrier.hold(refusals);
                    if let Some(wait) = self.lanes.refused(&output, n, wait) {
                        self.carrier.report_held(&output, &error, wait);
                    }
                }
                FailureScope::Output | FailureScope::Transport => {
                    self.lanes.back(&output);
                    self.trouble.get_or_insert(RelayError::Transport(error));
                }
            }
        }
        Ok(())
    }

    /// Publishes some of what waits, if there is any: of outputs that were held, whose turn it
    /// is, and then of the others. Says whether it did something, so that there may be more.
    pub(super) async fn publish_some(&mut self) -> Result<bool, SqliteError> {
        let (env, opened) = (&self.carrier.env, self.opened.clone());
        let (outbox, database) = (&opened.outbox, &opened.database);
        let mut did = false;
        for turn in self.lanes.turns(Instant::now()) {
            let at_most = turn.at_most.min(WINDOW - self.under_way);
            if at_most == 0 {
                break;
            }
            let range = (turn.after, self.after);
            let rows = outbox.of_output(database, &env.label, &turn.output, range, at_most);
            let rows = rows.await?;
            did = true;
            self.lanes.tries(&turn.output);
            if rows.is_empty() {
                self.lanes.caught_up(&turn.output);
            }
            for row in rows {
                if self.flight.blocks(&row.output) {
                    break;
                }
                if !self.lanes.passes(&row.output, row.n) {
                    self.publish(row);
                }
            }
        }
        let at_most = WINDOW - self.under_way;
        if at_most > 0 {
            let next = outbox.next(database, &env.label, self.after, at_most);
            for row in next.await? {
                did = true;
                self.after = row.n;
                // Of one that is held, or will be, this comes later.
                if !self.flight.blocks(&row.output) && !self.lanes.is_held(&row.output) {
                    self.publish(row);
                }
            }
        }
        Ok(did)
    }

    fn publish(&mut self, row: Row) {
        self.lanes.publishes(&row.output, row.n);
        self.under_way += 1;
        let outgoing = row.outgoing(self.carrier.env.clock.unix_ms());
        let (env, flight) = (self.carrier.env.clone(), self.flight.clone());
        let done = Completion::new(move |outcome| {
            if outcome.is_ok()
                && let Ok(output) = env.output(&row.output)
            {
                env.meters.emitted(output, 1);
            }
            let Row { n, output, .. } = row;
            flight.land(Confirmed { n, output, outcome });
        });
        self.carrier.env.publish(vec![outgoing], done);
    }
}
