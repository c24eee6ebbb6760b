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

/// A queue of the app that holds messages and that no service reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrandedQueue {
    /// Its name on the transport.
    pub queue: String,
    /// Number of its messages.
    pub messages: u64,
}

/// A queue that the manifest does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleQueue {
    /// Its service and input.
    pub id: QueueId,
    /// Number of ready messages.
    pub messages: u64,
    /// Number of messages that wait elsewhere for a retry or a scheduled time, and then come to
    /// the queue.
    pub delayed: u64,
    /// Number of consumers.
    pub consumers: u64,
    /// The action for it.
    pub action: PruneAction,
}

/// Decides for each queue whether it can be removed: [`PruneAction::Removable`] or
/// [`PruneAction::Kept`]. A failed queue stays failed.
///
/// One consumer keeps all queues of its service: an older version of the app still runs. A
/// dead-letter queue and a queue of suspects stay as long as a queue whose messages may end there.
/// The message of a lease keeps no queue.
pub fn judge(queues: &mut [StaleQueue], with_messages: bool) {
    let full = |queue: &StaleQueue| {
        queue.messages + queue.delayed > 0 && !with_messages && !queue.id.is_lease()
    };
    for at in 0..queues.len() {
        let queue = &queues[at];
        let siblings = || {
            let service = &queue.id.service;
            queues.iter().filter(move |it| it.id.service == *service)
        };
        let feeds = |other: &&StaleQueue| !other.id.is_auxiliary() && full(other);
        let why = if let Some(used) = siblings().find(|other| other.consumers > 0) {
            let used = &used.id;
            format!("{used} is consumed: an older version of the app runs")
        } else if full(queue) {
            match (queue.messages, queue.delayed) {
                (0, delayed) => format!(
                    "{delayed} messages wait for a retry or a scheduled time, and come to it then"
                ),
                (messages, _) => {
                    format!("it holds {messages} messages, which would be removed with it")
                }
            }
        } else if let (true, Some(fed)) = (queue.id.is_auxiliary(), siblings().find(feeds)) {
            may_end_there(&fed.id)
        } else {
            String::new()
        };
        if !matches!(queue.action, PruneAction::Failed(_)) {
            queues[at].action = match why.is_empty() {
                true => PruneAction::Removable,
                false => PruneAction::Kept(why),
            };
        }
    }
}

/// Returns the next queue to remove; the caller sets its action. Queues that may receive messages
/// of others come last, and stay if another queue of their service could not be removed.
pub fn next_to_remove(queues: &mut [StaleQueue]) -> Option<&mut StaleQueue> {
    for auxiliary in [false, true] {
        for at in 0..queues.len() {
            let StaleQueue { id, action, .. } = &queues[at];
            if id.is_auxiliary() != auxiliary || *action != PruneAction::Removable {
                continue;
            }
            let has_failed = |other: &&StaleQueue| {
                other.id.service == id.service && matches!(other.action, PruneAction::Failed(_))
            };
            match queues.iter().find(has_failed) {
                Some(stays) => queues[at].action = PruneAction::Kept(may_end_there(&stays.id)),
                None => return queues.get_mut(at),
            }
        }
    }
    None
}

fn may_end_there(id: &QueueId) -> String {
    format!("messages of {id} may end there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(service: &str, input: &str, messages: u64, consumers: u64) -> StaleQueue {
        StaleQueue {
            id: QueueId::new(service, input),
            messages,
            delayed: 0,
            consumers,
            action: PruneAction::Removable,
        }
    }

    fn kept(queues: &[StaleQueue], with_messages: bool) -> Vec<bool> {
        let mut queues = queues.to_vec();
        judge(&mut queues, with_messages);
        let kept = queues
            .iter()
            .map(|queue| matches!(queue.action, PruneAction::Kept(_)));
        kept.collect()
    }

    #[test]
    fn queues_that_get_messages_of_others_go_last_and_stay_beside_a_failure() {
        let mut queues = [
            queue("old", "dlq", 0, 0),
            queue("old", "in", 0, 0),
            queue("other", "dlq", 0, 0),
            queue("other", "in", 0, 0),
        ];
        let mut order = Vec::new();
        while let Some(next) = next_to_remove(&mut queues) {
            order.push(next.id.to_string());
            next.action = match &*next.id.service {
                "old" => PruneAction::Failed("no right".into()),
                _ => PruneAction::Removed,
            };
        }
        assert_eq!(order, ["old.in", "other.in", "other.dlq"]);
        assert!(matches!(queues[0].action, PruneAction::Kept(_)));
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
        let mut delayed = queues.clone();
        (delayed[0].messages, delayed[0].delayed) = (0, 1);
        assert_eq!(kept(&delayed, false), [true, false, true, true]);
        assert_eq!(kept(&delayed, true), [false; 4]);
        let letters = [queue("old", "in", 0, 0), queue("old", "dlq", 2, 0)];
        assert_eq!(kept(&letters, false), [false, true]);
    }

    #[test]
    fn the_message_of_a_lease_keeps_no_queue() {
        assert_eq!(kept(&[queue("old", "lease", 3, 0)], false), [false]);
        assert_eq!(kept(&[queue("old", "lease", 0, 1)], true), [true]);
    }
}
