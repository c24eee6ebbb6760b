//! An outage of an outside system: the service pauses, for longer and longer, and says so.

use std::time::Duration;

use brickwork::{Context, Failure, LogThrottle};
use tokio::time::Instant;
use tracing::{info, warn};

/// First pause.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Growing pauses between tries.
#[derive(Debug, Default)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    /// Returns the next pause, longer each time.
    pub(crate) fn next(&mut self) -> Duration {
        self.0 = (self.0 * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        // Several instances don't try at once.
        self.0.mul_f64(0.75 + fastrand::f64() / 2.0)
    }

    /// Begins with short pauses again. Returns whether there was a pause.
    pub(crate) fn reset(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_zero()
    }
}

/// The state of an outside system as an instance knows it.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Option<Instant>,
    backoff: Backoff,
    log: LogThrottle,
}

impl Outage {
    /// Pauses the service while the outside system is away. Returns the failure of the messages
    /// in hand, which lose no attempt.
    pub(crate) fn away(&mut self, error: &str, cx: &Context) -> Failure {
        let pause = self.backoff.next();
        cx.pause(pause);
        self.since.get_or_insert_with(Instant::now);
        if let Some(suppressed) = self.log.event() {
            let service = cx.service();
            warn!(service, %error, ?pause, suppressed, "outside system is away, messages wait");
        }
        Failure::defer(pause, error)
    }

    /// Notes that the outside system works.
    pub(crate) fn ended(&mut self, service: &str) {
        self.backoff.reset();
        if let Some(since) = self.since.take() {
            let after = since.elapsed();
            info!(service, ?after, "outside system is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_maximum_and_begin_again() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= PAUSE_MIN.mul_f64(1.25) && pauses[0] >= PAUSE_MIN.mul_f64(0.75));
        assert!(pauses[19] >= PAUSE_MAX.mul_f64(0.75));
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX.mul_f64(1.25)));
        assert!(backoff.reset() && !backoff.reset());
        assert!(backoff.next() < PAUSE_MIN * 2);
    }
}
