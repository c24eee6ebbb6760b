//! Dead letters as a workbench: looking at what services gave up, grouping it, handling it
//! again, throwing it away, or keeping it as test cases, over any transport that this
//! process can reach.
//!
//! Owns the promise that no letter is lost by it. Looking gives everything back. A
//! replay publishes the message with a confirm, under its own id, and only then removes
//! the letter: whatever dies in between, the message is there at least once. Nothing
//! goes unless it was selected.
//!
//! Refuses to go on without bounds: each walk sees a queue once, as deep as it was at the
//! start, and holds no more than its [`Bounds`] say.
//!
//! ```
//! use brickwork::dead_letters::{Bounds, DeadLetters, Destination, Pace, Removal, Selection};
//! use brickwork::transport::TransportError;
//!
//! /// Has the largest group of a service's letters handled again, 50 a second.
//! async fn largest_again(letters: &DeadLetters, service: &str) -> Result<u64, TransportError> {
//!     let groups = letters.groups(service, Bounds::default()).await?;
//!     let Some(largest) = groups.groups.first() else {
//!         return Ok(0);
//!     };
//!     let removal = Removal {
//!         selection: Selection::Group(largest.fingerprint.clone()),
//!         limit: u64::MAX,
//!         dry_run: false,
//!         pace: Pace::per_second(50.0).unwrap_or_default(),
//!         bounds: Bounds::default(),
//!     };
//!     let stop = std::future::pending();
//!     let outcome = letters.replay(service, &Destination::Original, &removal, stop).await?;
//!     Ok(outcome.removed)
//! }
//! ```

mod groups;
mod letter;
mod rate_limit;
mod remove;
mod request;
mod scan;
mod selection;
mod stats;
mod test_case;
mod view;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::QueueId;
use crate::redact::Redactor;
use crate::transport::{SearchQuery, Topology, Transport, TransportError};

pub use groups::{GROUPS_MAX, Group, Groups};
pub use letter::{Letter, REPLAYS};
pub use rate_limit::RateLimit;
pub use remove::{Destination, Outcome, RemoveOptions};
pub(crate) use request::{Report, Task, Views};
pub use selection::Selection;
pub use stats::{DlqStats, ReasonCount};
pub use test_case::{CaseMessage, Emitted, Expected, InvalidCases, Observed, TestCase, TestCases};
pub use view::{Encoding, LetterView};

use groups::GroupBuilder;
use scan::Scan;
use stats::StatsBuilder;

/// What a walk over a dead-letter queue may hold at most. Letters that are looked at and
/// stay are held, unsettled, to the end, so that none is seen twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// In letters.
    pub letters: usize,
    /// In bytes, roughly.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            letters: 10_000,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// The dead-letter queues of an app.
pub struct DeadLetters {
    transport: Arc<dyn Transport>,
    topology: Topology,
    redactor: Arc<Redactor>,
}

/// Letters that were looked at.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Those that were wanted, in the queue's order.
    pub letters: Vec<Letter>,
    /// Whether there may be more of them.
    pub more: bool,
}

impl DeadLetters {
    /// Those of the app that has this topology. Makes nothing on the transport.
    ///
    /// # Errors
    /// The transport can't.
    pub async fn open(
        transport: Arc<dyn Transport>,
        topology: Topology,
    ) -> Result<Self, TransportError> {
        transport.attach(&topology).await?;
        Ok(Self::of(transport, topology))
    }

    /// Those of an app whose transport knows its topology.
    pub(crate) fn of(transport: Arc<dyn Transport>, topology: Topology) -> Self {
        Self {
            transport,
            topology,
            redactor: Arc::default(),
        }
    }

    /// What it shows is cleaned of these secrets. Letters themselves, which
    /// [`find`](Self::find) gives, are as they are.
    #[must_use]
    pub fn redacting(mut self, redactor: Arc<Redactor>) -> Self {
        self.redactor = redactor;
        self
    }

    /// A text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.redactor.clean(text).into_owned()
    }

    /// The services that have a dead-letter queue: those with an input.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.topology.services()
    }

    /// How many letters a service has, why, and since when.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn census(&self, service: &str, bounds: Bounds) -> Result<DlqStats, TransportError> {
        let mut walk = Scan::open(&*self.transport, service, bounds).await?;
        let mut tally = StatsBuilder::default();
        while let Some(delivery) = walk.next().await? {
            tally.count(&Letter::new(delivery.message().clone()));
            walk.hold(delivery);
        }
        let letters = walk.depth();
        Ok(tally.end(service, letters, walk.end().await?))
    }

    /// The letters of a service that failed alike, together: how many, since when, and one
    /// of them as an example.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn groups(&self, service: &str, bounds: Bounds) -> Result<Groups, TransportError> {
        let mut walk = Scan::open(&*self.transport, service, bounds).await?;
        let mut sorter = GroupBuilder::new(service, &self.redactor);
        while let Some(delivery) = walk.next().await? {
            sorter.sort(&Letter::new(delivery.message().clone()));
            walk.hold(delivery);
        }
        let letters = walk.depth();
        Ok(sorter.end(letters, walk.end().await?))
    }

    /// The first letters of a service that are selected.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn find(
        &self,
        service: &str,
        selection: &Selection,
        limit: usize,
        bounds: Bounds,
    ) -> Result<Found, TransportError> {
        let mut walk = Scan::open(&*self.transport, service, bounds).await?;
        let mut found = Found::default();
        while found.letters.len() < limit
            && let Some(delivery) = walk.next().await?
        {
            let letter = Letter::new(delivery.message().clone());
            if selection.covers(service, &letter) {
                found.letters.push(letter);
            }
            walk.hold(delivery);
        }
        found.more = !walk.end().await?;
        Ok(found)
    }

    /// Letters of a service that are wanted, by their messages' ids or traces.
    pub(crate) async fn search(
        &self,
        service: &str,
        wanted: &SearchQuery,
        bounds: Bounds,
    ) -> Result<Found, TransportError> {
        let mut walk = Scan::open(&*self.transport, service, bounds).await?;
        let mut found = Found::default();
        while let Some(delivery) = walk.next().await? {
            if wanted.covers(delivery.message()) {
                found.letters.push(Letter::new(delivery.message().clone()));
            }
            walk.hold(delivery);
        }
        found.more = !walk.end().await?;
        Ok(found)
    }

    /// Publishes the messages of the selected letters to the inputs that gave them up, or
    /// to another one, and removes each letter once that is confirmed. Stops early when
    /// `stop` resolves: what is under way is finished.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue or input. What a publication met is
    /// in the outcome.
    pub async fn replay(
        &self,
        service: &str,
        to: &Destination,
        removal: &RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        if let Destination::Input(input) = to
            && !self.topology.queues.iter().any(|queue| queue.id == *input)
        {
            return Err(TransportError::NoQueue(input.clone()));
        }
        remove::replay(self, service, to, removal, stop).await
    }

    /// Removes the selected letters for good. Stops early when `stop` resolves.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn discard(
        &self,
        service: &str,
        removal: &RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        remove::discard(self, service, removal, stop).await
    }

    /// A letter for people and programs to look at, without secrets, and with a payload of
    /// at most so many bytes.
    pub fn view(&self, service: &str, letter: &Letter, payload_bytes_max: usize) -> LetterView {
        let mut view = letter.view(service, payload_bytes_max, &self.redactor);
        if view.input.is_none() {
            let input = self.input_of(service, letter);
            view.input = input.map(|id| id.input.into());
        }
        view
    }

    /// Where a letter's message goes when it is replayed: to the input that gave it up.
    /// One that doesn't say which goes to the only input, if there is only one.
    fn input_of(&self, service: &str, letter: &Letter) -> Option<QueueId> {
        let mut inputs = self
            .topology
            .queues
            .iter()
            .map(|queue| &queue.id)
            .filter(|id| &*id.service == service);
        match &letter.why {
            Some(why) => inputs.find(|id| *id.input == *why.input).cloned(),
            None => inputs.next().filter(|_| inputs.next().is_none()).cloned(),
        }
    }
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeadLetters({})", self.topology.app)
    }
}

#[cfg(test)]
mod tests;
