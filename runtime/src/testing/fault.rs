//! Faults: what is to go wrong, where, and how often.
//!
//! Owns the script of faults that a test injects. Carrying a fault out is for those who
//! stand at its point: [`instances`](super::instance_tracking) and [`transport`](super::transport).

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::failure::Failure;

/// A named point at which a fault can strike.
///
/// | point | what is struck | [fail](Fault::fail) | [panic](Fault::panic) | [hang](Fault::hang) |
/// | --- | --- | --- | --- | --- |
/// | `Start` | starting an instance | it fails | it panics | never done, until `handler_timeout` |
/// | `Handle` | a message or a batch, before its handler sees it | the failure is its outcome | it panics | never done, until `handler_timeout` |
/// | `Handled` | the same, after its handler returned `Ok` | as above: nothing it emitted is published | as above | as above |
/// | `Tick` | a tick, before the service sees it | it fails | it panics | never done, until `handler_timeout` |
/// | `Stop` | stopping an instance in order | it fails | it panics | never done, until `handler_timeout` |
/// | `Drop` | dropping an instance | – | it panics | – |
/// | `Run` | running a source | it fails | it panics | it sends nothing more, until it is stopped |
/// | `Publish` | a publication of outputs | refused: none of it arrives | – | none arrives, and no word about it |
/// | `Confirm` | the confirm of a publication that arrived | it is lost: unconfirmed | – | no word about it |
/// | `Ask` | a question of a service | it gets a failure for an answer | – | no answer in time |
/// | `Consume` | taking a delivery from a queue | the consumer has ended, its connection lost | – | – |
/// | `Settle` | an ack, a retry or a dead-lettering on its way to the transport | it is lost: the same delivery comes again | – | – |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// Starting an instance.
    Start,
    /// A message or a batch, before its handler sees it.
    Handle,
    /// A message or a batch, after its handler returned `Ok`, before what it emitted is
    /// published.
    Handled,
    /// A tick, before the service sees it.
    Tick,
    /// Stopping an instance in order.
    Stop,
    /// Dropping an instance.
    Drop,
    /// Running a source, before it sends anything.
    Run,
    /// A publication of outputs: what one message, batch or tick led to.
    Publish,
    /// The confirm of a publication that arrived.
    Confirm,
    /// A question that a service asks.
    Ask,
    /// Taking a delivery from a queue.
    Consume,
    /// An ack, a retry or a dead-lettering, on its way to the transport.
    Settle,
}

/// How a fault shows.
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

/// Something that is to go wrong: once, at the next occasion, unless it says otherwise.
///
/// ```
/// use brickwork::Failure;
/// use brickwork::testing::{Fault, Point};
///
/// Fault::fail(Point::Publish);                             // the next one is refused
/// Fault::panic(Point::Handle).times(2);                    // the next two panic
/// Fault::hang(Point::Start).of("stock");                   // only that service
/// Fault::with(Point::Handle, Failure::reject("no")).after(3); // the fourth message
/// ```
#[derive(Debug, Clone)]
#[must_use = "a fault strikes when it is injected"]
pub struct Fault {
    point: FaultPoint,
    how: FaultKind,
    service: Option<Arc<str>>,
    skip: u64,
    /// `None` for always.
    times: Option<u64>,
    struck: u64,
}

impl Fault {
    /// A failure that is worth another try.
    ///
    /// # Panics
    /// If the point can't fail: see [`FaultPoint`].
    #[track_caller]
    pub fn fail(point: FaultPoint) -> Self {
        Self::with(point, Failure::retry(injected(point)))
    }

    /// A failure of the test's choice. Where the transport fails, or a question, only its
    /// text counts.
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
    /// If nothing can panic at this point: see [`FaultPoint`].
    #[track_caller]
    pub fn panic(point: FaultPoint) -> Self {
        Self::new(point, FaultKind::Panic)
    }

    /// Something that never ends, until its time is over.
    ///
    /// # Panics
    /// If nothing can hang at this point: see [`FaultPoint`].
    #[track_caller]
    pub fn hang(point: FaultPoint) -> Self {
        Self::new(point, FaultKind::Hang)
    }

    #[track_caller]
    fn new(point: FaultPoint, how: FaultKind) -> Self {
        use FaultPoint::{Ask, Confirm, Consume, Drop, Publish, Settle};
        let possible = match how {
            FaultKind::Fail(_) => point != Drop,
            FaultKind::Panic => !matches!(point, Publish | Confirm | Ask | Consume | Settle),
            FaultKind::Hang => !matches!(point, Drop | Consume | Settle),
        };
        let how_name = how.as_str();
        assert!(possible, "nothing can {how_name} at Point::{point:?}");
        Self {
            point,
            how,
            service: None,
            skip: 0,
            times: Some(1),
            struck: 0,
        }
    }

    /// Strikes so many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes every time.
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// Lets so many occasions pass first.
    pub fn after(mut self, occasions: u64) -> Self {
        self.skip = occasions;
        self
    }

    /// Strikes only the service of this label.
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    /// Whether it strikes here and now; an occasion that it lets pass is counted.
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
        let (how, point) = (self.how.as_str(), self.point);
        write!(f, "Fault::{how}(Point::{point:?})")?;
        if let Some(service) = &self.service {
            write!(f, " of {service}")?;
        }
        match self.times {
            Some(times) => write!(f, " struck {} of {times} times", self.struck),
            None => write!(f, " struck {} times", self.struck),
        }
    }
}

/// What an injected fault says of itself.
pub(super) fn injected(point: FaultPoint) -> String {
    format!("injected at Point::{point:?}")
}

/// The faults of one app, in the order in which they were injected.
#[derive(Debug, Default)]
pub(super) struct FaultScript(Mutex<Vec<Fault>>);

impl FaultScript {
    pub(super) fn add(&self, fault: Fault) {
        self.0.lock().push(fault);
    }

    /// How the occasion is struck, if it is.
    pub(super) fn strike(&self, point: FaultPoint, service: &str) -> Option<FaultKind> {
        let mut faults = self.0.lock();
        let struck = |fault: &mut Fault| fault.strikes(point, service).then(|| fault.how.clone());
        faults.iter_mut().find_map(struck)
    }

    /// Faults that had no occasion to strike as often as they were to.
    pub(super) fn unmet(&self) -> Vec<String> {
        let faults = self.0.lock();
        let unmet = faults.iter().filter(|fault| !fault.is_spent());
        unmet.map(Fault::to_string).collect()
    }
}
