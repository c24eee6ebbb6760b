//! Dead letters as a workbench: looking at what services gave up, handling it again, or
//! throwing it away, over any transport that this process can reach.
//!
//! Owns the promise that no letter is lost by it. Looking gives everything back. A
//! replay publishes the message with a confirm, under its own id, and only then removes
//! the letter: whatever dies in between, the message is there at least once. Nothing
//! goes unless it was selected.
//!
//! Refuses to go on without bounds: each walk sees a queue once, as deep as it was at the
//! start, and holds no more than its [`Bounds`] say.

mod census;
mod letter;
mod removal;
mod selection;
mod walk;

use std::sync::Arc;

use crate::name::QueueId;
use crate::transport::{Topology, Transport, TransportError};

pub use census::{Census, ReasonCount};
pub use letter::{Letter, LetterView, REPLAYS};
pub use removal::{Outcome, Pace, Removal};
pub use selection::Selection;

use walk::Walk;

/// What a walk over a dead-letter queue may hold at most. Letters that are looked at and
/// stay are held, unsettled, to the end, so that none is seen twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        Ok(Self {
            transport,
            topology,
        })
    }

    /// The services that have a dead-letter queue: those with an input.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.topology.services()
    }

    /// How many letters a service has, why, and since when.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn census(&self, service: &str, bounds: Bounds) -> Result<Census, TransportError> {
        let mut walk = Walk::open(&*self.transport, service, bounds).await?;
        let mut census = Census::new(service, walk.depth());
        while let Some(delivery) = walk.next().await? {
            census.count(&Letter::new(delivery.message().clone()));
            walk.hold(delivery);
        }
        census.complete = walk.end().await?;
        Ok(census)
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
        let mut walk = Walk::open(&*self.transport, service, bounds).await?;
        let mut found = Found::default();
        while found.letters.len() < limit
            && let Some(delivery) = walk.next().await?
        {
            let letter = Letter::new(delivery.message().clone());
            if selection.covers(&letter) {
                found.letters.push(letter);
            }
            walk.hold(delivery);
        }
        found.more = !walk.end().await?;
        Ok(found)
    }

    /// Publishes the messages of the selected letters to the inputs that gave them up,
    /// and removes each letter once that is confirmed. Stops early when `stop` resolves:
    /// what is under way is finished.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue. What a publication met is in the
    /// outcome.
    pub async fn replay(
        &self,
        service: &str,
        removal: &Removal,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        removal::replay(self, service, removal, stop).await
    }

    /// Removes the selected letters for good.
    ///
    /// # Errors
    /// The transport can't, or there is no such queue.
    pub async fn discard(
        &self,
        service: &str,
        removal: &Removal,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, TransportError> {
        removal::discard(self, service, removal, stop).await
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
