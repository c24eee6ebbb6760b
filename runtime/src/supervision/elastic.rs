//! How many instances a service is to have: quickly up, slowly down, never flapping.
//!
//! The measure is how many instances are busy, taken often. When work waits although
//! nearly all are busy, there are too few: the number doubles at most. When even the
//! busiest moment of a while needed clearly fewer, there are too many: some go, and the
//! next ones after another while. Between the two nothing changes, and what lies between
//! is wide enough for noise.

use std::collections::VecDeque;
use std::time::Duration;

/// Between which numbers a service's instances may vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// At least so many.
    pub min: usize,
    /// At most so many.
    pub max: usize,
}

/// What was seen of a service at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Messages that wait in the mailbox.
    pub waiting: usize,
    /// For how long the oldest of them has waited.
    pub waited: Duration,
    /// Instances that have something in hand.
    pub busy: usize,
}

/// How often a service should be looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// So many looks make the while after which there may be fewer: three seconds.
const WHILE_LOOKS: usize = 30;
/// Work that has waited for so long wants more instances.
const WAITED_MAX: Duration = Duration::from_millis(50);
/// Instances are to be busy for this share of their time: more than they need is kept
/// for what comes at once.
const BUSY_SHARE: f64 = 0.7;
/// Fewer than this share of the instances must be needed before some go.
const NEEDED_SHARE: f64 = 0.75;

/// Decides, look by look.
#[derive(Debug, Clone)]
pub struct Autoscaler {
    bounds: Instances,
    wanted: usize,
    /// How many were needed at each of the last looks, as far as that can be seen.
    needed: VecDeque<usize>,
}

impl Autoscaler {
    /// Begins with the least number.
    pub fn new(bounds: Instances) -> Self {
        Self {
            bounds,
            wanted: bounds.min,
            needed: VecDeque::with_capacity(WHILE_LOOKS),
        }
    }

    /// How many are wanted now.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Decides after another look.
    pub fn look(&mut self, load: Load) -> usize {
        let late = load.waited >= WAITED_MAX;
        // While work waits, all that waits could be done by somebody.
        let seen = load.busy + if late { load.waiting } else { 0 };
        let needed = (seen as f64 / BUSY_SHARE).ceil() as usize;
        if self.needed.len() == WHILE_LOOKS {
            self.needed.pop_front();
        }
        self.needed.push_back(needed);
        let all_busy = load.busy + load.busy / 16 + 1 > self.wanted;
        if late && all_busy {
            let more = needed.clamp(self.wanted + 1, self.wanted * 2);
            self.set(more);
        } else if self.needed.len() == WHILE_LOOKS {
            let most = self.needed.iter().copied().max().unwrap_or(0);
            if (most as f64) < self.wanted as f64 * NEEDED_SHARE || most < self.bounds.min {
                // Half of the surplus, so that one quiet while doesn't take all.
                let surplus = self.wanted.saturating_sub(most);
                self.set(self.wanted - surplus.div_ceil(2));
            }
        }
        self.wanted
    }

    fn set(&mut self, wanted: usize) {
        let wanted = wanted.clamp(self.bounds.min, self.bounds.max);
        if wanted < self.wanted {
            // The next ones go after another while, or what is left of half of one.
            self.needed.drain(..WHILE_LOOKS / 2);
        }
        self.wanted = wanted;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A service under a load that is given in busy instances: what doesn't fit waits.
    struct Model {
        elastic: Autoscaler,
        backlog: f64,
        waited: Duration,
    }

    impl Model {
        fn new(min: usize, max: usize) -> Self {
            Self {
                elastic: Autoscaler::new(Instances { min, max }),
                backlog: 0.0,
                waited: Duration::ZERO,
            }
        }

        /// One look at a service to which `offered` instances' worth of 10 ms messages
        /// come.
        fn step(&mut self, offered: f64) -> usize {
            let per_look = 10.0;
            let wanted = self.elastic.wanted() as f64;
            self.backlog = (self.backlog + (offered - wanted) * per_look).max(0.0);
            self.waited = Duration::from_secs_f64(self.backlog / (wanted * 100.0));
            let busy = if self.backlog > 0.0 {
                wanted
            } else {
                offered.min(wanted)
            };
            self.elastic.look(Load {
                waiting: (self.backlog as usize).min(64),
                waited: self.waited,
                busy: busy.round() as usize,
            })
        }

        fn run(&mut self, looks: usize, offered: impl Fn(usize) -> f64) -> Vec<usize> {
            (0..looks).map(|look| self.step(offered(look))).collect()
        }
    }

    #[test]
    fn a_load_that_doubles_and_halves_is_followed_within_a_second_and_settles() {
        let mut model = Model::new(1, 64);
        model.run(200, |_| 8.0);
        let before = model.elastic.wanted();
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
    fn ten_minutes_of_noisy_load_do_not_make_it_flap() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let noise: Vec<f64> = (0..6_000).map(|_| 0.7 + 0.6 * random.f64()).collect();
            let mut model = Model::new(1, 64);
            model.run(300, |look| 10.0 * noise[look]);
            let wanted = model.run(6_000, |look| 10.0 * noise[look]);
            let changes = wanted.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(
                changes <= 4,
                "seed {seed}: {changes} changes in ten minutes"
            );
        }
    }

    #[test]
    fn a_service_with_nothing_to_do_ends_at_its_least_number() {
        let mut model = Model::new(2, 64);
        model.run(100, |_| 40.0);
        assert!(model.elastic.wanted() >= 40);
        model.run(600, |_| 0.0);
        assert_eq!(model.elastic.wanted(), 2);
    }

    proptest! {
        #[test]
        fn it_stays_inside_its_bounds_and_at_most_doubles(
            min in 1usize..50,
            more in 0usize..200,
            loads in prop::collection::vec((0usize..100, 0u64..1_000, 0usize..300), 1..300),
        ) {
            let bounds = Instances { min, max: min + more };
            let mut elastic = Autoscaler::new(bounds);
            for (waiting, waited_ms, busy) in loads {
                let before = elastic.wanted();
                let waited = Duration::from_millis(waited_ms);
                let wanted = elastic.look(Load { waiting, waited, busy });
                prop_assert!((bounds.min..=bounds.max).contains(&wanted));
                prop_assert!(wanted <= before * 2);
                if wanted > before {
                    prop_assert!(waited >= WAITED_MAX, "only work that waits wants more");
                }
            }
        }

        #[test]
        fn what_goes_up_comes_down_no_sooner_than_a_while_later(
            loads in prop::collection::vec((0usize..100, 0u64..100, 0usize..64), 50..500),
        ) {
            let mut elastic = Autoscaler::new(Instances { min: 1, max: 64 });
            let mut up_at = None;
            for (look, (waiting, waited_ms, busy)) in loads.into_iter().enumerate() {
                let before = elastic.wanted();
                let busy = busy.min(before);
                let waited = Duration::from_millis(waited_ms);
                let wanted = elastic.look(Load { waiting, waited, busy });
                if wanted > before {
                    up_at = Some(look);
                } else if wanted < before && let Some(up_at) = up_at {
                    prop_assert!(look - up_at >= WHILE_LOOKS / 2, "{} looks", look - up_at);
                }
            }
        }
    }
}
