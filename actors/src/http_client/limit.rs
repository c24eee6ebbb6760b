//! Adaptive concurrency: the limit of requests in flight to one host, from the times of answers.
//!
//! The algorithm is the second gradient of Netflix's concurrency-limits. While recent answers
//! take as long as usual, the limit grows by a small allowance for a queue at the host; when they
//! take longer, it falls with the ratio. A lost request lowers it by a tenth.
//!
//! # Invariants
//! - The limit is at least 1 and at most its maximum, whatever is observed.
//! - It grows only while at least half of it is used: an idle time proves nothing.

use std::time::Duration;

/// Limit of a host that is new.
const INITIAL: f64 = 20.0;

/// Share by which an observation moves the limit.
const SMOOTHING: f64 = 0.2;

/// Ratio of a recent to a usual time that is still normal.
const TOLERANCE: f64 = 1.5;

/// Requests beyond the measured capacity, so that growth is noticed.
const ALLOWANCE: f64 = 4.0;

/// Share by which an observation moves the usual time.
const USUAL_SHARE: f64 = 1.0 / 1000.0;

/// Factor of the limit after a lost request.
const LOSS: f64 = 0.9;

/// The limit of one host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limit {
    limit: f64,
    most: f64,
    /// Usual time of an answer in seconds; 0 before the first one.
    usual: f64,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    /// A complete answer after this time.
    Answered(Duration),
    /// No answer in time, or one that says that the host has too much to do.
    Lost,
}

impl Limit {
    /// Creates the limit of a new host.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1) as f64;
        Self {
            limit: INITIAL.min(most),
            most,
            usual: 0.0,
        }
    }

    /// Returns the maximum requests in flight.
    pub(crate) fn allowed(&self) -> usize {
        self.limit as usize
    }

    /// Returns the limit after the end of a request, with the requests that were in flight.
    #[must_use]
    pub(crate) fn after(mut self, sample: Sample, in_flight: usize) -> Self {
        let target = match sample {
            Sample::Lost => self.limit * LOSS,
            Sample::Answered(time) => {
                let time = time.as_secs_f64().max(1e-6);
                self.usual = match self.usual {
                    0.0 => time,
                    // The usual time falls faster than it rises: the load is over.
                    usual if usual > 2.0 * time => usual * 0.95,
                    usual => usual + (time - usual) * USUAL_SHARE,
                };
                let gradient = (TOLERANCE * self.usual / time).clamp(0.5, 1.0);
                let wanted = self.limit * gradient + ALLOWANCE;
                let target = self.limit + (wanted - self.limit) * SMOOTHING;
                match in_flight as f64 * 2.0 < self.limit {
                    true => target.min(self.limit),
                    false => target,
                }
            }
        };
        self.limit = target.clamp(1.0, self.most);
        self
    }
}

#[cfg(test)]
mod tests;
