//! Alternating rounds: every candidate is measured in every round, so that other load on the
//! machine affects all alike. The median of the rounds is reported.

use std::fmt::Write;

/// A measured candidate and its results.
pub struct Candidate<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> f64 + 'a>,
    results: Vec<f64>,
}

/// Candidates that do the same work.
pub struct Rounds<'a> {
    title: String,
    unit: &'static str,
    candidates: Vec<Candidate<'a>>,
}

impl<'a> Rounds<'a> {
    /// Creates a comparison; the unit is printed after each figure.
    pub fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self {
            title: title.into(),
            unit,
            candidates: Vec::new(),
        }
    }

    /// Adds a candidate; `run` measures once.
    #[must_use]
    pub fn with(mut self, name: &'static str, run: impl FnMut() -> f64 + 'a) -> Self {
        self.candidates.push(Candidate {
            name,
            run: Box::new(run),
            results: Vec::new(),
        });
        self
    }

    /// Measures all candidates in turn, prints the medians with the ratio to the first candidate,
    /// and returns the medians.
    ///
    /// `BENCH_ONLY=NAME` skips candidates whose names do not contain it, for a profile.
    pub fn run(mut self, rounds: usize) -> Vec<f64> {
        if let Ok(only) = std::env::var("BENCH_ONLY") {
            self.candidates
                .retain(|candidate| candidate.name.contains(&only));
        }
        // The first round is a warm-up and does not count.
        for round in 0..=rounds {
            for candidate in &mut self.candidates {
                let result = (candidate.run)();
                if round > 0 {
                    candidate.results.push(result);
                }
            }
        }
        let medians: Vec<f64> = self
            .candidates
            .iter_mut()
            .map(|c| median(&mut c.results))
            .collect();
        let mut text = format!("{} (median of {rounds} rounds)\n", self.title);
        for (candidate, value) in self.candidates.iter().zip(&medians) {
            let (low, high) = (candidate.results[0], candidate.results[rounds - 1]);
            writeln!(
                text,
                "  {:<34} {value:>10.3} {}  ({low:.3} to {high:.3}), ours is {:.2} times",
                candidate.name,
                self.unit,
                medians[0] / value
            )
            .expect("writing to a string succeeds");
        }
        println!("{text}");
        medians
    }
}

/// Returns the median; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns a line about the machine, for every report.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_default();
    format!("{cpus} cores, {model}")
}

/// Returns the resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

/// Returns the CPU time of this process so far, in seconds.
pub fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
