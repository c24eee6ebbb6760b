//! Back-off between probes of a full disk.
//!
//! A disk that is almost full has space for a moment, again and again. So an outage that
//! follows soon after the last one is probed less often.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest interval between probes.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest interval between probes.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(4);
/// An up-time this long resets the back-off.
const RESET_AFTER: Duration = Duration::from_secs(10);

/// Interval between probes, and the times of the last ones.
#[derive(Debug)]
pub(super) struct ProbeBackoff {
    interval: Duration,
    last_probe: Option<Instant>,
    up_since: Option<Instant>,
}

impl Default for ProbeBackoff {
    fn default() -> Self {
        Self {
            interval: PROBE_INTERVAL,
            last_probe: None,
            up_since: None,
        }
    }
}

impl ProbeBackoff {
    /// Records the beginning of an outage.
    pub(super) fn down(&mut self, now: Instant) {
        let lasted = self.up_since.map(|up| now.duration_since(up));
        self.interval = match lasted {
            Some(lasted) if lasted < RESET_AFTER => (self.interval * 2).min(PROBE_INTERVAL_MAX),
            _ => PROBE_INTERVAL,
        };
        self.last_probe = Some(now);
    }

    /// Records the end of an outage.
    pub(super) fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// Records a probe.
    pub(super) fn probed(&mut self, now: Instant) {
        self.last_probe = Some(now);
    }

    /// Returns the time until the next probe during an outage.
    pub(super) fn until_probe(&self, now: Instant) -> Duration {
        self.interval.saturating_sub(self.since_probe(now))
    }

    /// Returns the time until the next probe while space is low.
    pub(super) fn until_check(&self, now: Instant) -> Duration {
        PROBE_INTERVAL.saturating_sub(self.since_probe(now))
    }

    fn since_probe(&self, now: Instant) -> Duration {
        let since = self.last_probe.map(|last| now.duration_since(last));
        since.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the probe interval of each outage, in milliseconds. An outage begins
    /// `up_times` milliseconds after the end of the last one.
    fn intervals(up_times: &[u64]) -> Vec<u64> {
        let mut now = Instant::now();
        let mut backoff = ProbeBackoff::default();
        let mut intervals = Vec::new();
        for up_time in up_times {
            now += Duration::from_millis(*up_time);
            backoff.down(now);
            let interval = backoff.until_probe(now);
            intervals.push(interval.as_millis() as u64);
            now += interval;
            assert!(backoff.until_probe(now).is_zero());
            backoff.probed(now);
            assert_eq!(backoff.until_probe(now), interval, "the same interval");
            backoff.up(now);
        }
        intervals
    }

    #[test]
    fn short_up_times_double_the_interval_up_to_a_limit() {
        let short = [0, 100, 100, 100, 100, 100, 100];
        assert_eq!(intervals(&short), [500, 1000, 2000, 4000, 4000, 4000, 4000]);
    }

    #[test]
    fn a_long_up_time_resets_the_interval() {
        assert_eq!(intervals(&[20_000, 100, 20_000]), [500, 1000, 500]);
    }
}
