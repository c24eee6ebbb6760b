//! The crashes of one message, and their consequences.

use super::{BLAME_IN_COMPANY_AFTER, ISOLATE_AFTER, SUSPECT_AFTER};

/// How a message is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Not a suspect, among other messages.
    Normal,
    /// A suspect beside normal work.
    Concurrent,
    /// A suspect that asked: only the messages that it may wait for are in flight as well.
    WithDependents,
    /// A suspect with nothing else in flight.
    Exclusive,
}

/// Crash history of one message, as a transport stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashRecord {
    /// Crashes of the process with this message in flight.
    pub deaths: u32,
    /// Crashes that this message is blamed for.
    pub crashes: u32,
    /// Number of the next attempt, from 1. A crash that the message is blamed for counts as
    /// an attempt.
    pub attempt: u32,
}

impl CrashRecord {
    /// A message that was in flight during no crash.
    pub const fn new(attempt: u32) -> Self {
        Self {
            deaths: 0,
            crashes: 0,
            attempt,
        }
    }

    /// A message that has just become a suspect.
    pub const fn suspect(attempt: u32) -> Self {
        Self {
            deaths: SUSPECT_AFTER,
            ..Self::new(attempt)
        }
    }

    /// Returns whether the message belongs into quarantine.
    pub const fn is_suspect(self) -> bool {
        self.deaths >= SUSPECT_AFTER
    }

    /// Returns the mode of the next delivery.
    pub const fn mode(self) -> DeliveryMode {
        match self.deaths {
            ISOLATE_AFTER.. => DeliveryMode::Exclusive,
            SUSPECT_AFTER.. => DeliveryMode::Concurrent,
            _ => DeliveryMode::Normal,
        }
    }

    /// Returns the record after a crash with the message in flight in this mode.
    #[must_use]
    pub const fn after(self, mode: DeliveryMode) -> Self {
        let blamed = match mode {
            DeliveryMode::Normal | DeliveryMode::Concurrent => false,
            DeliveryMode::WithDependents => self.deaths >= BLAME_IN_COMPANY_AFTER,
            DeliveryMode::Exclusive => true,
        };
        let blamed = blamed as u32;
        Self {
            deaths: self.deaths.saturating_add(1),
            crashes: self.crashes.saturating_add(blamed),
            attempt: self.attempt.saturating_add(blamed),
        }
    }

    /// Returns the record after a number of crashes during trials whose modes are not known.
    ///
    /// For a transport that counts crashes and can't store that a suspect asked: each crash
    /// counts as one in the mode in which the suspect was handed out.
    #[must_use]
    pub const fn after_trials(self, crashes: u32) -> Self {
        let deaths = self.deaths.saturating_add(crashes);
        let unblamed = ISOLATE_AFTER.saturating_sub(self.deaths);
        let blamed = crashes.saturating_sub(unblamed);
        Self {
            deaths,
            crashes: self.crashes.saturating_add(blamed),
            attempt: self.attempt.saturating_add(blamed),
        }
    }
}

/// Returns whether a message is given up without another attempt: it is blamed for crashes,
/// and the next attempt would be one too many.
pub const fn is_given_up(crashes: u32, attempt: u32, attempts_max: u32) -> bool {
    crashes > 0 && attempt > attempts_max
}
