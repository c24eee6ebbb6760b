//! What becomes of a service that failed more often than its intensity bears.

use tokio::time::Instant;
use tracing::error;

use super::ParentLink;
use crate::config::HumanDuration;
use crate::host::{ServiceHandle, Standing};
use crate::supervision::{Exit, GiveUpPolicy, RestartType};

/// Carries its policy out, once its life has been ended. Returns when it is to be tried
/// again, if its supervisor doesn't decide about that.
pub(super) fn give_up(
    hosted: &ServiceHandle,
    up: &ParentLink,
    epoch: u64,
    why: String,
    given_back: usize,
) -> Option<Instant> {
    let service = &hosted.label;
    let state = &hosted.state;
    match (
        hosted.settings.restart.restart_type,
        hosted.settings.restart.give_up,
    ) {
        (RestartType::Temporary, _) => {
            error!(%service, why, given_back, "the service is down for good: it is temporary");
            state.stand(Standing::Gone { why: why.clone() });
            up.tell(epoch, Exit::Failed, why);
            None
        }
        (_, GiveUpPolicy::Isolate) => {
            let wait = hosted.settings.restart.policy.backoff.max;
            let since_ms = hosted.clock.unix_ms();
            let again = HumanDuration(wait);
            error!(%service, why, given_back, %again, "the service is isolated: its messages wait, the others go on");
            state.stand(Standing::Isolated {
                why,
                since_ms,
                again_ms: since_ms + wait.as_millis() as u64,
            });
            Some(crate::clock::later(wait))
        }
        (_, GiveUpPolicy::Escalate) => {
            error!(%service, why, given_back, "the service has failed: its supervisor decides");
            state.stand(Standing::Stopped);
            up.tell(epoch, Exit::Failed, why);
            None
        }
    }
}
