//! The reported readiness of an app and its real progress, over time.
//!
//! A thread polls the readiness endpoint and the size of the output file. The test compares the
//! two afterwards.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http;

/// Poll interval.
pub const EVERY: Duration = Duration::from_millis(50);

/// An observation of an app.
#[derive(Debug, Clone)]
pub struct Look {
    /// Time of the observation.
    pub at: Instant,
    /// The reported readiness; `None` if the endpoint did not answer.
    pub ready: Option<bool>,
    /// The reported reason.
    pub why: String,
    /// Size of the output file.
    pub bytes: u64,
}

/// Observes until it is stopped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Look>>>,
}

impl Watch {
    /// Starts to observe the app with this admin endpoint and this output file.
    pub fn start(admin: SocketAddr, file: &Path) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let thread = std::thread::spawn({
            let (stop, file) = (stop.clone(), file.to_owned());
            move || look(admin, &file, &stop)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops and returns the observations.
    ///
    /// # Panics
    /// If the thread has panicked.
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().expect("it stops once");
        Seen(thread.join().expect("it looks"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn look(admin: SocketAddr, file: &PathBuf, stop: &AtomicBool) -> Vec<Look> {
    let mut seen = Vec::new();
    while !stop.load(Relaxed) {
        let at = Instant::now();
        let answer = http::get(admin, "/health/ready").ok();
        seen.push(Look {
            at,
            ready: answer.as_ref().map(|answer| answer.code == 200),
            why: answer.map(|answer| answer.body).unwrap_or_default(),
            bytes: std::fs::metadata(file).map_or(0, |file| file.len()),
        });
        std::thread::sleep(EVERY);
    }
    seen
}

/// Observations in order.
#[derive(Debug)]
pub struct Seen(pub Vec<Look>);

impl Seen {
    /// Returns the longest time without progress, after `from` and before all output was written.
    pub fn quiet(&self, from: Instant) -> Duration {
        self.longest_quiet(|look| look.at >= from)
    }

    /// Returns the longest time without progress in which the app reported that it is ready,
    /// before all output was written.
    pub fn quiet_though_ready(&self) -> Duration {
        self.longest_quiet(|look| look.ready == Some(true))
    }

    fn longest_quiet(&self, counts: impl Fn(&Look) -> bool) -> Duration {
        let all = self.0.last().map_or(0, |look| look.bytes);
        let mut longest = Duration::ZERO;
        let mut since: Option<&Look> = None;
        for look in &self.0 {
            let first = since.filter(|first| first.bytes == look.bytes && counts(look));
            longest = longest.max(first.map_or(Duration::ZERO, |first| look.at - first.at));
            if look.bytes == all {
                break;
            }
            since = first.or(Some(look)).filter(|look| counts(look));
        }
        longest
    }

    /// Returns the observations between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Look> {
        let within = move |look: &&Look| look.at >= from && look.at < to;
        self.0.iter().filter(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_app_without_progress_is_found() {
        let began = Instant::now();
        let look = |second: u64, ready: bool, bytes: u64| Look {
            at: began + Duration::from_secs(second),
            ready: Some(ready),
            why: String::new(),
            bytes,
        };
        let seen = Seen(vec![
            look(0, true, 1),
            look(1, true, 2),
            look(3, true, 2),
            look(4, false, 2),
            look(9, false, 2),
            look(10, true, 2),
            look(11, true, 3),
            look(12, true, 4),
            // No output was left to write.
            look(99, true, 4),
        ]);
        assert_eq!(seen.quiet_though_ready(), Duration::from_secs(2));
        assert_eq!(seen.quiet(began), Duration::from_secs(9));
        let late = began + Duration::from_secs(9);
        assert_eq!(seen.quiet(late), Duration::from_secs(1));
    }
}
