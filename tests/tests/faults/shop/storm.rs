//! Random kills of the app and restarts of its broker, drawn from a seed.

use std::fmt;
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::process::Process;
use fastrand::Rng;

use super::ground::Ground;
use super::site::Site;

/// One kill in this many happens while the broker is away.
const BROKER_EVERY: usize = 5;

/// Maximum time from a start (or the first work) to the kill.
const LIFE_MAX: Duration = Duration::from_millis(3500);
const START_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Storm {
    random: Rng,
    pub(crate) kills: usize,
    restarts: usize,
    broker_kills: usize,
    /// The app had done all its work before a kill.
    is_over: bool,
    began: Instant,
}

impl Storm {
    pub(crate) fn new(random: Rng) -> Self {
        Self {
            random,
            kills: 0,
            restarts: 0,
            broker_kills: 0,
            is_over: false,
            began: Instant::now(),
        }
    }

    /// Starts the app and lets it run for a random time. Without `must_work`, the time may end
    /// before the app works.
    fn live(&mut self, site: &Site, url: &str, must_work: bool) -> Process {
        let app = site.start(url);
        if must_work || self.random.u8(..) < u8::MAX / 4 * 3 {
            app.line(START_MAX, |line| line.contains("runs:").then_some(()));
        }
        self.wait();
        app
    }

    fn wait(&mut self) {
        // The kill comes at a random moment.
        let life = self.random.u64(..LIFE_MAX.as_millis() as u64);
        std::thread::sleep(Duration::from_millis(life));
    }

    /// Kills the app `kills` times, sometimes after the broker. On a busy machine the work may be
    /// done before, but not before the app was killed half as often.
    pub(crate) fn rage(&mut self, site: &Site, ground: &mut Ground, kills: usize) {
        while self.kills < kills && !self.is_over {
            match &mut ground.broker {
                Some(broker) if self.kills % BROKER_EVERY == BROKER_EVERY / 2 => {
                    let app = self.live(site, &ground.url, true);
                    self.take_away(broker, app);
                }
                _ => self.kill(site, &ground.url),
            }
        }
        assert!(self.kills >= kills / 2, "the work was done after {self}");
    }

    /// Starts the app and kills it.
    pub(crate) fn kill(&mut self, site: &Site, url: &str) {
        // The first run creates the stores.
        let app = self.live(site, url, self.kills == 0);
        self.end(app);
    }

    /// Stops the broker; some apps die before it is back, some see it return.
    fn take_away(&mut self, broker: &mut Broker, app: Process) {
        if self.random.bool() {
            broker.stop();
            self.restarts += 1;
        } else {
            broker.write_queues_down();
            broker.kill();
            self.broker_kills += 1;
        }
        if self.random.bool() {
            self.end(app);
            broker.start_again();
        } else {
            broker.start_again();
            self.wait();
            self.end(app);
        }
    }

    fn end(&mut self, mut app: Process) {
        match app.has_ended() {
            true => {
                assert_eq!(app.exit_code(START_MAX), Some(0), "{}", app.stderr());
                self.is_over = true;
            }
            false => {
                app.stop();
                self.kills += 1;
            }
        }
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
