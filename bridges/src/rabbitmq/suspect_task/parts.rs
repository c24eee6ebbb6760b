//! Suspects of the parts of keyed inputs: they keep their order, and later messages of the part wait
//! until they are done.
//!
//! A part has a queue of suspects of its own, which only the process that has the part reads. Suspects
//! are the first messages of their part, because those that were in flight are.

use std::sync::atomic::Ordering::Relaxed;

use brickwork::QueueId;
use brickwork::transport::TransportError;

use super::super::prefetch::PrefetchBuffer;
use super::super::settlement::BrokerAction;
use super::{Suspect, SuspectTask, apply};

impl SuspectTask {
    /// Returns whether there are suspects of a part that this process has. If there are none, the part hands out its other messages.
    pub(super) async fn has_suspects(
        &self,
        queue: &QueueId,
        buffer: &PrefetchBuffer,
    ) -> Result<bool, TransportError> {
        let name = self.router.queue(queue)?.name.clone();
        let asked = buffer.suspects_asked();
        let count = self.router.declarer.count(name).await?;
        if let (Some(part_of), Some(_)) = (&buffer.queue().part_of, count) {
            part_of.has_suspects.store(true, Relaxed);
        }
        let is_empty = count.unwrap_or(0) == 0;
        if is_empty {
            buffer.no_suspects(asked, count.is_none());
        }
        Ok(!is_empty)
    }

    /// Puts a suspect that can't be tried now back into its queue. The suspects of a part keep their
    /// order.
    pub(super) async fn put_back(&self, suspect: Suspect, source: &QueueId) {
        let queue = suspect.queue.clone();
        match queue.id == QueueId::suspects(&source.service) {
            true => drop(suspect.send_to(&self.router, &queue, source).await),
            false => {
                let _redelivered =
                    apply(&suspect.channel, suspect.tag, BrokerAction::Requeue).await;
            }
        }
    }

    /// Publishes the suspects of a part again that are before the last one, which was requeued: it
    /// becomes the first one.
    pub(super) async fn rotate(
        &mut self,
        queue: &QueueId,
        source: &QueueId,
    ) -> Result<(), TransportError> {
        let name = self.router.queue(queue)?.name.clone();
        let count = self.router.declarer.count(name).await?;
        for _ in 1..count.unwrap_or(0) {
            let Some((suspect, ..)) = self.fetch(queue).await? else {
                break;
            };
            let queue = suspect.queue.clone();
            suspect.send_to(&self.router, &queue, source).await;
        }
        Ok(())
    }
}
