//! In-flight log: a file that records unacked deliveries and is read after a crash.
//!
//! # Format
//! An array of 64-bit words, one slot for each message in flight: the id of the message, and
//! its delivery mode in the bits above. A slot of 0 is empty.
//!
//! # Rules
//! - A slot is written before its message is handed out. The file is never synced: it
//!   survives a killed process, and a power cut blames no message.
//! - An acked message leaves its slot as it is, until another message needs the slot: its row
//!   is deleted, so the next process ignores it.
//! - The slot of a message that stays in its queue is set to 0.
//! - Each opening of the folder (generation) has a file of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brickwork::supervision::quarantine::DeliveryMode;
use parking_lot::Mutex;
use tracing::warn;

use super::schema::{ID_BITS, Id};

/// Slots in a new file.
const SLOTS: usize = 1024;
/// Bytes per slot.
const WIDTH: usize = 8;

const CONCURRENT: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 62;
const WITH_DEPENDENTS: u64 = CONCURRENT | EXCLUSIVE;

fn encode(id: Id, mode: DeliveryMode) -> [u8; WIDTH] {
    let id = id.row() as u64;
    let word = match mode {
        DeliveryMode::Normal => id,
        DeliveryMode::Concurrent => id | CONCURRENT,
        DeliveryMode::WithDependents => id | WITH_DEPENDENTS,
        DeliveryMode::Exclusive => id | EXCLUSIVE,
    };
    word.to_le_bytes()
}

fn decode(word: u64) -> Option<(Id, DeliveryMode)> {
    let row = word & ((1 << ID_BITS) - 1);
    let mode = match word & WITH_DEPENDENTS {
        0 => DeliveryMode::Normal,
        CONCURRENT => DeliveryMode::Concurrent,
        EXCLUSIVE => DeliveryMode::Exclusive,
        _ => DeliveryMode::WithDependents,
    };
    (row != 0 && word >> 63 == 0).then(|| (Id::from_row(row as i64), mode))
}

/// Returns the path of a generation's file.
pub(super) fn path(folder: &Path, generation: i64) -> PathBuf {
    folder.join(format!("in-hand-{generation}"))
}

/// Reads the messages that a process had in flight, each once. There are none if the file is
/// missing.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(folder: &Path, generation: i64) -> io::Result<Vec<(Id, DeliveryMode)>> {
    let bytes = match std::fs::read(path(folder, generation)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let words = bytes.as_chunks::<WIDTH>().0.iter();
    let mut recorded: Vec<_> = words
        .filter_map(|word| decode(u64::from_le_bytes(*word)))
        .collect();
    // A message that was redelivered may have several slots. It counts once.
    recorded.sort_by_key(|(id, mode)| (*id, *mode as u8));
    recorded.dedup_by_key(|(id, _)| *id);
    Ok(recorded)
}

/// Removes the files of other generations.
pub(super) fn remove_stale(folder: &Path, generation: i64) {
    let Ok(files) = std::fs::read_dir(folder) else {
        return;
    };
    let keep = path(folder, generation);
    for file in files.flatten() {
        let name = file.file_name();
        if name.to_string_lossy().starts_with("in-hand-") && file.path() != keep {
            // A file that stays does no harm: nothing reads its generation.
            let _stays = std::fs::remove_file(file.path());
        }
    }
}

/// The log of one generation.
pub(super) struct InFlightLog(Mutex<State>);

struct State {
    /// `None` once the log is cleared or detached.
    file: Option<File>,
    taken: Vec<bool>,
    count: usize,
    cursor: usize,
    buffer: Vec<u8>,
    warned: bool,
}

impl InFlightLog {
    /// Makes a new file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn create(folder: &Path, generation: i64) -> io::Result<Self> {
        let file = File::create(path(folder, generation))?;
        file.write_all_at(&[0; SLOTS * WIDTH], 0)?;
        Ok(Self(Mutex::new(State {
            file: Some(file),
            taken: vec![false; SLOTS],
            count: 0,
            cursor: 0,
            buffer: Vec::new(),
            warned: false,
        })))
    }

    /// Records messages that are about to be handed out, and adds the slot of each to `slots`.
    pub(super) fn record(&self, ids: impl ExactSizeIterator<Item = Id>, slots: &mut Vec<u32>) {
        let mut state = self.0.lock();
        state.make_room(ids.len());
        let mut run: Option<(usize, usize)> = None;
        for id in ids {
            let slot = state.next_free();
            if run.is_some_and(|(first, count)| first + count != slot) {
                state.write(run);
                run = None;
            }
            run = Some(match run {
                Some((first, count)) => (first, count + 1),
                None => (slot, 1),
            });
            state.buffer.extend(encode(id, DeliveryMode::Normal));
            slots.push(slot as u32);
        }
        state.write(run);
    }

    /// Records a suspect, and returns its slot.
    pub(super) fn record_suspect(&self, id: Id, mode: DeliveryMode) -> u32 {
        let mut state = self.0.lock();
        state.make_room(1);
        let slot = state.next_free();
        state.buffer.extend(encode(id, mode));
        state.write(Some((slot, 1)));
        slot as u32
    }

    /// Changes the delivery mode of a message in flight.
    pub(super) fn update(&self, slot: u32, id: Id, mode: DeliveryMode) {
        let mut state = self.0.lock();
        state.buffer.extend(encode(id, mode));
        state.write(Some((slot as usize, 1)));
    }

    /// Frees the slot of a message whose row is deleted.
    pub(super) fn free(&self, slot: u32) {
        self.0.lock().free(slot);
    }

    /// Frees and empties the slot of a message that stays in its queue.
    pub(super) fn erase(&self, slot: u32) {
        let mut state = self.0.lock();
        if state.free(slot) {
            state.buffer.extend([0; WIDTH]);
            state.write(Some((slot as usize, 1)));
        }
    }

    /// Empties the log after an orderly end: no message is blamed.
    pub(super) fn clear(&self) {
        if let Some(file) = self.0.lock().file.take()
            && let Err(error) = file.set_len(0)
        {
            warn!(%error, "the in-flight log could not be emptied; its messages count as in flight during a crash");
        }
    }

    /// Writes nothing from now on: the next process reads the log as it is.
    pub(super) fn detach(&self) {
        self.0.lock().file = None;
    }
}

impl State {
    /// Keeps half of the slots free, so that free ones are found soon and side by side.
    fn make_room(&mut self, more: usize) {
        let wanted = (self.count + more) * 2;
        if wanted > self.taken.len() {
            self.taken.resize(wanted.next_power_of_two(), false);
        }
    }

    fn next_free(&mut self) -> usize {
        loop {
            let slot = self.cursor;
            self.cursor = (slot + 1) % self.taken.len();
            if !std::mem::replace(&mut self.taken[slot], true) {
                self.count += 1;
                return slot;
            }
        }
    }

    /// Returns whether the slot was taken.
    fn free(&mut self, slot: u32) -> bool {
        let taken = self.taken.get_mut(slot as usize);
        let was_taken = taken.is_some_and(std::mem::take);
        self.count -= usize::from(was_taken);
        was_taken
    }

    /// Writes the buffer to a run of slots, given as first slot and count.
    fn write(&mut self, run: Option<(usize, usize)>) {
        if let (Some((first, _)), Some(file)) = (run, &self.file)
            && let Err(error) = file.write_all_at(&self.buffer, (first * WIDTH) as u64)
            && !std::mem::replace(&mut self.warned, true)
        {
            warn!(%error, "the in-flight log could not be written; no message is blamed for a crash");
        }
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use brickwork::transport::engine::NO_SLOT;

    use super::*;

    fn ids(sequences: &[u64]) -> Vec<Id> {
        let ids = sequences.iter().map(|sequence| Id::new(1, *sequence));
        ids.collect()
    }

    fn recorded(folder: &Path) -> Vec<u64> {
        let recorded = read(folder, 1).expect("it is readable");
        let mut modes = recorded.iter().map(|(_, mode)| *mode);
        assert!(modes.all(|mode| mode == DeliveryMode::Normal));
        recorded.iter().map(|(id, _)| id.sequence()).collect()
    }

    #[test]
    fn the_log_has_messages_in_flight_and_no_requeued_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(recorded(folder.path()), [0; 0]);
        let log = InFlightLog::create(folder.path(), 1).expect("a file");
        let mut slots = Vec::new();
        log.record(ids(&[1, 2, 3, 4]).into_iter(), &mut slots);
        log.erase(slots[1]);
        log.erase(slots[1]);
        log.erase(NO_SLOT);
        assert_eq!(recorded(folder.path()), [1, 3, 4]);
        log.detach();
        log.erase(slots[0]);
        assert_eq!(recorded(folder.path()), [1, 3, 4]);
    }

    #[test]
    fn a_message_that_stays_in_flight_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = InFlightLog::create(folder.path(), 1).expect("a file");
        let mut kept = Vec::new();
        // Some stay, in odd slots; far more pass than there are slots.
        for round in 0..5_000_u64 {
            let mut slots = Vec::new();
            let sequences = [round * 10 + 1, round * 10 + 2, round * 10 + 3];
            log.record(ids(&sequences).into_iter(), &mut slots);
            log.free(slots[0]);
            log.free(slots[2]);
            match round % 7 {
                0 => kept.push(sequences[1]),
                _ => log.free(slots[1]),
            }
        }
        let recorded = recorded(folder.path());
        assert!(kept.iter().all(|sequence| recorded.contains(sequence)));
        let length = std::fs::metadata(path(folder.path(), 1))
            .expect("a file")
            .len();
        assert!(length <= 8 * 4096, "{length}");
    }

    #[test]
    fn the_log_has_the_delivery_mode_of_a_suspect() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = InFlightLog::create(folder.path(), 1).expect("a file");
        log.record_suspect(Id::new(1, 1), DeliveryMode::Concurrent);
        let slot = log.record_suspect(Id::new(1, 2), DeliveryMode::Exclusive);
        let recorded = || read(folder.path(), 1).expect("it is readable");
        let expected = |mode| {
            [
                (Id::new(1, 1), DeliveryMode::Concurrent),
                (Id::new(1, 2), mode),
            ]
        };
        assert_eq!(recorded(), expected(DeliveryMode::Exclusive));
        log.update(slot, Id::new(1, 2), DeliveryMode::WithDependents);
        assert_eq!(recorded(), expected(DeliveryMode::WithDependents));
        remove_stale(folder.path(), 2);
        assert_eq!(read(folder.path(), 1).expect("the file is gone"), []);
    }
}
