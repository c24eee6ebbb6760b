//! The difference between the broker's clock and this machine's, from observations of both.
//!
//! On the wire, the deadline of a request is a time of the broker's clock, so that processes whose
//! clocks differ agree on it. The broker tells its time in whole seconds only.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use brickwork::Message;

/// Bounds of the broker's time minus this machine's, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SkewBounds {
    low: i64,
    high: i64,
}

impl SkewBounds {
    /// Returns the bounds that follow from a time that the broker told between two times of this
    /// machine.
    pub(super) fn observed(before_ms: u64, broker_s: u64, after_ms: u64) -> Self {
        let broker_ms = signed(broker_s.saturating_mul(1000));
        Self {
            low: broker_ms.saturating_sub(signed(after_ms)),
            high: broker_ms
                .saturating_add(999)
                .saturating_sub(signed(before_ms)),
        }
    }

    /// Returns the bounds that follow from both observations. If a clock was set between them, the
    /// later observation counts alone.
    pub(super) fn and(self, later: Self) -> Self {
        let both = Self {
            low: self.low.max(later.low),
            high: self.high.min(later.high),
        };
        if both.low <= both.high { both } else { later }
    }

    /// Returns the skew in milliseconds: 0 if the clocks may agree.
    pub(super) fn skew_ms(self) -> i64 {
        if self.low <= 0 && self.high >= 0 {
            return 0;
        }
        self.low.midpoint(self.high)
    }
}

/// Milliseconds by which the broker's clock is ahead, as measured last.
#[derive(Debug, Default)]
pub(super) struct ClockSkew(AtomicI64);

impl ClockSkew {
    /// Sets the skew. Returns the last one.
    pub(super) fn set(&self, skew_ms: i64) -> i64 {
        self.0.swap(skew_ms, Relaxed)
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// Converts the deadline of a received message to a time of this machine's clock.
    pub(super) fn localize(&self, message: Message) -> Message {
        let skew = self.get();
        let Some(deadline_ms) = message.deadline_ms.filter(|_| skew != 0) else {
            return message;
        };
        let mut envelope = message.edit();
        envelope.deadline_ms = Some(deadline_ms.saturating_add_signed(skew.saturating_neg()));
        envelope.into()
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The bounds always contain the true skew, and more observations never widen them.
        #[test]
        fn the_measured_skew_is_right_to_a_second_and_zero_if_the_clocks_agree(
            skew in prop_oneof![Just(0), -100_000_i64..100_000],
            probes in prop::collection::vec((0_u64..2_000, 0_u64..20, 0_u64..20), 1..6),
        ) {
            let mut now = 1_700_000_000_000_u64;
            let mut bounds: Option<SkewBounds> = None;
            for (pause, there, back) in probes {
                now += pause;
                let broker_s = (now + there).saturating_add_signed(skew) / 1000;
                let seen = SkewBounds::observed(now, broker_s, now + there + back);
                let all = bounds.map_or(seen, |before| before.and(seen));
                prop_assert!(all.low <= skew && skew <= all.high);
                bounds = Some(all);
                now += there + back;
            }
            let measured = bounds.expect("one probe at least").skew_ms();
            prop_assert!(measured.abs_diff(skew) <= 1_040);
            if skew == 0 {
                prop_assert_eq!(measured, 0);
            }
        }
    }

    #[test]
    fn a_deadline_is_the_same_moment_on_machines_whose_clocks_differ() {
        let (asker, handler) = (ClockSkew::default(), ClockSkew::default());
        asker.set(45_000);
        handler.set(-2_000);
        let mut request = Envelope::new("t", "{}");
        request.deadline_ms = Some(1_000_000_u64.saturating_add_signed(asker.get()));
        let received = handler.localize(request.into());
        assert_eq!(received.deadline_ms, Some(1_047_000));
        let without = handler.localize(Envelope::new("t", "{}").into());
        assert_eq!(without.deadline_ms, None);
    }

    #[test]
    fn after_a_clock_was_set_only_the_later_observation_counts() {
        let before = SkewBounds::observed(10_000, 10, 10_002);
        let after = SkewBounds::observed(70_000, 11, 70_001);
        assert_eq!(before.skew_ms(), 0);
        assert_eq!(before.and(after), after);
        assert!(after.skew_ms() < -58_000);
    }
}
