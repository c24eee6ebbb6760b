//! What befalls the app: it is killed at moments that a seed draws, and its broker restarts.

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::LIFE;
use crate::ground::Ground;
use crate::site::Site;

/// Of so many kills one comes while the broker is away.
const BROKER_EVERY: usize = 5;

pub(crate) struct Storm {
    random: Rng,
    pub(crate) kills: usize,
    restarts: usize,
    broker_kills: usize,
    began: Instant,
}

impl Storm {
    pub(crate) fn new(random: Rng) -> Self {
        Self {
            random,
            kills: 0,
            restarts: 0,
            broker_kills: 0,
            began: Instant::now(),
        }
    }

    fn wait(&mut self) {
        let range = LIFE.start.as_millis() as u64..LIFE.end.as_millis() as u64;
        // A life ends at a moment that nobody knows: there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(self.random.u64(range)));
    }

    /// Kills the app so often; now and then the broker goes first.
    pub(crate) fn rage(&mut self, site: &Site, ground: &mut Ground, kills: usize) {
        while self.kills < kills {
            match &mut ground.broker {
                Some(broker) if self.kills % BROKER_EVERY == BROKER_EVERY / 2 => {
                    let mut app = site.start(&ground.url);
                    self.wait();
                    if self.random.bool() {
                        broker.stop();
                        self.restarts += 1;
                    } else {
                        broker.write_queues_down();
                        broker.kill();
                        self.broker_kills += 1;
                    }
                    // Some apps die before their broker is back, some see it come.
                    if self.random.bool() {
                        assert!(!app.has_ended(), "it waits for its broker");
                        app.stop();
                        broker.start_again();
                    } else {
                        broker.start_again();
                        self.wait();
                        assert!(!app.has_ended(), "all was done before the storm was over");
                        app.stop();
                    }
                    self.kills += 1;
                }
                _ => self.kill(site, ground),
            }
        }
    }

    /// Starts the app, and kills it.
    pub(crate) fn kill(&mut self, site: &Site, ground: &Ground) {
        let mut app = site.start(&ground.url);
        self.wait();
        assert!(
            !app.has_ended(),
            "it ended before it was killed: {}",
            app.stderr()
        );
        app.stop();
        self.kills += 1;
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} restarts and {} kills of the broker in {:?}",
            self.kills,
            self.restarts,
            self.broker_kills,
            self.began.elapsed()
        )
    }
}
