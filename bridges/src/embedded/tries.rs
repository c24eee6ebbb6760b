//! When it is tried again whether anything more can be taken over.
//!
//! A disk that hovers at full has room for a moment, again and again: whoever goes on at
//! each of them does little else than stop. So what doesn't last is tried less often.

use std::time::Duration;

use tokio::time::Instant;

/// While nothing can be written it is tried again this often,
pub(super) const TRY_EVERY: Duration = Duration::from_millis(500);
/// and at least this often, however short it lasted before.
const TRY_EVERY_MAX: Duration = Duration::from_secs(8);
/// What has lasted so long was no moment.
const LASTING: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Tries {
    every: Duration,
    last: Instant,
    /// Since when it is as it is.
    since: Instant,
    down: bool,
}

impl Tries {
    pub(super) fn new(now: Instant) -> Self {
        // As if it had always worked.
        let long_ago = now.checked_sub(LASTING).unwrap_or(now);
        Self {
            every: TRY_EVERY,
            last: now,
            since: long_ago,
            down: false,
        }
    }

    /// How it is now.
    pub(super) fn see(&mut self, down: bool, now: Instant) {
        if down == self.down {
            return;
        }
        if down {
            self.every = match now.duration_since(self.since) < LASTING {
                true => (self.every * 2).min(TRY_EVERY_MAX),
                false => TRY_EVERY,
            };
            self.last = now;
        }
        (self.down, self.since) = (down, now);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.wait(now).is_zero()
    }

    /// How long until the next try.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.every.saturating_sub(now.duration_since(self.last))
    }

    pub(super) fn tried(&mut self, now: Instant) {
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the next outage waits between tries, for outages that begin so long after
    /// the end of the one before.
    fn waits(between: &[u64]) -> Vec<u64> {
        let mut now = Instant::now();
        let mut tries = Tries::new(now);
        let mut waits = Vec::new();
        for between in between {
            now += Duration::from_millis(*between);
            tries.see(true, now);
            let wait = tries.wait(now);
            waits.push(wait.as_millis() as u64);
            now += wait;
            assert!(tries.is_due(now));
            tries.tried(now);
            assert_eq!(tries.wait(now), wait, "as long as before");
            tries.see(false, now);
        }
        waits
    }

    #[test]
    fn what_does_not_last_is_tried_less_often_up_to_a_limit() {
        let short = [0, 100, 100, 100, 100, 100, 100];
        assert_eq!(waits(&short), [500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn after_what_has_lasted_it_is_tried_soon() {
        assert_eq!(waits(&[20_000, 100, 20_000]), [500, 1000, 500]);
    }
}
