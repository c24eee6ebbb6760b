//! Looking for messages in queues in memory.
//!
//! Piece by piece, so that nobody who publishes or takes waits for it. What is in hand isn't
//! here: whoever took it has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::delays::Delays;
use super::queue::Queue;
use crate::transport::{
    FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult, TransportError,
};

/// So many messages are looked at before others have their turn.
const PIECE: usize = 1024;
/// What waits for its time is looked at in one go: others wait so long for that at most.
const HELD_MAX: Duration = Duration::from_millis(20);

pub(super) async fn find(
    queues: &[Arc<Queue>],
    delays: &Delays,
    wanted: &SearchQuery,
    bounds: SearchBounds,
) -> Result<SearchResult, TransportError> {
    let deadline = Instant::now() + bounds.within;
    let mut searched = SearchResult::default();
    // First of all: what comes due meanwhile is at the end of its queue.
    let look_max = HELD_MAX.min(bounds.within);
    if !delays.find(wanted, look_max, &mut searched.messages) {
        let text = "of what waits for its time not everything: there is too much of it";
        searched.missed.push(text.into());
    }
    for queue in queues {
        let mut after = None;
        let mut ahead = 0;
        loop {
            if Instant::now() >= deadline || searched.messages.len() >= bounds.messages {
                let text = format!("{} from its message {ahead} on", queue.id());
                searched.missed.push(text);
                break;
            }
            let piece = queue.piece(after, PIECE);
            let Some((last, ..)) = piece.last() else {
                break;
            };
            after = Some(*last);
            for (_, message, attempt) in piece {
                if wanted.covers(&message) {
                    // It came due since that was looked at.
                    searched.messages.retain(|found| {
                        found.queue != *queue.id()
                            || found.message.id != message.id
                            || !matches!(found.place, QueueSection::Delayed { .. })
                    });
                    searched.messages.push(FoundMessage {
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
    if searched.messages.len() > bounds.messages {
        searched.messages.truncate(bounds.messages);
        let text = format!("more than {} messages", bounds.messages);
        searched.missed.push(text);
    }
    Ok(searched)
}
