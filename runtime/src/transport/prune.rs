//! Pruning: finds and removes the queues and bindings that earlier manifests of an app left behind.
//!
//! Plain data: transports collect it, the command line prints it. The rules for removal are
//! functions over values ([`judge`]).

use serde::Serialize;

use crate::names::QueueId;

/// A resource that an earlier manifest of the app created and the current manifest does not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaleResource {
    /// The queue or the binding.
    pub what: String,
    /// Number of ready messages in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Number of consumers of the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<u64>,
    /// The action for it, taken or proposed.
    #[serde(flatten)]
    pub fate: PruneAction,
}

/// The action for a stale resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", content = "why", rename_all = "lowercase")]
pub enum PruneAction {
    /// Nothing needs it: it can be removed.
    Removable,
    /// It was removed.
    Removed,
    /// It stays, for this reason.
    Kept(String),
    /// Removing it failed with this error.
    Failed(String),
}

/// Options for pruning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// Removes resources; otherwise only reports them.
    pub remove: bool,
    /// Includes queues with messages, and removes the messages with them.
    pub with_messages: bool,
}

/// Result of pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Remarks.
    pub notes: Vec<String>,
    /// The stale resources.
    pub leftovers: Vec<StaleResource>,
}

/// A queue that the manifest does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleQueue {
    /// Its service and input.
    pub id: QueueId,
    /// Number of ready messages.
    pub messages: u64,
    /// Number of consumers.
    pub consumers: u64,
}

/// Returns for each queue, in order, whether it can be removed: [`PruneAction::Removable`] or
/// [`PruneAction::Kept`].
///
/// One consumer keeps all queues of its service: an older version of the app still runs. A
/// dead-letter queue and a queue of suspects stay as long as a queue whose messages may end there.
/// The message of a lease keeps no queue.
pub fn judge(queues: &[StaleQueue], with_messages: bool) -> Vec<PruneAction> {
    let siblings = |queue: &StaleQueue| {
        let service = queue.id.service.clone();
        queues
            .iter()
            .filter(move |other| other.id.service == service)
    };
    let full = |queue: &StaleQueue| queue.messages > 0 && !with_messages && !queue.id.is_lease();
    queues
        .iter()
        .map(|queue| {
            if let Some(used) = siblings(queue).find(|other| other.consumers > 0) {
                return PruneAction::Kept(format!(
                    "{} is consumed: an older version of the app runs",
                    used.id
                ));
            }
            if full(queue) {
                return PruneAction::Kept(format!(
                    "it holds {} messages, which would be removed with it",
                    queue.messages
                ));
            }
            let feeds = |other: &&StaleQueue| !other.id.is_auxiliary() && full(other);
            match siblings(queue).find(feeds) {
                Some(kept) if queue.id.is_auxiliary() => {
                    PruneAction::Kept(format!("messages of {} may end there", kept.id))
                }
                _ => PruneAction::Removable,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(service: &str, input: &str, messages: u64, consumers: u64) -> StaleQueue {
        StaleQueue {
            id: QueueId::new(service, input),
            messages,
            consumers,
        }
    }

    fn kept(queues: &[StaleQueue], with_messages: bool) -> Vec<bool> {
        let actions = judge(queues, with_messages);
        let kept = actions
            .iter()
            .map(|action| matches!(action, PruneAction::Kept(_)));
        kept.collect()
    }

    #[test]
    fn an_empty_and_unused_queue_can_be_removed() {
        let queues = [queue("old", "in", 0, 0), queue("old", "dlq", 0, 0)];
        assert_eq!(kept(&queues, false), [false, false]);
    }

    #[test]
    fn one_consumer_keeps_all_queues_of_its_service_and_no_others() {
        let queues = [
            queue("old", "in", 0, 1),
            queue("old", "dlq", 0, 0),
            queue("other", "in", 0, 0),
        ];
        assert_eq!(kept(&queues, true), [true, true, false]);
    }

    #[test]
    fn messages_keep_their_queue_and_the_queues_that_they_may_move_to() {
        let queues = [
            queue("old", "in", 2, 0),
            queue("old", "more", 0, 0),
            queue("old", "dlq", 0, 0),
            queue("old", "suspect", 0, 0),
        ];
        assert_eq!(kept(&queues, false), [true, false, true, true]);
        assert_eq!(kept(&queues, true), [false; 4]);
        let letters = [queue("old", "in", 0, 0), queue("old", "dlq", 2, 0)];
        assert_eq!(kept(&letters, false), [false, true]);
    }

    #[test]
    fn the_message_of_a_lease_keeps_no_queue() {
        assert_eq!(kept(&[queue("old", "lease", 3, 0)], false), [false]);
        assert_eq!(kept(&[queue("old", "lease", 0, 1)], true), [true]);
    }
}
