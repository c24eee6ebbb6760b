//! Stranded messages: those in queues that earlier manifests declared and that no service reads, and
//! those whose queue is gone.

use std::collections::BTreeMap;

use brickwork::QueueId;
use brickwork::transport::{StrandedQueue, Topology, TransportError};

use super::declarer::QueueCounts;
use super::router::Router;
use super::topology::{queue_name, unroutable_name};

/// Finds the queues with stranded messages.
///
/// # Errors
/// The broker does not answer, or the session has ended.
pub(super) async fn find(
    router: &Router,
    topology: &Topology,
) -> Result<Vec<StrandedQueue>, TransportError> {
    let (app, declared) = (&*topology.app, router.routing_table());
    let recorded = router.recorded().lock().clone();
    // The message of a lease is none of the app.
    let stale = recorded
        .into_iter()
        .filter(|id| !declared.queues.contains_key(id) && !id.is_lease());
    let mut services: BTreeMap<Box<str>, Vec<(QueueId, QueueCounts)>> = BTreeMap::new();
    for id in stale {
        match router.declarer.look(queue_name(app, &id)?).await? {
            Some(counts) => {
                let service = services.entry(id.service.clone()).or_default();
                service.push((id, counts));
            }
            None => {
                router.recorded().lock().remove(&id);
            }
        }
    }
    // A consumer means that another version of the app runs.
    let stranded = services.into_values().filter(|queues| {
        let mut counts = queues.iter().map(|(_, counts)| counts);
        counts.all(|counts| counts.consumers == 0)
    });
    let mut all = Vec::new();
    for (id, QueueCounts { ready, .. }) in stranded.flatten() {
        if ready > 0 {
            all.push(StrandedQueue {
                queue: queue_name(app, &id)?.to_string(),
                messages: ready,
            });
        }
    }
    let unroutable = unroutable_name(app)?;
    let messages = router.declarer.count(unroutable.clone()).await?;
    if let Some(messages @ 1..) = messages {
        let queue = unroutable.to_string();
        all.push(StrandedQueue { queue, messages });
    }
    Ok(all)
}
