//! Fault injection: which fault strikes, where, and how often.
//!
//! Owns the faults that a test injects. The decorators in
//! [`instance_tracking`](super::instance_tracking) and [`transport`](super::transport) carry
//! them out.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::failure::Failure;

/// A point at which a fault can strike.
///
/// | point | operation | [fail](Fault::fail) | [panic](Fault::panic) | [hang](Fault::hang) |
/// | --- | --- | --- | --- | --- |
/// | `Start` | starting an instance | it fails | it panics | until `handler_timeout` |
/// | `Handle` | a message or a batch, before its handler | the attempt fails | it panics | until `handler_timeout` |
/// | `Handled` | the same, after its handler returned `Ok` | the attempt fails, nothing is published | it panics | until `handler_timeout` |
/// | `Tick` | a tick, before the service sees it | it fails | it panics | until `handler_timeout` |
/// | `Stop` | stopping an instance gracefully | it fails | it panics | until `handler_timeout` |
/// | `Drop` | dropping an instance | – | it panics | – |
/// | `Run` | running a source | it fails | it panics | sends nothing until it is stopped |
/// | `Publish` | publishing outputs | refused: no message arrives | – | no message arrives, no confirm |
/// | `Confirm` | the confirm of outputs that arrived | lost: unconfirmed | – | no confirm |
/// | `Ask` | a request of a service | it gets a failure | – | no reply in time |
/// | `Consume` | taking a delivery from a queue | the consumer ends: connection lost | – | – |
/// | `Settle` | an ack, retry or dead-lettering on its way to the transport | lost: redelivered | – | – |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// Starting an instance.
    Start,
    /// A message or a batch, before its handler.
    Handle,
    /// A message or a batch, after its handler returned `Ok` and before its outputs are
    /// published.
    Handled,
    /// A tick, before the service sees it.
    Tick,
    /// Stopping an instance gracefully.
    Stop,
    /// Dropping an instance.
    Drop,
    /// Running a source, before it sends anything.
    Run,
    /// Publishing the outputs of one message, batch or tick.
    Publish,
    /// The confirm of outputs that arrived.
    Confirm,
    /// A request that a service asks.
    Ask,
    /// Taking a delivery from a queue.
    Consume,
    /// An ack, retry or dead-lettering, on its way to the transport.
    Settle,
}

/// The kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FaultKind {
    Fail(Failure),
    Panic,
    Hang,
}

impl FaultKind {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Fail(_) => "fail",
            Self::Panic => "panic",
            Self::Hang => "hang",
        }
    }
}

/// A fault. Strikes once, at the next occasion, unless configured otherwise.
///
/// ```
/// use brickwork::Failure;
/// use brickwork::testing::{Fault, FaultPoint};
///
/// Fault::fail(FaultPoint::Publish);              // refuses the next publication
/// Fault::panic(FaultPoint::Handle).times(2);     // panics twice
/// Fault::hang(FaultPoint::Start).of("stock");    // strikes only this service
/// Fault::with(FaultPoint::Handle, Failure::reject("no")).after(3); // the fourth message
/// ```
#[derive(Debug, Clone)]
#[must_use = "a fault strikes only after it is injected"]
pub struct Fault {
    point: FaultPoint,
    kind: FaultKind,
    service: Option<Arc<str>>,
    skip: u64,
    /// `None` means always.
    times: Option<u64>,
    struck: u64,
}

impl Fault {
    /// A failure that may be retried.
    ///
    /// # Panics
    /// If the point can't fail: see [`FaultPoint`].
    #[track_caller]
    pub fn fail(point: FaultPoint) -> Self {
        Self::with(point, Failure::retry(injected(point)))
    }

    /// A given failure. At points of the transport, and for requests, only its text counts.
    ///
    /// # Panics
    /// If the point can't fail: see [`FaultPoint`].
    #[track_caller]
    pub fn with(point: FaultPoint, failure: Failure) -> Self {
        Self::new(point, FaultKind::Fail(failure))
    }

    /// A panic.
    ///
    /// # Panics
    /// If the point can't panic: see [`FaultPoint`].
    #[track_caller]
    pub fn panic(point: FaultPoint) -> Self {
        Self::new(point, FaultKind::Panic)
    }

    /// A hang: the operation does not end before its time-out.
    ///
    /// # Panics
    /// If the point can't hang: see [`FaultPoint`].
    #[track_caller]
    pub fn hang(point: FaultPoint) -> Self {
        Self::new(point, FaultKind::Hang)
    }

    #[track_caller]
    fn new(point: FaultPoint, kind: FaultKind) -> Self {
        use FaultPoint::{Ask, Confirm, Consume, Drop, Publish, Settle};
        let possible = match kind {
            FaultKind::Fail(_) => point != Drop,
            FaultKind::Panic => !matches!(point, Publish | Confirm | Ask | Consume | Settle),
            FaultKind::Hang => !matches!(point, Drop | Consume | Settle),
        };
        let name = kind.as_str();
        assert!(possible, "nothing can {name} at FaultPoint::{point:?}");
        Self {
            point,
            kind,
            service: None,
            skip: 0,
            times: Some(1),
            struck: 0,
        }
    }

    /// Strikes this many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes at every occasion.
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// Skips this many occasions first.
    pub fn after(mut self, occasions: u64) -> Self {
        self.skip = occasions;
        self
    }

    /// Strikes only the service with this label.
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    /// Whether the fault strikes now. Counts a skipped occasion.
    fn strikes(&mut self, point: FaultPoint, service: &str) -> bool {
        let spent = self.times.is_some_and(|times| self.struck >= times);
        let elsewhere = self.service.as_ref().is_some_and(|of| **of != *service);
        if spent || elsewhere || self.point != point {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.struck += 1;
        true
    }

    fn is_spent(&self) -> bool {
        self.struck >= self.times.unwrap_or(1)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, point) = (self.kind.as_str(), self.point);
        write!(f, "Fault::{kind}(FaultPoint::{point:?})")?;
        if let Some(service) = &self.service {
            write!(f, " of {service}")?;
        }
        match self.times {
            Some(times) => write!(f, " struck {} of {times} times", self.struck),
            None => write!(f, " struck {} times", self.struck),
        }
    }
}

/// The failure text of an injected fault.
pub(super) fn injected(point: FaultPoint) -> String {
    format!("injected at FaultPoint::{point:?}")
}

/// The faults of one app, in the order of injection.
#[derive(Debug, Default)]
pub(super) struct FaultScript(Mutex<Vec<Fault>>);

impl FaultScript {
    pub(super) fn add(&self, fault: Fault) {
        self.0.lock().push(fault);
    }

    /// The fault that strikes at this occasion, if any.
    pub(super) fn strike(&self, point: FaultPoint, service: &str) -> Option<FaultKind> {
        let mut faults = self.0.lock();
        let struck = |fault: &mut Fault| fault.strikes(point, service).then(|| fault.kind.clone());
        faults.iter_mut().find_map(struck)
    }

    /// Faults that did not strike as often as configured.
    pub(super) fn unmet(&self) -> Vec<String> {
        let faults = self.0.lock();
        let unmet = faults.iter().filter(|fault| !fault.is_spent());
        unmet.map(Fault::to_string).collect()
    }
}
