//! The seed of a random run, to repeat it.
//!
//! The seed comes from `BRICKWORK_SEED`. A failing run prints its seed. The same seed makes the
//! same decisions in the same order; their timing against other processes still varies.

use fastrand::Rng;

/// The seed of one run.
#[derive(Debug)]
pub struct Seed(u64);

impl Seed {
    /// Returns the seed in `BRICKWORK_SEED`, or else `usual`.
    ///
    /// # Panics
    /// If the variable isn't a number.
    pub fn or(usual: u64) -> Self {
        let asked = std::env::var("BRICKWORK_SEED").ok();
        let asked = asked.map(|text| text.parse().expect("BRICKWORK_SEED is a number"));
        Self(asked.unwrap_or(usual))
    }

    /// Returns one run for each seed of `usual`, or one run alone if `BRICKWORK_SEED` is set.
    pub fn each(usual: impl Iterator<Item = u64>) -> Vec<Self> {
        match std::env::var_os("BRICKWORK_SEED") {
            Some(_) => vec![Self::or(0)],
            None => usual.map(Self).collect(),
        }
    }

    /// Returns the random generator.
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
