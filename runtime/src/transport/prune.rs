//! What earlier manifests of an app left on its transport: found, judged, removed.
//!
//! Plain data: transports find it out, the command line prints it. What may be removed is
//! decided here, as functions over values.

use serde::Serialize;

use crate::names::QueueId;

/// Something that an earlier manifest of the app made there, and the one of now doesn't
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaleResource {
    /// The queue, or the binding.
    pub what: String,
    /// How many messages are ready in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// How many consumers the queue has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<u64>,
    /// What becomes of it, or would.
    #[serde(flatten)]
    pub fate: PruneAction,
}

/// What becomes of a leftover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", content = "why", rename_all = "lowercase")]
pub enum PruneAction {
    /// Nothing needs it: it can be removed.
    Removable,
    /// It was removed.
    Removed,
    /// It stays, and why.
    Kept(String),
    /// It could not be removed, and why not.
    Failed(String),
}

/// How to prune.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// Remove; otherwise only say what would be.
    pub remove: bool,
    /// Also queues that have messages, and the messages with them.
    pub with_messages: bool,
}

/// What pruning found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// What there is to know beside.
    pub notes: Vec<String>,
    /// What was left over.
    pub leftovers: Vec<StaleResource>,
}

/// A queue that the manifest doesn't name, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleQueue {
    /// Whose it was.
    pub id: QueueId,
    /// How many messages are ready in it.
    pub messages: u64,
    /// How many consumers it has.
    pub consumers: u64,
}

/// Says for each queue whether it can be removed, in order: [`PruneAction::Removable`] or
/// [`PruneAction::Kept`].
///
/// A service's queues that nobody names any more are consumed by an older version that
/// still runs, or by nobody: one consumer keeps them all. A dead-letter queue, and a suspect
/// queue, stay as long as a queue whose messages may end there. A lease has a message always.
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
                    "it holds {} messages, which would go with it",
                    queue.messages
                ));
            }
            let feeds = |other: &&StaleQueue| !other.id.is_auxiliary() && full(other);
            match siblings(queue).find(feeds) {
                Some(kept) if queue.id.is_auxiliary() => {
                    PruneAction::Kept(format!("what {} holds may end there", kept.id))
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
        let fates = judge(queues, with_messages);
        let kept = fates
            .iter()
            .map(|fate| matches!(fate, PruneAction::Kept(_)));
        kept.collect()
    }

    #[test]
    fn what_is_empty_and_unused_can_be_removed() {
        let queues = [queue("old", "in", 0, 0), queue("old", "dlq", 0, 0)];
        assert_eq!(kept(&queues, false), [false, false]);
    }

    #[test]
    fn one_consumer_keeps_all_of_its_service_and_nothing_else() {
        let queues = [
            queue("old", "in", 0, 1),
            queue("old", "dlq", 0, 0),
            queue("other", "in", 0, 0),
        ];
        assert_eq!(kept(&queues, true), [true, true, false]);
    }

    #[test]
    fn messages_keep_their_queue_and_where_they_may_end() {
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
    fn the_message_of_a_lease_is_nobodys() {
        assert_eq!(kept(&[queue("old", "lease", 3, 0)], false), [false]);
        assert_eq!(kept(&[queue("old", "lease", 0, 1)], true), [true]);
    }
}
