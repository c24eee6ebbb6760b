//! Shared parts of the programs: the order, its handling, and reporting the time.

use std::fs;
use std::time::Instant;

/// Returns an environment variable that the runner sets.
///
/// # Panics
/// If it is not set.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} isn't set: see tests/bench/peers/run"))
}

/// Returns the number of messages to handle.
///
/// # Panics
/// If the runner did not set it.
pub fn messages() -> usize {
    setting("MESSAGES").parse().expect("MESSAGES is a number")
}

/// Measures time and CPU time of the work.
pub struct Stopwatch(Instant, f64);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    /// Prints the result for the runner as the last line.
    pub fn tell(self) {
        let (took, cpu) = (self.0.elapsed().as_secs_f64(), cpu_seconds() - self.1);
        println!("{{\"seconds\": {took}, \"cpu\": {cpu}}}");
    }
}

fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("it is Linux");
    let mut fields = text.rsplit(") ").next().unwrap_or("").split(' ').skip(11);
    let mut ticks = || fields.next().and_then(|it| it.parse::<f64>().ok());
    let all = ticks().zip(ticks()).map(|(user, system)| user + system);
    all.expect("user and system time are there") / 100.0
}
