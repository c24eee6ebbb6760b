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
    /// The longest time during which it said all the while that it is ready, and wrote
    /// nothing; of what is before `end`, when there was always something to do.
    pub fn deaf_though_ready(&self, end: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        let mut since: Option<&Look> = None;
        for look in self.0.iter().filter(|look| look.at < end) {
            let quiet = since.filter(|first| first.bytes == look.bytes);
            since = match (look.ready, quiet) {
                (Some(true), Some(first)) => {
                    longest = longest.max(look.at - first.at);
                    Some(first)
                }
                (Some(true), None) => Some(look),
                _ => None,
            };
        }
        longest
    }

    /// What it said between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Look> {
        let within = move |look: &&Look| look.at >= from && look.at < to;
        self.0.iter().filter(within)
    }
}
