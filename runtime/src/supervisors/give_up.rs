//! The give-up policy of a service that failed more often than its intensity allows.

use tokio::time::Instant;
use tracing::error;

use super::ParentLink;
use crate::config::HumanDuration;
use crate::host::{ServiceHandle, Standing};
use crate::supervision::{Exit, GiveUpPolicy, RestartType};

/// Applies the give-up policy after the service's run was ended. Returns the time of the next
/// start if the service is isolated; otherwise its supervisor decides.
///
/// `requeued` is the number of deliveries that went back to their queues.
pub(super) fn give_up(
    hosted: &ServiceHandle,
    parent: &ParentLink,
    epoch: u64,
    why: String,
    requeued: usize,
) -> Option<Instant> {
    let service = &hosted.label;
    match (
        hosted.settings.restart.restart_type,
        hosted.settings.restart.give_up.unwrap_or_default(),
    ) {
        (RestartType::Temporary, _) => {
            error!(%service, why, requeued, "temporary service failed and is down for good");
            hosted.stand(Standing::Gone { why: why.clone() }, None);
            parent.report(epoch, Exit::Failed, why);
            None
        }
        (_, GiveUpPolicy::Isolate) => {
            let wait = hosted.settings.restart.policy.backoff.max;
            let since_ms = hosted.clock.unix_ms();
            let retry_after = HumanDuration(wait);
            error!(%service, why, requeued, %retry_after, "service isolated, its messages wait");
            let isolated = Standing::Isolated {
                why,
                since_ms,
                again_ms: since_ms + wait.as_millis() as u64,
            };
            hosted.stand(isolated, None);
            Some(crate::clock::later(wait))
        }
        (_, GiveUpPolicy::Escalate) => {
            error!(%service, why, requeued, "service failed, its supervisor decides");
            hosted.stand(Standing::Stopped, Some(&why));
            parent.report(epoch, Exit::Failed, why);
            None
        }
    }
}
