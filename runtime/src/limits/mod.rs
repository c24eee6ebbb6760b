//! Rate limits of an app: `[limits.NAME]`, shared by the services of a process.

mod bucket;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::HumanDuration;
use crate::failure::Failure;
use crate::key::KeyRule;
use crate::message::Message;
use bucket::{Buckets, Turn};

pub(crate) use bucket::Rate;

/// Settings of a limit.
#[derive(Debug, Clone)]
pub(crate) struct LimitSpec {
    pub(crate) name: Arc<str>,
    pub(crate) rate: Rate,
    /// How messages get their keys; `None` if all messages share one bucket.
    pub(crate) key: Option<KeyRule>,
    pub(crate) keys_max: usize,
}

/// The limits of an app in this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits(BTreeMap<Arc<str>, Limit>);

impl Limits {
    /// Creates limits with full buckets.
    pub(crate) fn new(specs: Vec<LimitSpec>) -> Self {
        let limits = specs
            .into_iter()
            .map(|spec| (spec.name.clone(), Limit::new(spec)));
        Self(limits.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Limit> {
        self.0.get(name)
    }
}

/// A rate limit of the manifest: in any time `t` at most `burst + rate × t` messages of a key go.
///
/// All services of a process that name the limit share it. Other processes, and services with
/// `isolation = "process"`, count by themselves.
#[derive(Clone)]
pub struct Limit(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    key: Option<KeyRule>,
    start: Instant,
    buckets: Mutex<Buckets>,
}

impl Limit {
    fn new(spec: LimitSpec) -> Self {
        Self(Arc::new(Shared {
            name: spec.name,
            key: spec.key,
            start: Instant::now(),
            buckets: Mutex::new(Buckets::new(spec.rate, spec.keys_max)),
        }))
    }

    /// Returns the name in the manifest.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns whether messages of different keys have buckets of their own.
    pub fn has_key(&self) -> bool {
        self.0.key.is_some()
    }

    /// Takes a token for a message; `None` if it may go now, else the time until it should ask
    /// again. A message that asks again keeps its place: later messages of its key wait behind
    /// it.
    ///
    /// # Errors
    /// A [`Failure::reject`]: the message has no key.
    pub fn turn(&self, message: &Message) -> Result<Option<Duration>, Failure> {
        let key = match &self.0.key {
            Some(rule) => Some(rule.key(message).map_err(|why| {
                Failure::reject(format!("no key for the limit `{}`: {why}", self.0.name))
            })?),
            None => None,
        };
        let now = u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(match self.0.buckets.lock().turn(key, &message.id, now) {
            Turn::Now => None,
            Turn::At(at) => Some(Duration::from_nanos(at.saturating_sub(now))),
        })
    }

    /// Waits until the message may go, at most for `wait_max`.
    ///
    /// ```
    /// # use brickwork::prelude::*;
    /// # use std::time::Duration;
    /// async fn call(limit: &brickwork::Limit, cx: &Context) -> Result<(), Failure> {
    ///     let message = cx.message().expect("a handler of one message has one");
    ///     limit.pass(message, Duration::from_millis(100)).await?;
    ///     // The call.
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// A [`Failure::defer`] until the message's turn, if that is later: it costs no attempt. A
    /// [`Failure::reject`], if the message has no key.
    pub async fn pass(&self, message: &Message, wait_max: Duration) -> Result<(), Failure> {
        let end = Instant::now() + wait_max.min(Duration::from_secs(86_400));
        loop {
            let Some(wait) = self.turn(message)? else {
                return Ok(());
            };
            let wait = wait.max(Duration::from_millis(1));
            if Instant::now() + wait > end {
                // Transports delay by milliseconds: rounded up, the turn has come.
                let wait = Duration::from_millis(wait.as_millis() as u64 + 1);
                let text = format!(
                    "the limit `{}` is used up: next turn in {}",
                    self.0.name,
                    HumanDuration(wait)
                );
                return Err(Failure::defer(wait, text));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limit").field(&self.0.name).finish()
    }
}
