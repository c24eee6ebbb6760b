//! Write state of the journal: which commands can be written at present.
//!
//! ```text
//!              write fails             a commit succeeds
//!    Normal ----------------> Blocked -------------------> Full
//!      ^                         |                           |
//!      |                         +---------- probe ----------+
//!      | probe: normal                         | probe: low
//!      +-------------------------------------- v
//!                                          LowSpace
//! ```
//! A failed write leads to `Blocked` from every state but `Closed`; a failed probe alone leads
//! to `Full`, unless the state is `Blocked`.

use super::disk_space::SpaceLevel;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum WriteState {
    /// Every command is written.
    #[default]
    Normal,
    /// Every command is written; sources wait, since disk space is low.
    LowSpace,
    /// Settlements are written; publications fail.
    Full,
    /// The last write failed: settlements wait, and publications fail.
    Blocked,
    /// Every command fails.
    Closed,
}

impl WriteState {
    /// Whether publications fail until a probe succeeds.
    pub(super) fn is_outage(self) -> bool {
        matches!(self, Self::Full | Self::Blocked)
    }

    /// Whether disk space is low, or there is none.
    pub(super) fn has_low_space(self) -> bool {
        self == Self::LowSpace || self.is_outage()
    }

    /// Returns the state after a failed write. A probe that fails alone says nothing about
    /// settlements.
    pub(super) fn after_failure(self, only_probe: bool) -> Self {
        match self {
            Self::Closed | Self::Blocked => self,
            _ if only_probe => Self::Full,
            _ => Self::Blocked,
        }
    }

    /// Returns the state after a commit.
    pub(super) fn after_commit(self) -> Self {
        match self {
            Self::Blocked => Self::Full,
            state => state,
        }
    }

    /// Returns the state after a probe that succeeded.
    pub(super) fn after_probe(self, space: SpaceLevel) -> Self {
        match (self, space) {
            (Self::Closed, _) => Self::Closed,
            (_, SpaceLevel::Low) => Self::LowSpace,
            (_, SpaceLevel::Normal) => Self::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_probe_fails_publications_and_a_failed_write_blocks_settlements() {
        let full = WriteState::Normal.after_failure(true);
        assert_eq!(full, WriteState::Full);
        assert!(full.is_outage() && full.has_low_space());
        let blocked = full.after_failure(false);
        assert_eq!(blocked, WriteState::Blocked);
        assert_eq!(blocked.after_failure(true), WriteState::Blocked);
        assert_eq!(blocked.after_commit(), WriteState::Full);
    }

    #[test]
    fn a_probe_ends_an_outage_and_nothing_reopens_a_closed_journal() {
        let low = WriteState::Full.after_probe(SpaceLevel::Low);
        assert_eq!(low, WriteState::LowSpace);
        assert!(!low.is_outage() && low.has_low_space());
        assert_eq!(low.after_commit(), WriteState::LowSpace);
        assert_eq!(low.after_probe(SpaceLevel::Normal), WriteState::Normal);
        let closed = WriteState::Closed.after_failure(false).after_commit();
        assert_eq!(closed.after_probe(SpaceLevel::Normal), WriteState::Closed);
    }
}
