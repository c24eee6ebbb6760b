//! What an app said of itself, and whether it worked, over time.
//!
//! Owns a thread that asks for readiness and looks at the file that the app writes, again
//! and again. Whether what was said was true is judged afterwards.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http;

/// How often it looks.
pub const EVERY: Duration = Duration::from_millis(50);

/// A look at an app.
#[derive(Debug, Clone)]
pub struct Look {
    /// When it was asked.
    pub at: Instant,
    /// Whether it said that it is ready; `None` if there was nobody to say it.
    pub ready: Option<bool>,
    /// What it said beside.
    pub why: String,
    /// How much it has written.
    pub bytes: u64,
}

/// Looks until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Look>>>,
}

impl Watch {
    /// Starts to look at the app with this admin endpoint, which writes this file.
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

    /// Stops, and tells what was seen.
    ///
    /// # Panics
    /// It has panicked.
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

/// What was seen, in order.
#[derive(Debug)]
pub struct Seen(pub Vec<Look>);

impl Seen {
    /// The longest time during which it wrote nothing, after `from` and before it had
    /// written everything.
    pub fn quiet(&self, from: Instant) -> Duration {
        self.longest_quiet(|look| look.at >= from)
    }

    /// The longest time during which it wrote nothing before it had written everything,
    /// and said all the while that it is ready.
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

    /// What it said between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Look> {
        let within = move |look: &&Look| look.at >= from && look.at < to;
        self.0.iter().filter(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_quiet_though_ready_is_found_out() {
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
            // There was nothing left to write.
            look(99, true, 4),
        ]);
        assert_eq!(seen.quiet_though_ready(), Duration::from_secs(2));
        assert_eq!(seen.quiet(began), Duration::from_secs(9));
        let late = began + Duration::from_secs(9);
        assert_eq!(seen.quiet(late), Duration::from_secs(1));
    }
}
