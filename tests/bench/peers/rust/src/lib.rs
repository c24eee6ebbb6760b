//! What the programs share: the order, what is done with it, and telling how long it took.

use std::fs;
use std::time::Instant;

/// An environment variable that the runner sets.
///
/// # Panics
/// It didn't.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} isn't set: see tests/bench/peers/run"))
}

/// How many messages are to be handled.
///
/// # Panics
/// The runner didn't say.
pub fn messages() -> usize {
    setting("MESSAGES").parse().expect("MESSAGES is a number")
}

/// Begins with the work, ends with what it took.
pub struct Stopwatch(Instant, f64);

impl Stopwatch {
    /// Begins.
    pub fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    /// Tells the runner, in the last line.
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
