//! Which saves of a source's position count: those of the run that began last, in the order
//! in which they were asked for.
//!
//! A run may be over while a save of it is under way: on a slow disk, or because a thread
//! that was given up turns again. Such a late one must not replace what the next run, which
//! has gone on from there, has saved since.

use std::io;

use parking_lot::Mutex;

use super::position::{Positions, Written};
use super::service_run::ServiceRun;

/// The saves of one source, over all of its lives.
#[derive(Default)]
pub(crate) struct PositionFence {
    /// Held while a position is written beside the one that it is to replace. Only threads
    /// that may block wait for it.
    writing: Mutex<()>,
    /// Held while a position is replaced, which writes nothing: a run that begins then
    /// reads what is there for good.
    turns: Mutex<FenceState>,
}

#[derive(Default)]
struct FenceState {
    /// The run that began last.
    run: RunNumber,
    /// How many saves were asked for.
    asked: u64,
    /// The last one of them that is done.
    done: u64,
}

/// The number of a run of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RunNumber(u64);

/// A save that a run has asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Save {
    run: RunNumber,
    number: u64,
}

impl PositionFence {
    /// A run begins: none before it saves any more. One of a life that `is_fenced` has the
    /// number of none.
    fn begin(&self, is_fenced: impl Fn() -> bool) -> RunNumber {
        let mut turns = self.turns.lock();
        // Now that the next life's first run can't begin before this one.
        if is_fenced() {
            return RunNumber::default();
        }
        turns.run.0 += 1;
        turns.run
    }

    fn ask(&self, run: RunNumber) -> Save {
        let mut turns = self.turns.lock();
        turns.asked += 1;
        let number = turns.asked;
        Save { run, number }
    }

    /// Writes, and replaces what is there, if that run is still the one that counts.
    fn save<W>(
        &self,
        save: Save,
        is_fenced: impl Fn() -> bool,
        write: impl FnOnce() -> io::Result<W>,
        replace: impl FnOnce(&W) -> io::Result<()>,
    ) -> io::Result<W> {
        let counts = |turns: &FenceState| match turns.run == save.run && !is_fenced() {
            true => Ok(()),
            false => Err(late()),
        };
        let _writing = self.writing.lock();
        counts(&self.turns.lock())?;
        let written = write()?;
        let mut turns = self.turns.lock();
        counts(&turns)?;
        if turns.done < save.number {
            replace(&written)?;
            turns.done = save.number;
        }
        Ok(written)
    }
}

impl ServiceRun {
    /// A run of the source begins; it reads the position after this.
    pub(crate) fn begin_run(&self) -> RunNumber {
        self.saves.begin(|| self.is_fenced())
    }

    /// A run wants its position saved: a later save counts more, whichever is done first.
    pub(crate) fn ask_to_save(&self, run: RunNumber) -> Save {
        self.saves.ask(run)
    }

    /// Saves the position durably. Blocks.
    ///
    /// # Errors
    /// Another run of the source has begun, or its thread was given up; the position is
    /// another app's; or it can't be written.
    pub(crate) fn save_position(&self, save: Save, bytes: &[u8]) -> io::Result<()> {
        let positions = Positions::of(&self.data, &self.app);
        let write = || positions.write(&self.label, bytes);
        let is_fenced = || self.is_fenced();
        self.saves
            .save(save, is_fenced, write, Written::replace)?
            .keep()
    }
}

fn late() -> io::Error {
    io::Error::other("this run of the source is over: the position is the next one's to save")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Saves, and does something else when it is written but not yet there.
    fn save(
        saves: &PositionFence,
        save: Save,
        there: &Cell<u64>,
        value: u64,
        meanwhile: impl FnOnce(),
    ) -> bool {
        let write = || {
            meanwhile();
            Ok(value)
        };
        let replace = |value: &u64| {
            there.set(*value);
            Ok(())
        };
        saves.save(save, || false, write, replace).is_ok()
    }

    #[test]
    fn a_run_that_begins_while_an_older_one_saves_finds_what_stays() {
        let (saves, there) = (PositionFence::default(), Cell::new(0));
        let old = saves.begin(|| false);
        assert!(save(&saves, saves.ask(old), &there, 1, || {}));
        let found = Cell::new(0);
        let begin = || {
            saves.begin(|| false);
            found.set(there.get());
        };
        assert!(!save(&saves, saves.ask(old), &there, 2, begin));
        assert_eq!((found.get(), there.get()), (1, 1));
        // Nor does it later.
        assert!(!save(&saves, saves.ask(old), &there, 3, || {}));
        assert_eq!(there.get(), 1);
    }

    #[test]
    fn nothing_of_a_fenced_life_counts_and_it_takes_nothing_from_the_next_one() {
        let (saves, there) = (PositionFence::default(), Cell::new(0));
        let old = saves.begin(|| false);
        let replaced = saves.save(
            saves.ask(old),
            || true,
            || Ok(()),
            |()| {
                there.set(1);
                Ok(())
            },
        );
        assert!(replaced.is_err());
        let new = saves.begin(|| false);
        // The old thread turns again and its source is about to run again.
        let late = saves.begin(|| true);
        assert!(!save(&saves, saves.ask(late), &there, 2, || {}));
        assert!(save(&saves, saves.ask(new), &there, 3, || {}));
        assert_eq!(there.get(), 3);
    }

    #[test]
    fn of_two_saves_of_one_run_the_later_one_stays_whichever_is_done_first() {
        let (saves, there) = (PositionFence::default(), Cell::new(0));
        let run = saves.begin(|| false);
        let (first, second) = (saves.ask(run), saves.ask(run));
        assert!(save(&saves, second, &there, 2, || {}));
        assert!(save(&saves, first, &there, 1, || {}));
        assert_eq!(there.get(), 2);
    }
}
