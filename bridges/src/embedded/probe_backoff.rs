//! When it is tried again whether anything more can be taken over.
//!
//! A disk that hovers at full has room for a moment, again and again: whoever goes on at
//! each of them does little else than stop. So what doesn't last is tried less often.

use std::time::Duration;

use tokio::time::Instant;

/// While nothing can be written it is tried again this often,
pub(super) const TRY_EVERY: Duration = Duration::from_millis(500);
/// and at least this often, however short it lasted before.
const TRY_EVERY_MAX: Duration = Duration::from_secs(4);
/// What has lasted so long was no moment.
const LASTING: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct ProbeBackoff {
    every: Duration,
    last: Option<Instant>,
    up: Option<Instant>,
}

impl Default for ProbeBackoff {
    fn default() -> Self {
        Self {
            every: TRY_EVERY,
            last: None,
            up: None,
        }
    }
}

impl ProbeBackoff {
    /// Nothing more can be taken over, from now on.
    pub(super) fn down(&mut self, now: Instant) {
        let lasted = self.up.map(|up| now.duration_since(up));
        self.every = match lasted {
            Some(lasted) if lasted < LASTING => (self.every * 2).min(TRY_EVERY_MAX),
            _ => TRY_EVERY,
        };
        self.last = Some(now);
    }

    /// It can, from now on.
    pub(super) fn up(&mut self, now: Instant) {
        self.up = Some(now);
    }

    /// How long until the next try.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let since = self.last.map(|last| now.duration_since(last));
        self.every.saturating_sub(since.unwrap_or_default())
    }

    /// How long until the next look at how much room there is, while there is some.
    pub(super) fn look(&self, now: Instant) -> Duration {
        let since = self.last.map(|last| now.duration_since(last));
        TRY_EVERY.saturating_sub(since.unwrap_or_default())
    }

    /// It is tried, now.
    pub(super) fn again(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long outages wait between tries, each of which begins so many milliseconds after
    /// the end of the one before.
    fn waits(between: &[u64]) -> Vec<u64> {
        let mut now = Instant::now();
        let mut tries = ProbeBackoff::default();
        let mut waits = Vec::new();
        for between in between {
            now += Duration::from_millis(*between);
            tries.down(now);
            let wait = tries.wait(now);
            waits.push(wait.as_millis() as u64);
            now += wait;
            assert!(tries.wait(now).is_zero());
            tries.again(now);
            assert_eq!(tries.wait(now), wait, "as long as before");
            tries.up(now);
        }
        waits
    }

    #[test]
    fn what_does_not_last_is_tried_less_often_up_to_a_limit() {
        let short = [0, 100, 100, 100, 100, 100, 100];
        assert_eq!(waits(&short), [500, 1000, 2000, 4000, 4000, 4000, 4000]);
    }

    #[test]
    fn after_what_has_lasted_it_is_tried_soon() {
        assert_eq!(waits(&[20_000, 100, 20_000]), [500, 1000, 500]);
    }
}
