//! What a run draws at random, and how it is run again.
//!
//! Owns the way from `BRICKWORK_SEED` to a generator. A run that fails says its seed.
//! The same seed makes the same decisions in the same order; how they fall together with
//! what other processes do is the machine's.

use fastrand::Rng;

/// The seed of one run.
#[derive(Debug)]
pub struct Seed(u64);

impl Seed {
    /// The one in `BRICKWORK_SEED`; without it `usual`.
    ///
    /// # Panics
    /// It isn't a number.
    pub fn or(usual: u64) -> Self {
        let asked = std::env::var("BRICKWORK_SEED").ok();
        let asked = asked.map(|text| text.parse().expect("BRICKWORK_SEED is a number"));
        Self(asked.unwrap_or(usual))
    }

    /// Several runs: those of the seeds `usual`, or one if `BRICKWORK_SEED` says which.
    pub fn each(usual: impl Iterator<Item = u64>) -> Vec<Self> {
        match std::env::var_os("BRICKWORK_SEED") {
            Some(_) => vec![Self::or(0)],
            None => usual.map(Self).collect(),
        }
    }

    /// The generator.
    pub fn random(&self) -> Rng {
        Rng::with_seed(self.0)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with BRICKWORK_SEED={}", self.0);
        }
    }
}
