//! The saved position: the progress of each schedule by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Schedule;
use super::decision::Progress;
use super::timing::UnixMs;

/// Maximum time from the last firing of a process to the takeover by another one, in
/// milliseconds.
const TAKEOVER: i64 = 60_000;

/// The position of a service, as JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    schedules: BTreeMap<String, SavedSchedule>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedSchedule {
    /// The times for which the progress is valid: with other times, the schedule is new.
    times: String,
    #[serde(flatten)]
    progress: Progress,
}

impl Saved {
    /// Returns the position of these schedules.
    pub(super) fn of<'a>(schedules: impl Iterator<Item = (&'a Schedule, Progress)>) -> Self {
        let schedules = schedules.map(|(schedule, progress)| {
            let times = schedule.rules.timing.spec();
            (schedule.key().to_owned(), SavedSchedule { times, progress })
        });
        Self {
            schedules: schedules.collect(),
        }
    }

    /// Returns the progress of a schedule in a process that takes over from another one at `now`
    /// and stood by since `since`. The other process has fired the times before [`TAKEOVER`].
    /// The other process may have fired some later times, too: their messages come again under their ids.
    pub(super) fn taken_over(&self, schedule: &Schedule, since: UnixMs, now: UnixMs) -> Progress {
        let fired = since.max(now.saturating_sub(TAKEOVER));
        let progress = self.progress(schedule, fired);
        match progress.decided < fired {
            true => Progress::new(fired),
            false => progress,
        }
    }

    /// Returns the progress of a schedule. A new schedule, or one whose times were changed,
    /// starts now.
    pub(super) fn progress(&self, schedule: &Schedule, now: UnixMs) -> Progress {
        match self.schedules.get(schedule.key()) {
            Some(saved) if saved.times == schedule.rules.timing.spec() => saved.progress,
            _ => Progress::new(now),
        }
    }
}
