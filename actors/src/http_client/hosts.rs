//! Hosts: a circuit breaker, a limit and a pause for each.
//!
//! # Invariants
//! - A request that runs holds a permit. A permit that is dropped without a result (the handler was
//!   cancelled) frees its place, and the place of a probe.
//! - A probe has a deadline, after which it counts as failed: a breaker can't stick.
//! - Many hosts: one that is slow holds at most its limit, and half as many wait for it. Further
//!   requests are refused as busy, so that the others go on.
//! - One host alone: requests wait for a place, because nothing else could use their time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use brickwork::supervision::{Breaker, BreakerPhase, BreakerPolicy, Ticket, Verdict};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use super::limit::{Limit, Sample};
use super::request::CallError;

/// Maximum hosts that are remembered.
const HOSTS_MAX: usize = 10_000;

/// Time for which a host that was called counts as in use.
const IN_USE: Duration = Duration::from_secs(60);

/// Delay of a request while a probe runs.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The hosts of a client.
pub(crate) struct Hosts {
    table: Mutex<HashMap<Arc<str>, Host>>,
    settings: HostSettings,
    started: Instant,
}

/// The same for all hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostSettings {
    pub(crate) breaker: Option<BreakerPolicy>,
    pub(crate) max_in_flight: usize,
    pub(crate) adaptive: bool,
    /// Time after which a probe without a result counts as failed.
    pub(crate) probe_within: Duration,
}

struct Host {
    breaker: Option<Breaker>,
    limit: Limit,
    in_flight: usize,
    waiting: usize,
    /// End of the pause that the host has asked for.
    held_until: Option<Instant>,
    used: Instant,
    freed: Arc<Notify>,
}

/// A place among the requests in flight.
pub(crate) struct Permit {
    hosts: Arc<Hosts>,
    host: Arc<str>,
    ticket: Option<Ticket>,
    message: u64,
    done: bool,
}

/// The result of a request, for its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostResult {
    pub(crate) verdict: Verdict,
    pub(crate) sample: Option<Sample>,
    /// Wait that the host has asked for.
    pub(crate) hold: Option<Duration>,
}

enum Entry {
    Admitted(Option<Ticket>),
    /// Until, and the reason.
    Held(Instant, &'static str),
    Wait(OwnedNotified),
    Busy,
}

impl Hosts {
    pub(crate) fn new(settings: HostSettings) -> Self {
        Self {
            table: Mutex::default(),
            settings,
            started: Instant::now(),
        }
    }

    /// Waits for a place among the requests to a host.
    ///
    /// # Errors
    /// The breaker is open, the host has asked to wait, or there is no place until the deadline.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        host: &str,
        message: u64,
        deadline: Instant,
    ) -> Result<Permit, CallError> {
        let host: Arc<str> = host.into();
        let mut place = Waiting(None);
        loop {
            let notified = match self.try_enter(&host, &mut place) {
                Entry::Admitted(ticket) => {
                    return Ok(Permit {
                        hosts: self.clone(),
                        host,
                        ticket,
                        message,
                        done: false,
                    });
                }
                Entry::Held(until, reason) => return Err(open(&host, until, reason)),
                Entry::Busy => return Err(CallError::Busy(shown(&host).to_owned())),
                Entry::Wait(notified) => notified,
            };
            if place.0.is_none() {
                place.0 = Some((self.clone(), host.clone()));
                self.with(&host, |host| host.waiting += 1);
            }
            if timeout_at(deadline, notified).await.is_err() {
                return Err(CallError::Busy(shown(&host).to_owned()));
            }
        }
    }

    /// Returns the error of a request to a host that waits now.
    pub(crate) fn held(&self, name: &str) -> Option<CallError> {
        let mut table = self.table();
        let held = table.get_mut(name)?.held(Instant::now(), self.started);
        held.map(|(until, reason)| open(name, until, reason))
    }

    /// Returns the end of the shortest pause, if every host that is in use pauses.
    pub(crate) fn all_held(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut table = self.table();
        let mut shortest = None;
        for host in table.values_mut() {
            if now.saturating_duration_since(host.used) < IN_USE {
                let (until, _) = host.held(now, self.started)?;
                let wait = until.saturating_duration_since(now);
                shortest = Some(shortest.map_or(wait, |least: Duration| least.min(wait)));
            }
        }
        shortest
    }

    /// Returns the pause of a host whose breaker is not closed.
    pub(crate) fn outage(&self, host: &str) -> Option<Duration> {
        let now = Instant::now();
        let mut table = self.table();
        let host = table.get_mut(host)?;
        if host.breaker.as_ref()?.phase() == BreakerPhase::Closed {
            return None;
        }
        let held = host.held(now, self.started);
        Some(held.map_or(PROBE_WAIT, |(until, _)| {
            until.saturating_duration_since(now)
        }))
    }

    fn try_enter(&self, name: &Arc<str>, place: &mut Waiting) -> Entry {
        let now = Instant::now();
        let mut table = self.table();
        if table.len() >= HOSTS_MAX && !table.contains_key(name) {
            table.retain(|_, host| host.in_flight + host.waiting > 0 || host.is_held(now));
        }
        let alone = table.len() < 2 || !others_in_use(&table, name, now);
        let settings = &self.settings;
        let host = table
            .entry(name.clone())
            .or_insert_with(|| Host::new(settings, now));
        host.used = now;
        if let Some((until, reason)) = host.held(now, self.started) {
            return Entry::Held(until, reason);
        }
        let allowed = host.allowed(settings);
        if host.in_flight >= allowed {
            let may_wait = alone || place.0.is_some() || host.waiting < allowed.div_ceil(2);
            return match may_wait {
                // Made under the lock, so that no later wake-up is missed.
                true => Entry::Wait(host.freed.clone().notified_owned()),
                false => Entry::Busy,
            };
        }
        let since_start = now - self.started;
        let within = settings.probe_within;
        let ticket = match &mut host.breaker {
            None => None,
            Some(breaker) => match breaker.admit(since_start, within) {
                Some(ticket) => Some(ticket),
                None => return Entry::Held(now + PROBE_WAIT, "is being tried with one request"),
            },
        };
        host.in_flight += 1;
        Entry::Admitted(ticket)
    }

    fn with(&self, host: &str, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.table().get_mut(host) {
            change(host);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Arc<str>, Host>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another host was called a short time ago.
fn others_in_use(table: &HashMap<Arc<str>, Host>, name: &str, now: Instant) -> bool {
    let mut others = table.iter().filter(|(other, _)| &***other != name);
    others.any(|(_, host)| now.saturating_duration_since(host.used) < IN_USE)
}

/// The name of a host without its partition, which may be confidential.
fn shown(host: &str) -> &str {
    host.split('|').next().unwrap_or_default()
}

/// Returns the error of a request to a host that waits.
fn open(host: &str, until: Instant, reason: &str) -> CallError {
    CallError::Open {
        until: SystemTime::now() + until.saturating_duration_since(Instant::now()),
        reason: format!("{} {reason}", shown(host)),
    }
}

impl Host {
    fn new(settings: &HostSettings, now: Instant) -> Self {
        Self {
            breaker: settings.breaker.map(Breaker::new),
            limit: Limit::new(settings.max_in_flight),
            in_flight: 0,
            waiting: 0,
            held_until: None,
            used: now,
            freed: Arc::default(),
        }
    }

    fn allowed(&self, settings: &HostSettings) -> usize {
        match settings.adaptive {
            true => self.limit.allowed(),
            false => settings.max_in_flight.max(1),
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        let closed = |breaker: &Breaker| breaker.phase() == BreakerPhase::Closed;
        !self.breaker.as_ref().is_none_or(closed) || self.held_until.is_some_and(|end| end > now)
    }

    /// Returns the end of the pause, and its reason, if no request may be sent now.
    fn held(&mut self, now: Instant, started: Instant) -> Option<(Instant, &'static str)> {
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            return Some((until, "has asked to wait"));
        }
        let breaker = self.breaker.as_mut()?;
        breaker.advance(now - started);
        match breaker.phase() {
            BreakerPhase::Closed | BreakerPhase::HalfOpen => None,
            BreakerPhase::Open => Some((
                started + breaker.due()?,
                "fails, and its circuit breaker is open",
            )),
            BreakerPhase::Probing => Some((now + PROBE_WAIT, "is being tried with one request")),
        }
    }
}

/// A place among those that wait.
struct Waiting(Option<(Arc<Hosts>, Arc<str>)>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((hosts, host)) = self.0.take() {
            hosts.with(&host, |host| host.waiting -= 1);
        }
    }
}

impl Permit {
    /// Gives the place back with the result.
    pub(crate) fn finish(mut self, result: HostResult) {
        self.end(Some(result));
    }

    fn end(&mut self, result: Option<HostResult>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let now = Instant::now();
        let started = self.hosts.started;
        let (ticket, message) = (self.ticket, self.message);
        let name = self.host.clone();
        self.hosts.with(&self.host, |host| {
            if let Some(sample) = result.and_then(|result| result.sample) {
                host.limit = host.limit.after(sample, host.in_flight);
            }
            host.in_flight -= 1;
            if let Some(hold) = result.and_then(|result| result.hold) {
                let until = now + hold;
                host.held_until = host.held_until.max(Some(until));
            }
            if let (Some(breaker), Some(ticket)) = (&mut host.breaker, ticket) {
                let before = breaker.phase();
                let verdict = result.map_or(Verdict::Nothing, |result| result.verdict);
                breaker.record(ticket, message, verdict, now - started);
                log_change(&name, before, breaker);
            }
            // Waiters look for themselves: the limit may have grown by more than one.
            host.freed.notify_waiters();
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(None);
    }
}

fn log_change(host: &str, before: BreakerPhase, breaker: &Breaker) {
    let host = shown(host);
    match (before, breaker.phase()) {
        (BreakerPhase::Closed, BreakerPhase::Open) => {
            let (failures, of) = breaker.counts();
            tracing::warn!(
                host,
                failures,
                of,
                "outside host fails, its circuit breaker is open"
            );
        }
        (BreakerPhase::Probing, BreakerPhase::Closed) => {
            tracing::info!(
                host,
                "outside host works again, its circuit breaker is closed"
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
