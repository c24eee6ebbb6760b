//! Stranded messages: those in queues of the app that no service reads, after a service was renamed
//! or removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tracing::warn;

use super::AppStatus;
use crate::transport::{StrandedQueue, Topology};

/// Interval at which the transport is asked.
const ASKED_EVERY: Duration = Duration::from_secs(30);
/// Maximum queues that are named in the log and in readiness.
const NAMED_MAX: usize = 10;

impl AppStatus {
    /// Reads queue depths and finds stranded messages, periodically until it is dropped.
    pub(crate) async fn watch_queues(self: Arc<Self>, topology: Topology) {
        join(self.clone().keep_depths(), self.keep_stranded(topology)).await;
    }

    /// Asks for stranded messages periodically, and logs each new queue.
    async fn keep_stranded(self: Arc<Self>, topology: Topology) {
        let mut logged = HashSet::new();
        loop {
            // Without an answer the last one stays.
            if let Ok(stranded) = self.transport.stranded(&topology).await {
                logged.retain(|queue| stranded.iter().any(|it| it.queue == *queue));
                for StrandedQueue { queue, messages } in stranded.iter().take(NAMED_MAX) {
                    if logged.insert(queue.clone()) {
                        warn!(%queue, messages, "no service reads this queue, its messages wait");
                    }
                }
                *self.stranded.lock() = stranded;
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }

    /// Returns the number of stranded messages.
    pub(crate) fn stranded_messages(&self) -> u64 {
        self.stranded
            .lock()
            .iter()
            .map(|queue| queue.messages)
            .sum()
    }

    /// Returns a text for each queue with stranded messages.
    pub(crate) fn stranded_notes(&self) -> Vec<String> {
        let stranded = self.stranded.lock();
        let notes = stranded.iter().take(NAMED_MAX);
        let mut notes: Vec<_> = notes
            .map(|StrandedQueue { queue, messages }| {
                format!("{messages} messages wait in {queue}, which no service reads")
            })
            .collect();
        if stranded.len() > NAMED_MAX {
            let more = stranded.len() - NAMED_MAX;
            notes.push(format!(
                "{more} more queues hold messages that no service reads"
            ));
        }
        notes
    }
}
