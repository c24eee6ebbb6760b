//! The fence of a source's position: only saves of the newest run count, in the order in
//! which they were requested.
//!
//! A run of a source may end while its save is still being written: on a slow disk, or on a
//! thread that was abandoned and wakes up later. Such a late save must not replace a position
//! that the next run has saved since.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::{NewFile, Positions};

/// The position of one source, over all of its runs.
pub(crate) struct SourcePosition {
    files: PathBuf,
    positions: Positions,
    source: Arc<str>,
    fence: PositionFence,
    repeats: Repeats,
}

impl SourcePosition {
    pub(crate) fn new(data: &Path, app: &Arc<str>, source: &Arc<str>) -> Self {
        Self {
            positions: Positions::new(data, app),
            source: source.clone(),
            files: data.join("files").join(&**source),
            fence: PositionFence::default(),
            repeats: Repeats::default(),
        }
    }

    /// The messages that the source would send again.
    pub(crate) fn repeats(&self) -> &Repeats {
        &self.repeats
    }

    /// Returns the folder for files of the source.
    pub(crate) fn files(&self) -> PathBuf {
        self.files.clone()
    }

    /// Starts a run of the source. The run loads the position after this call.
    pub(crate) fn start_run(&self, is_revoked: impl Fn() -> bool) -> RunNumber {
        self.fence.start_run(is_revoked)
    }

    /// Returns the last saved position; `None` if none was saved.
    ///
    /// # Errors
    /// The positions belong to another app, or the file can't be read or parsed as `P`.
    pub(crate) fn load<P: DeserializeOwned>(&self) -> io::Result<Option<P>> {
        self.repeats.loaded();
        self.positions.load(&self.source)
    }

    /// Returns whether a position was saved in this folder.
    pub(crate) fn is_saved(&self) -> bool {
        self.positions.file(&self.source).exists()
    }

    /// Requests a save. Of two saves of one run the one requested later wins.
    pub(crate) fn request_save(&self, run: RunNumber) -> SaveRequest {
        self.fence.request(run)
    }

    /// Saves the position durably. Blocks the thread.
    ///
    /// # Errors
    /// A later run of the source has started, or its thread was abandoned; the positions
    /// belong to another app; or the file can't be written.
    pub(crate) fn save(
        &self,
        request: SaveRequest,
        is_revoked: impl Fn() -> bool,
        bytes: &[u8],
    ) -> io::Result<()> {
        let write = || self.positions.write(&self.source, bytes);
        self.fence
            .save(request, is_revoked, write, NewFile::replace)?
            .sync()
    }
}

/// Counts the messages that a source sends again if it ends without another save.
#[derive(Default)]
pub(crate) struct Repeats {
    /// Whether a run has asked for the position: other sources have none.
    used: AtomicBool,
    /// Messages that all runs have submitted.
    submitted: AtomicU64,
    /// Messages that the last saved position is known to cover.
    covered: AtomicU64,
}

impl Repeats {
    fn loaded(&self) {
        self.used.store(true, Relaxed);
        // The position that a run loads decides where it begins.
        self.covered.store(self.submitted.load(Relaxed), Relaxed);
    }

    pub(crate) fn submitted(&self) {
        self.submitted.fetch_add(1, Relaxed);
    }

    /// Returns the number of messages that a position covers which is saved now, with this many
    /// messages in flight. Of those in flight it may cover none.
    pub(crate) fn covers(&self, in_flight: usize) -> u64 {
        let submitted = self.submitted.load(Relaxed);
        submitted.saturating_sub(in_flight as u64)
    }

    pub(crate) fn saved(&self, covers: u64) {
        self.covered.fetch_max(covers, Relaxed);
    }

    /// Returns the largest number of messages that may be sent again; 0 for a source that never
    /// asked for its position.
    pub(crate) fn most(&self) -> u64 {
        if !self.used.load(Relaxed) {
            return 0;
        }
        let submitted = self.submitted.load(Relaxed);
        submitted.saturating_sub(self.covered.load(Relaxed))
    }
}

/// Orders the saves of one source.
#[derive(Default)]
struct PositionFence {
    /// Held while a new position file is written beside the old one. Only threads that may
    /// block wait for this lock.
    writing: Mutex<()>,
    /// Held while the old file is replaced, which writes no data. A run that starts
    /// afterwards loads a position that no earlier run replaces.
    state: Mutex<FenceState>,
}

#[derive(Default)]
struct FenceState {
    /// The newest run.
    run: RunNumber,
    /// Saves requested so far.
    requested: u64,
    /// The last request that is saved.
    saved: u64,
}

/// The number of a run of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RunNumber(u64);

/// A save that a run has requested.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SaveRequest {
    run: RunNumber,
    number: u64,
}

impl PositionFence {
    /// Starts a run: saves of earlier runs fail from now on. A revoked run gets a number
    /// that never counts.
    fn start_run(&self, is_revoked: impl Fn() -> bool) -> RunNumber {
        let mut state = self.state.lock();
        // Asked under the lock, so that the next run can't start in between.
        if is_revoked() {
            return RunNumber::default();
        }
        state.run.0 += 1;
        state.run
    }

    fn request(&self, run: RunNumber) -> SaveRequest {
        let mut state = self.state.lock();
        state.requested += 1;
        let number = state.requested;
        SaveRequest { run, number }
    }

    /// Writes a new file and replaces the old one, if the run is still the newest.
    fn save<W>(
        &self,
        request: SaveRequest,
        is_revoked: impl Fn() -> bool,
        write: impl FnOnce() -> io::Result<W>,
        replace: impl FnOnce(&W) -> io::Result<()>,
    ) -> io::Result<W> {
        let check = |state: &FenceState| match state.run == request.run && !is_revoked() {
            true => Ok(()),
            false => Err(run_is_over()),
        };
        let _writing = self.writing.lock();
        check(&self.state.lock())?;
        let written = write()?;
        let mut state = self.state.lock();
        check(&state)?;
        if state.saved < request.number {
            replace(&written)?;
            state.saved = request.number;
        }
        Ok(written)
    }
}

fn run_is_over() -> io::Error {
    io::Error::other("this run of the source is over: only its newest run saves the position")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Saves a value; `meanwhile` runs after the write and before the replacement.
    fn save(
        fence: &PositionFence,
        request: SaveRequest,
        file: &Cell<u64>,
        value: u64,
        meanwhile: impl FnOnce(),
    ) -> bool {
        let write = || {
            meanwhile();
            Ok(value)
        };
        let replace = |value: &u64| {
            file.set(*value);
            Ok(())
        };
        fence.save(request, || false, write, replace).is_ok()
    }

    #[test]
    fn a_run_that_starts_during_a_save_of_an_older_run_loads_a_final_position() {
        let (fence, file) = (PositionFence::default(), Cell::new(0));
        let old = fence.start_run(|| false);
        assert!(save(&fence, fence.request(old), &file, 1, || {}));
        let loaded = Cell::new(0);
        let start = || {
            fence.start_run(|| false);
            loaded.set(file.get());
        };
        assert!(!save(&fence, fence.request(old), &file, 2, start));
        assert_eq!((loaded.get(), file.get()), (1, 1));
        assert!(!save(&fence, fence.request(old), &file, 3, || {}));
        assert_eq!(file.get(), 1);
    }

    #[test]
    fn a_revoked_run_saves_nothing_and_does_not_disturb_the_next_run() {
        let (fence, file) = (PositionFence::default(), Cell::new(0));
        let old = fence.start_run(|| false);
        let replaced = fence.save(
            fence.request(old),
            || true,
            || Ok(()),
            |()| {
                file.set(1);
                Ok(())
            },
        );
        assert!(replaced.is_err());
        let new = fence.start_run(|| false);
        // The abandoned thread wakes up and starts its source once more.
        let late = fence.start_run(|| true);
        assert!(!save(&fence, fence.request(late), &file, 2, || {}));
        assert!(save(&fence, fence.request(new), &file, 3, || {}));
        assert_eq!(file.get(), 3);
    }

    #[test]
    fn of_two_saves_of_one_run_the_later_request_wins() {
        let (fence, file) = (PositionFence::default(), Cell::new(0));
        let run = fence.start_run(|| false);
        let (first, second) = (fence.request(run), fence.request(run));
        assert!(save(&fence, second, &file, 2, || {}));
        assert!(save(&fence, first, &file, 1, || {}));
        assert_eq!(file.get(), 2);
    }
}
