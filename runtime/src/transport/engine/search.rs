//! Search for messages in the queues of an engine without a journal.
//!
//! The search reads one part of a queue at a time, so that publishers and consumers do not
//! wait for it. It does not find messages in flight: their consumers know them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::delays::Delays;
use super::queue::Queue;
use crate::transport::{FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult};

/// Messages that are read at a time.
const PART: usize = 1024;
/// Maximum time for the delayed messages, which are read under their lock.
const LOCKED_MAX: Duration = Duration::from_millis(20);

pub(super) async fn find(
    queues: &[Arc<Queue>],
    delays: &Delays,
    query: &SearchQuery,
    bounds: SearchBounds,
) -> SearchResult {
    let deadline = Instant::now() + bounds.within;
    let mut result = SearchResult::default();
    // First: a message that comes due during the search is at the end of its queue then.
    let within = LOCKED_MAX.min(bounds.within);
    if !delays.find(query, within, &mut result.messages) {
        let text = "some delayed messages were not searched: there are too many";
        result.missed.push(text.into());
    }
    for queue in queues {
        let mut after = None;
        let mut ahead = 0;
        loop {
            if Instant::now() >= deadline || result.messages.len() >= bounds.messages {
                let text = format!("{} from its message {ahead} on", queue.id());
                result.missed.push(text);
                break;
            }
            let part = queue.ready_after(after, PART);
            let Some((last, ..)) = part.last() else {
                break;
            };
            after = Some(*last);
            for (_, message, attempt) in part {
                if query.covers(&message) {
                    // It may have come due since the delayed messages were read.
                    result.messages.retain(|found| {
                        found.queue != *queue.id()
                            || found.message.id != message.id
                            || !matches!(found.place, QueueSection::Delayed { .. })
                    });
                    result.messages.push(FoundMessage {
                        queue: queue.id().clone(),
                        place: QueueSection::Ready { ahead: Some(ahead) },
                        attempt,
                        message,
                    });
                }
                ahead += 1;
            }
            tokio::task::yield_now().await;
        }
    }
    if result.messages.len() > bounds.messages {
        result.messages.truncate(bounds.messages);
        let text = format!("more than {} messages", bounds.messages);
        result.missed.push(text);
    }
    result
}
