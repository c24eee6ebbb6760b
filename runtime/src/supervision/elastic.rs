//! Autoscaling: how many instances a service has. Quickly up, slowly down, without flapping.
//!
//! The input is the number of busy instances, checked often.
//!
//! - Up: work waits although nearly all instances are busy. The number grows, at most to the
//!   double.
//! - Down: during the last seconds, even the highest need was clearly below the number. Half
//!   of the surplus goes; the rest waits for the next decision.
//! - Between the two nothing changes. The gap is wide enough for noise.

use std::collections::VecDeque;
use std::time::Duration;

/// Bounds of the number of instances of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// Minimum, at least 1.
    pub min: usize,
    /// Maximum.
    pub max: usize,
}

/// The load of a service at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Messages waiting in the mailbox.
    pub waiting: usize,
    /// Waiting time of the oldest of them.
    pub waited: Duration,
    /// Instances with a message in flight.
    pub busy: usize,
}

/// Time between two calls of [`Autoscaler::check`].
pub const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Number of checks before the number of instances may shrink: three seconds.
const WINDOW_CHECKS: usize = 30;
/// Waiting time of a message from which more instances are needed.
const WAITED_MAX: Duration = Duration::from_millis(50);
/// Target share of time in which an instance is busy. The rest is reserve for bursts.
const BUSY_SHARE: f64 = 0.7;
/// Share of the instances below which the need must stay before some go.
const NEEDED_SHARE: f64 = 0.75;

/// Decides about the number of instances, check by check.
///
/// ```
/// use std::time::Duration;
/// use brickwork::supervision::{Autoscaler, Instances, Load};
///
/// let mut autoscaler = Autoscaler::new(Instances { min: 1, max: 8 });
/// let load = Load { waiting: 10, waited: Duration::from_millis(80), busy: 1 };
/// assert_eq!(autoscaler.check(load), 2);
/// assert_eq!(autoscaler.check(Load { busy: 2, ..load }), 4);
/// ```
#[derive(Debug, Clone)]
pub struct Autoscaler {
    bounds: Instances,
    wanted: usize,
    /// Needed instances at each of the last checks.
    needed: VecDeque<usize>,
}

impl Autoscaler {
    /// Starts with the minimum.
    pub fn new(bounds: Instances) -> Self {
        Self {
            bounds,
            wanted: bounds.min,
            needed: VecDeque::with_capacity(WINDOW_CHECKS),
        }
    }

    /// The current decision.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Decides after another check, and returns the wanted number of instances.
    pub fn check(&mut self, load: Load) -> usize {
        let late = load.waited >= WAITED_MAX;
        // While messages are late, each waiting one could occupy an instance.
        let occupied = load.busy + if late { load.waiting } else { 0 };
        let needed = (occupied as f64 / BUSY_SHARE).ceil() as usize;
        if self.needed.len() == WINDOW_CHECKS {
            self.needed.pop_front();
        }
        self.needed.push_back(needed);
        let all_busy = load.busy + load.busy / 16 + 1 > self.wanted;
        if late && all_busy {
            let more = needed.clamp(self.wanted + 1, self.wanted * 2);
            self.set(more);
        } else if self.needed.len() == WINDOW_CHECKS {
            let most = self.needed.iter().copied().max().unwrap_or(0);
            if (most as f64) < self.wanted as f64 * NEEDED_SHARE || most < self.bounds.min {
                // Half of the surplus, so that one quiet window does not remove all of it.
                let surplus = self.wanted.saturating_sub(most);
                self.set(self.wanted - surplus.div_ceil(2));
            }
        }
        self.wanted
    }

    fn set(&mut self, wanted: usize) {
        let wanted = wanted.clamp(self.bounds.min, self.bounds.max);
        if wanted < self.wanted {
            // The next decrease needs another half of a window of checks.
            self.needed.drain(..WINDOW_CHECKS / 2);
        }
        self.wanted = wanted;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A simulated service. Its load is given in busy instances; excess work waits.
    struct Model {
        autoscaler: Autoscaler,
        backlog: f64,
        waited: Duration,
    }

    impl Model {
        fn new(min: usize, max: usize) -> Self {
            Self {
                autoscaler: Autoscaler::new(Instances { min, max }),
                backlog: 0.0,
                waited: Duration::ZERO,
            }
        }

        /// One check while messages of 10 ms arrive that would keep `offered` instances busy.
        fn step(&mut self, offered: f64) -> usize {
            let per_check = 10.0;
            let wanted = self.autoscaler.wanted() as f64;
            self.backlog = (self.backlog + (offered - wanted) * per_check).max(0.0);
            self.waited = Duration::from_secs_f64(self.backlog / (wanted * 100.0));
            let busy = if self.backlog > 0.0 {
                wanted
            } else {
                offered.min(wanted)
            };
            self.autoscaler.check(Load {
                waiting: (self.backlog as usize).min(64),
                waited: self.waited,
                busy: busy.round() as usize,
            })
        }

        fn run(&mut self, checks: usize, offered: impl Fn(usize) -> f64) -> Vec<usize> {
            (0..checks).map(|check| self.step(offered(check))).collect()
        }
    }

    #[test]
    fn the_number_follows_a_doubled_load_within_a_second_and_settles() {
        let mut model = Model::new(1, 64);
        model.run(200, |_| 8.0);
        let before = model.autoscaler.wanted();
        assert!((8..=16).contains(&before), "{before}");
        let doubled = model.run(200, |_| 16.0);
        assert!(doubled[9] >= 16, "within a second: {:?}", &doubled[..12]);
        let settled = &doubled[100..];
        assert!(
            settled.windows(2).all(|pair| pair[0] == pair[1]),
            "{settled:?}"
        );
        let halved = model.run(400, |_| 8.0);
        let end = *halved.last().unwrap();
        assert!((8..=16).contains(&end), "{end}");
        assert!(halved[300..].iter().all(|wanted| *wanted == end));
        assert!(
            halved.windows(2).all(|pair| pair[1] <= pair[0]),
            "down only"
        );
    }

    #[test]
    fn ten_minutes_of_noisy_load_cause_few_changes() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let noise: Vec<f64> = (0..6_000).map(|_| 0.7 + 0.6 * random.f64()).collect();
            let mut model = Model::new(1, 64);
            model.run(300, |check| 10.0 * noise[check]);
            let wanted = model.run(6_000, |check| 10.0 * noise[check]);
            let changes = wanted.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(
                changes <= 4,
                "seed {seed}: {changes} changes in ten minutes"
            );
        }
    }

    #[test]
    fn an_idle_service_shrinks_to_its_minimum() {
        let mut model = Model::new(2, 64);
        model.run(100, |_| 40.0);
        assert!(model.autoscaler.wanted() >= 40);
        model.run(600, |_| 0.0);
        assert_eq!(model.autoscaler.wanted(), 2);
    }

    proptest! {
        #[test]
        fn the_number_stays_within_its_bounds_and_at_most_doubles(
            min in 1usize..50,
            more in 0usize..200,
            loads in prop::collection::vec((0usize..100, 0u64..1_000, 0usize..300), 1..300),
        ) {
            let bounds = Instances { min, max: min + more };
            let mut autoscaler = Autoscaler::new(bounds);
            for (waiting, waited_ms, busy) in loads {
                let before = autoscaler.wanted();
                let waited = Duration::from_millis(waited_ms);
                let wanted = autoscaler.check(Load { waiting, waited, busy });
                prop_assert!((bounds.min..=bounds.max).contains(&wanted));
                prop_assert!(wanted <= before * 2);
                if wanted > before {
                    prop_assert!(waited >= WAITED_MAX, "only late messages need more instances");
                }
            }
        }

        #[test]
        fn a_decrease_comes_no_sooner_than_half_a_window_after_an_increase(
            loads in prop::collection::vec((0usize..100, 0u64..100, 0usize..64), 50..500),
        ) {
            let mut autoscaler = Autoscaler::new(Instances { min: 1, max: 64 });
            let mut up_at = None;
            for (check, (waiting, waited_ms, busy)) in loads.into_iter().enumerate() {
                let before = autoscaler.wanted();
                let busy = busy.min(before);
                let waited = Duration::from_millis(waited_ms);
                let wanted = autoscaler.check(Load { waiting, waited, busy });
                if wanted > before {
                    up_at = Some(check);
                } else if wanted < before && let Some(up_at) = up_at {
                    prop_assert!(check - up_at >= WINDOW_CHECKS / 2, "{} checks", check - up_at);
                }
            }
        }
    }
}
