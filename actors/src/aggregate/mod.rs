//! `aggregate`: makes one message of several that belong together.
//!
//! The open groups are in the store ([`groups`]). One transaction adds a message to its group;
//! one transaction emits a group and deletes it. Time rules are checked on a tick, in the
//! store. So groups of an earlier process are closed as well, and several instances close
//! each group once.

mod config;
mod encoding;
mod groups;
mod rule_migration;

use std::sync::Arc;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{FailureKind, PendingWorkGuard};

use crate::batch::transact_batch;
use crate::expression::{Condition, Expression, Scope};
use crate::json::JsonText;
use crate::key::key_of;
use crate::ports::{IN, OUT, batch_message};
pub use config::{AggregateConfig, Form};
use encoding::LEVELS;
use groups::{Due, Entry, Groups};
use rule_migration::RulesMigrated;

/// Closes due groups.
const CLOSE: Tick = Tick::new("close");
/// Ticks per shortest time rule.
const TICKS: u32 = 20;
/// Minimum time between two ticks.
const TICK_MIN: Duration = Duration::from_millis(50);
/// Maximum time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(10);

/// Remaining time of a tick below which the next tick continues.
const TICK_REST: Duration = Duration::from_secs(5);

/// Maximum bytes of a key, as JSON: it is indexed in the store, and emitted.
const KEY_BYTES_MAX: usize = 1024;

/// Collects messages in groups, and emits each group as one message.
#[derive(Debug)]
pub struct Aggregate {
    key: Option<Expression>,
    each: Option<Expression>,
    until: Option<Condition>,
    groups: Arc<Groups>,
    /// Keeps the app from counting as idle while a time rule may close a group.
    scheduled: Option<PendingWorkGuard>,
}

impl Service for Aggregate {
    const NAME: &'static str = "aggregate";
    const SUMMARY: &'static str = "makes one message of several that belong together";
    const EXAMPLE: &'static str = r#"[services.collect]
use = "aggregate"
store = true
in = "order.lines"
out = "orders"
[services.collect.config]
key = "msg.order"
until = "msg.last"
within = "1m"
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message whose payload is not JSON, unless `each` makes JSON of it",
        "dead-letters a message whose key is null or longer than 1024 bytes, or that lacks a field that has() doesn't guard",
        "dead-letters a message that is too large for a group of its own, by app.max_message",
        "closes a group early, with `closed` = full, before it outgrows app.max_message",
        "closes the oldest group early, with `closed` = room, when more than `groups` are open",
    ];
    const STORE: &'static [Migration] = &[groups::TABLES, rule_migration::IN_STEPS];
    type Config = AggregateConfig;

    fn ports(config: &AggregateConfig, ports: &mut Ports<Self>) {
        ports.batch(&IN, Self::BATCH).output(&OUT);
        if let Some((tick, interval)) = Self::tick_of(config) {
            ports.tick(tick, interval);
        }
    }

    fn check(config: &AggregateConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    async fn start(config: &AggregateConfig, cx: &mut Context) -> Result<Self, Failure> {
        let groups = Arc::new(Groups::new(config, cx.payload_bytes_max()));
        let is_waiting = loop {
            let migrating = groups.clone();
            let migrate = move |tx: &mut Tx<'_>| migrating.migrate_rules(tx, rule_migration::STEP);
            if let RulesMigrated::All { is_waiting } = cx.store()?.transact(migrate).await? {
                break is_waiting;
            }
        };
        Ok(Self {
            key: config.key.clone(),
            each: config.each.clone(),
            until: config.until.clone(),
            groups,
            scheduled: is_waiting.then(|| cx.scheduled()),
        })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        loop {
            let groups = self.groups.clone();
            let close = move |tx: &mut Tx<'_>| groups.close_due(tx);
            match cx.store()?.transact(close).await {
                Ok(Due::None) => {
                    self.scheduled = None;
                    return Ok(());
                }
                Ok(Due::Later) => return Ok(()),
                Ok(Due::Now) if cx.remaining().is_some_and(|left| left < TICK_REST) => {
                    return Ok(());
                }
                Ok(Due::Now) => {}
                // Such as a full disk or an output queue without space: it may pass.
                Err(failure) if matches!(failure.kind(), FailureKind::Defer { .. }) => {
                    let service = cx.service();
                    tracing::warn!(service, error = %failure, "due groups stay open for now");
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl Aggregate {
    /// Messages that share one commit.
    pub(crate) const BATCH: Batch = Batch {
        max: 512,
        within: Duration::ZERO,
    };

    /// The tick that closes due groups, if a rule has a time.
    pub(crate) fn tick_of(config: &AggregateConfig) -> Option<(Tick, Duration)> {
        let shortest = config.shortest()?;
        Some((CLOSE, (shortest / TICKS).clamp(TICK_MIN, TICK_MAX)))
    }

    /// The entry of a message in its group.
    fn entry(&self, cx: &Context, index: usize) -> Result<Entry, Failure> {
        let (message, attempt) = batch_message(cx, index);
        let scope = &mut Scope::new(message, attempt);
        let key = match &self.key {
            Some(key) => key_of(key, scope)?,
            None => "null".to_owned(),
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::reject(format!(
                "the key has {} bytes, {KEY_BYTES_MAX} are allowed",
                key.len()
            )));
        }
        let body = match &self.each {
            Some(each) => each.json(scope)?.into_bytes(),
            None => compact(&message.payload)?,
        };
        let is_last = match &self.until {
            Some(until) => until.holds(scope)?,
            None => false,
        };
        self.groups.admit(&key, &body)?;
        Ok(Entry {
            key,
            body,
            time_ms: message.time_ms as i64,
            is_last,
        })
    }
}

/// The payload of a message, as it is kept in a group.
fn compact(payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let json = JsonText::check(payload).and_then(|json| match json.fits_inside(LEVELS) {
        true => Ok(json),
        false => Err("its JSON is nested too deep".to_owned()),
    });
    let json = json
        .map_err(|text| Failure::reject(format!("the payload can't be part of a group: {text}")))?;
    let mut body = Vec::with_capacity(payload.len());
    json.compact_into(&mut body);
    Ok(body)
}

impl HandleBatch<Raw> for Aggregate {
    async fn handle_batch(
        &mut self,
        batch: Vec<Raw>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        let transactions = (0..batch.len()).map(|index| {
            let entry = self.entry(cx, index)?;
            let groups = self.groups.clone();
            Ok(move |tx: &mut Tx<'_>| groups.add(tx, &entry))
        });
        let transactions = transactions.collect();
        if self.groups.are_timed() && self.scheduled.is_none() {
            // A tick that finds no timed group resets it.
            self.scheduled = Some(cx.scheduled());
        }
        transact_batch(cx, transactions).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_kept_without_whitespace_and_refused_if_it_is_not_json() {
        assert_eq!(compact(b" {\"a\": [1, 2]}\n").unwrap(), b"{\"a\":[1,2]}");
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(compact(deep(126).as_bytes()).is_ok());
        for payload in ["", "nonsense", &deep(127)] {
            let failure = compact(payload.as_bytes()).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject);
        }
    }
}
