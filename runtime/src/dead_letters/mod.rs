//! Dead letters of an app, over any transport that this process reaches: count, group, find,
//! replay, discard, and export as test cases.
//!
//! - No letter is lost. Reading keeps every letter. A replay publishes the message under its
//!   own id and removes the letter only after the publisher confirm: a crash in between leaves
//!   the message at least once. Only selected letters are removed, and only letters whose removal
//!   the transport has confirmed are reported as removed.
//! - Everything is bounded. A scan sees each letter that was in the queue at its start once, a
//!   page at a time, and no more than its [`Bounds`].
//!
//! ```
//! use brickwork::dead_letters::{
//!     Bounds, DeadLetters, Destination, RateLimit, RemoveOptions, Selection,
//! };
//! use brickwork::transport::TransportError;
//!
//! /// Replays the largest group of a service's letters, 50 per second.
//! async fn replay_largest(letters: &DeadLetters, service: &str) -> Result<u64, TransportError> {
//!     let groups = letters.groups(service, Bounds::default()).await?;
//!     let Some(largest) = groups.groups.first() else {
//!         return Ok(0);
//!     };
//!     let options = RemoveOptions {
//!         selection: Selection::Group(largest.fingerprint.clone()),
//!         limit: u64::MAX,
//!         dry_run: false,
//!         rate: RateLimit::per_second(50.0).unwrap_or_default(),
//!         bounds: Bounds::default(),
//!     };
//!     let stop = std::future::pending();
//!     let outcome = letters.replay(service, &Destination::Original, &options, stop).await?;
//!     Ok(outcome.removed)
//! }
//! ```

mod groups;
mod held;
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
pub(crate) use request::{DlqAction, DlqReport, DlqRequest};
pub use selection::Selection;
pub use stats::{DlqStats, ReasonCount};
pub use test_case::{CaseMessage, Emitted, Expected, InvalidCases, Observed, TestCase, TestCases};
pub use view::{Encoding, LetterView};

use groups::GroupBuilder;
use scan::{PAGE, Scan};
use stats::StatsBuilder;

/// Limits of one scan of a dead-letter queue. A scan holds the letters that stay to its end, so
/// that it sees none twice; on RabbitMQ it puts them behind the others instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Maximum letters held.
    pub letters: usize,
    /// Maximum size of the letters held, in bytes, roughly.
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

/// The result of a search.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The selected letters, in the queue's order.
    pub letters: Vec<Letter>,
    /// Whether there may be more.
    pub more: bool,
}

impl DeadLetters {
    /// Opens the dead letters of the app with this topology. Declares nothing on the transport.
    ///
    /// # Errors
    /// The transport fails.
    pub async fn open(
        transport: Arc<dyn Transport>,
        topology: Topology,
    ) -> Result<Self, TransportError> {
        transport.attach(&topology).await?;
        Ok(Self::new(transport, topology))
    }

    /// The dead letters of an app whose transport knows the topology already.
    pub(crate) fn new(transport: Arc<dyn Transport>, topology: Topology) -> Self {
        Self {
            transport,
            topology,
            redactor: Arc::default(),
        }
    }

    /// Removes these secrets from views and groups. The letters that [`find`](Self::find)
    /// returns are not changed.
    #[must_use]
    pub fn redacting(mut self, redactor: Arc<Redactor>) -> Self {
        self.redactor = redactor;
        self
    }

    /// A text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.redactor.clean(text).into_owned()
    }

    /// The services with a dead-letter queue: those with an input.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.topology.services()
    }

    /// Counts the letters of a service, by reason.
    ///
    /// # Errors
    /// The transport fails, or there is no such queue.
    pub async fn stats(&self, service: &str, bounds: Bounds) -> Result<DlqStats, TransportError> {
        let mut stats = StatsBuilder::default();
        let (letters, complete) = self
            .read(service, bounds, |letter| stats.add(&letter))
            .await?;
        Ok(stats.build(service, letters, complete))
    }

    /// Groups the letters of a service by failure.
    ///
    /// # Errors
    /// The transport fails, or there is no such queue.
    pub async fn groups(&self, service: &str, bounds: Bounds) -> Result<Groups, TransportError> {
        let mut groups = GroupBuilder::new(service, &self.redactor);
        let (letters, complete) = self
            .read(service, bounds, |letter| groups.add(&letter))
            .await?;
        Ok(groups.build(letters, complete))
    }

    /// The first `limit` selected letters of a service.
    ///
    /// # Errors
    /// The transport fails, or there is no such queue.
    pub async fn find(
        &self,
        service: &str,
        selection: &Selection,
        limit: usize,
        bounds: Bounds,
    ) -> Result<Found, TransportError> {
        let mut scan = Scan::open(&*self.transport, service, bounds).await?;
        let mut found = Found::default();
        while found.letters.len() < limit
            && let Some(page) = scan.page(PAGE).await?
        {
            for letter in page {
                if !selection.covers(service, &letter) {
                    continue;
                }
                match found.letters.len() < limit {
                    true => found.letters.push(letter),
                    false => found.more = true,
                }
            }
            scan.settle(&[]).await?;
        }
        found.more |= !scan.finish().await?;
        Ok(found)
    }

    /// The letters of a service with these message ids or trace ids.
    pub(crate) async fn search(
        &self,
        service: &str,
        query: &SearchQuery,
        bounds: Bounds,
    ) -> Result<Found, TransportError> {
        let mut letters = Vec::new();
        let add = |letter: Letter| {
            if query.covers(&letter.message) {
                letters.push(letter);
            }
        };
        let (_, complete) = self.read(service, bounds, add).await?;
        let more = !complete;
        Ok(Found { letters, more })
    }

    /// Reads every letter. Returns the number of letters, and whether all of them were read.
    async fn read(
        &self,
        service: &str,
        bounds: Bounds,
        mut visit: impl FnMut(Letter),
    ) -> Result<(u64, bool), TransportError> {
        let mut scan = Scan::open(&*self.transport, service, bounds).await?;
        while let Some(page) = scan.page(PAGE).await? {
            page.into_iter().for_each(&mut visit);
            scan.settle(&[]).await?;
        }
        let letters = scan.depth();
        Ok((letters, scan.finish().await?))
    }

    /// Publishes the messages of the selected letters to an input, and removes each letter
    /// after its publisher confirm. When `stop` resolves, finishes the publications that have
    /// started, and ends.
    ///
    /// # Errors
    /// The transport fails, or there is no such queue or input. The error of a publication is
    /// in the outcome.
    pub async fn replay(
        &self,
        service: &str,
        to: &Destination,
        options: &RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        if let Destination::Input(input) = to
            && !self.topology.queues.iter().any(|queue| queue.id == *input)
        {
            return Err(TransportError::NoQueue(input.clone()));
        }
        remove::replay(self, service, to, options, stop).await
    }

    /// Removes the selected letters. Ends early when `stop` resolves.
    ///
    /// # Errors
    /// The transport fails, or there is no such queue.
    pub async fn discard(
        &self,
        service: &str,
        options: &RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        remove::discard(self, service, options, stop).await
    }

    /// A letter to show or to export, without secrets. The payload is cut to this many bytes.
    pub fn view(&self, service: &str, letter: &Letter, payload_bytes_max: usize) -> LetterView {
        let mut view = letter.view(service, payload_bytes_max, &self.redactor);
        if view.input.as_ref().is_none_or(String::is_empty) {
            let input = self.input_of(service, letter);
            view.input = input.map(|id| id.input.into());
        }
        view
    }

    /// The input that a letter's message is replayed to: the one that gave it up. A letter
    /// without a record goes to the service's only input, if it has one input.
    fn input_of(&self, service: &str, letter: &Letter) -> Option<QueueId> {
        let queues = self.topology.queues.iter().map(|queue| &queue.id);
        let mut inputs = queues.filter(|id| &*id.service == service);
        match &letter.dead_letter {
            // A letter from a queue of another name has no input.
            Some(record) if !record.input.is_empty() => {
                inputs.find(|id| *id.input == *record.input).cloned()
            }
            _ => inputs.next().filter(|_| inputs.next().is_none()).cloned(),
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
