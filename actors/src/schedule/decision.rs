//! The firings that are due: catch-up window, overlap policy, jitter.
//!
//! Functions over values. A schedule's progress is the last time that was decided; each call
//! decides the times after it that are due. So a time is decided once, unless the process ends
//! before the progress is saved: then it is decided again, and its message has the same id.

use std::time::Duration;

use brickwork::prelude::*;
use sha2::{Digest, Sha256};

use super::timing::{Timing, UnixMs};

/// Maximum times that are looked at one by one, and so the maximum of `missed`.
const COUNT_MAX: u32 = 10_000;
/// Maximum firings of one decision.
pub(super) const BATCH_MAX: usize = 256;

/// Treatment of several firings of one schedule that are due together: after a stop, an outage
/// of the transport, or backpressure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The latest is emitted, the others are missed.
    #[default]
    Skip,
    /// The earliest and the latest are emitted.
    BufferOne,
    /// All are emitted in order, each after the transport confirmed the one before.
    BufferAll,
    /// All are emitted in order, without waiting for confirms.
    AllowAll,
}

impl<'de> Deserialize<'de> for Overlap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "skip" => Self::Skip,
            "buffer_one" => Self::BufferOne,
            "buffer_all" => Self::BufferAll,
            "allow_all" => Self::AllowAll,
            "cancel_other" | "terminate_other" => {
                return Err(serde::de::Error::custom(format!(
                    "{text} can't be kept: a firing is a message, and a sent message can't be \
                     cancelled; use skip, buffer_one, buffer_all or allow_all"
                )));
            }
            _ => {
                return Err(serde::de::Error::custom(format!(
                    "{text:?} is no overlap policy: use skip, buffer_one, buffer_all or allow_all"
                )));
            }
        })
    }
}

/// The rules of one schedule.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) timing: Timing,
    /// Maximum lateness of a firing, beside its jitter; later ones are missed.
    pub(super) catch_up: Duration,
    pub(super) overlap: Overlap,
    /// Maximum random delay of a firing.
    pub(super) jitter: Duration,
    /// Tells the jitter of schedules apart.
    pub(super) seed: String,
}

/// The progress of one schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Time up to which every firing is decided.
    pub(super) decided: UnixMs,
    /// Scheduled time of the last emitted firing.
    pub(super) previous: Option<UnixMs>,
    /// Firings after `previous` that were not emitted.
    pub(super) missed: u32,
}

/// A firing to emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Firing {
    pub(super) scheduled: UnixMs,
    /// Scheduled time of the firing that was emitted before.
    pub(super) previous: Option<UnixMs>,
    /// Firings between both that were not emitted, [`COUNT_MAX`] at most.
    pub(super) missed: u32,
}

impl Progress {
    /// The progress of a new schedule: nothing before `now` is due.
    pub(super) fn new(now: UnixMs) -> Self {
        Self {
            decided: now,
            previous: None,
            missed: 0,
        }
    }

    /// Counts times up to `decided` as missed.
    fn miss(&mut self, count: u32, decided: UnixMs) {
        self.missed = self.missed.saturating_add(count).min(COUNT_MAX);
        self.decided = self.decided.max(decided);
    }

    fn emit(&mut self, scheduled: UnixMs) -> Firing {
        let firing = Firing {
            scheduled,
            previous: self.previous,
            missed: self.missed,
        };
        *self = Self {
            decided: self.decided.max(scheduled),
            previous: Some(scheduled),
            missed: 0,
        };
        firing
    }
}

impl Rules {
    /// Returns the time at which the firing of a scheduled time is due. The jitter of a time is
    /// always the same.
    pub(super) fn due(&self, scheduled: UnixMs) -> UnixMs {
        let jitter = self.jitter.as_millis() as u64;
        if jitter == 0 {
            return scheduled;
        }
        let mut hash = Sha256::new();
        hash.update(self.seed.as_bytes());
        hash.update(scheduled.to_le_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        scheduled.saturating_add((u64::from_le_bytes(first) % jitter) as i64)
    }

    /// Returns the time at which the next firing is due; `None` if there is none.
    pub(super) fn next_due(&self, progress: &Progress) -> Option<UnixMs> {
        self.timing
            .next_after(progress.decided)
            .map(|next| self.due(next))
    }

    /// Decides the firings that are due, and moves the progress past them. After a full batch
    /// of [`BATCH_MAX`] firings, more may be due.
    pub(super) fn decide(&self, progress: &mut Progress, now: UnixMs) -> Vec<Firing> {
        let late = milliseconds(self.catch_up).saturating_add(milliseconds(self.jitter));
        self.miss_expired(progress, now.saturating_sub(late));
        let Some(first) = self.due_after(progress.decided, now) else {
            return Vec::new();
        };
        match self.overlap {
            Overlap::Skip => {
                let (last, between) = self.last_due(first, now).unwrap_or((first, 0));
                progress.miss(between + u32::from(last != first), first);
                vec![progress.emit(last)]
            }
            Overlap::BufferOne => {
                let mut firings = vec![progress.emit(first)];
                if let Some((last, between)) = self.last_due(first, now) {
                    progress.miss(between, first);
                    firings.push(progress.emit(last));
                }
                firings
            }
            Overlap::BufferAll | Overlap::AllowAll => {
                let mut firings = vec![progress.emit(first)];
                while firings.len() < BATCH_MAX
                    && let Some(next) = self.due_after(progress.decided, now)
                {
                    firings.push(progress.emit(next));
                }
                firings
            }
        }
    }

    /// Returns the next scheduled time if it is due. Of times that are closer together than the
    /// jitter, the later waits for the earlier.
    fn due_after(&self, after: UnixMs, now: UnixMs) -> Option<UnixMs> {
        let next = self.timing.next_after(after)?;
        (self.due(next) <= now).then_some(next)
    }

    /// Returns the last scheduled time that is due, and the number of times between `first` and
    /// that time, about [`COUNT_MAX`] at most; `None` if none after `first` is due.
    fn last_due(&self, first: UnixMs, now: UnixMs) -> Option<(UnixMs, u32)> {
        let mut last = self.due_after(first, now)?;
        let mut between = 0;
        while let Some(next) = self.due_after(last, now) {
            last = next;
            between += 1;
            if between == COUNT_MAX {
                let until = now.saturating_sub(milliseconds(self.jitter));
                last = self.timing.last_within(last, until).unwrap_or(last);
                break;
            }
        }
        Some((last, between))
    }

    /// Moves the progress past the times before `until`, however many they are.
    fn miss_expired(&self, progress: &mut Progress, until: UnixMs) {
        let mut decided = progress.decided;
        let mut count = 0;
        while let Some(next) = self.timing.next_after(decided).filter(|next| *next < until) {
            decided = next;
            count += 1;
            if count == COUNT_MAX {
                let last = self.timing.last_within(decided, until.saturating_sub(1));
                decided = last.unwrap_or(decided);
            }
        }
        progress.miss(count, decided);
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
