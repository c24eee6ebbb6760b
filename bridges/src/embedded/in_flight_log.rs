//! Who is in hand: a file that outlives the process, for the next one to know what it had
//! when it died.
//!
//! An array of numbers, one for each message in hand, written when it is handed out and
//! never synced: a process that is killed leaves what it wrote, and a power cut is nobody's
//! fault. A message that was acked keeps its place in the file until another one needs it:
//! its row is gone. One that is given back, or tried again later, is wiped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brickwork::supervision::quarantine::DeliveryMode;
use parking_lot::Mutex;
use tracing::warn;

use super::schema::{ID_BITS, Id};

/// What stands for a message that isn't noted.
pub(super) const NO_SLOT: u32 = (1 << 24) - 1;
/// Places in a new file.
const SLOTS: usize = 1024;
const WIDTH: usize = 8;

const CONCURRENT: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 62;
const WITH_DEPENDENTS: u64 = CONCURRENT | EXCLUSIVE;

fn mark(id: Id, way: DeliveryMode) -> u64 {
    let id = id.row() as u64;
    match way {
        DeliveryMode::Normal => id,
        DeliveryMode::Concurrent => id | CONCURRENT,
        DeliveryMode::WithDependents => id | WITH_DEPENDENTS,
        DeliveryMode::Exclusive => id | EXCLUSIVE,
    }
}

fn read_mark(mark: u64) -> Option<(Id, DeliveryMode)> {
    let row = mark & ((1 << ID_BITS) - 1);
    let way = match mark & (CONCURRENT | EXCLUSIVE) {
        0 => DeliveryMode::Normal,
        CONCURRENT => DeliveryMode::Concurrent,
        EXCLUSIVE => DeliveryMode::Exclusive,
        _ => DeliveryMode::WithDependents,
    };
    (row != 0 && mark >> 63 == 0).then(|| (Id::of_row(row as i64), way))
}

/// The file of a generation: each opening of the queues has one of its own.
pub(super) fn path(folder: &Path, generation: i64) -> PathBuf {
    folder.join(format!("in-hand-{generation}"))
}

/// What a process had in hand when it died, each message once.
///
/// # Errors
/// There is a file that can't be read.
pub(super) fn read(folder: &Path, generation: i64) -> io::Result<Vec<(Id, DeliveryMode)>> {
    let bytes = match std::fs::read(path(folder, generation)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let words = bytes.as_chunks::<WIDTH>().0.iter();
    let mut noted: Vec<_> = words
        .filter_map(|word| read_mark(u64::from_le_bytes(*word)))
        .collect();
    // One that was in hand again and again has several places; it is blamed once.
    noted.sort_by_key(|(id, way)| (*id, *way as u8));
    noted.dedup_by_key(|(id, _)| *id);
    Ok(noted)
}

/// Removes the files of other generations.
pub(super) fn tidy(folder: &Path, generation: i64) {
    let Ok(files) = std::fs::read_dir(folder) else {
        return;
    };
    let keep = path(folder, generation);
    for file in files.flatten() {
        let name = file.file_name();
        if name.to_string_lossy().starts_with("in-hand-") && file.path() != keep {
            // One that stays is of a generation that nobody asks for.
            let _stays = std::fs::remove_file(file.path());
        }
    }
}

/// Notes what is in hand.
pub(super) struct InFlightLog(Mutex<State>);

struct State {
    /// `None` once this process has nothing to say any more.
    file: Option<File>,
    taken: Vec<bool>,
    count: usize,
    cursor: usize,
    buffer: Vec<u8>,
    warned: bool,
}

impl InFlightLog {
    /// Begins a new file.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn begin(folder: &Path, generation: i64) -> io::Result<Self> {
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

    /// Notes messages that are about to be handed out, and tells where each is noted.
    pub(super) fn note(&self, ids: impl ExactSizeIterator<Item = Id>, slots: &mut Vec<u32>) {
        let mut state = self.0.lock();
        state.make_room(ids.len());
        let mut first = None;
        for id in ids {
            let slot = state.next_free();
            if first.is_some_and(|(first, count)| first + count != slot) {
                state.write(first);
                first = None;
            }
            first = Some(match first {
                Some((first, count)) => (first, count + 1),
                None => (slot, 1),
            });
            let word = mark(id, DeliveryMode::Normal).to_le_bytes();
            state.buffer.extend_from_slice(&word);
            slots.push(slot as u32);
        }
        state.write(first);
    }

    /// Notes a suspect.
    pub(super) fn note_suspect(&self, id: Id, way: DeliveryMode) -> u32 {
        let mut state = self.0.lock();
        state.make_room(1);
        let slot = state.next_free();
        state.buffer.extend_from_slice(&mark(id, way).to_le_bytes());
        state.write(Some((slot, 1)));
        slot as u32
    }

    /// It is in hand in another way from now on.
    pub(super) fn note_anew(&self, slot: u32, id: Id, way: DeliveryMode) {
        let mut state = self.0.lock();
        state.buffer.extend_from_slice(&mark(id, way).to_le_bytes());
        state.write(Some((slot as usize, 1)));
    }

    /// It is done with: its row goes.
    pub(super) fn free(&self, slot: u32) {
        self.0.lock().free(slot);
    }

    /// It stays, and isn't in hand any more.
    pub(super) fn wipe(&self, slot: u32) {
        let mut state = self.0.lock();
        if state.free(slot) {
            state.buffer.extend_from_slice(&[0; WIDTH]);
            state.write(Some((slot as usize, 1)));
        }
    }

    /// All that was in hand is known not to have harmed anybody.
    pub(super) fn forget(&self) {
        if let Some(file) = self.0.lock().file.take()
            && let Err(error) = file.set_len(0)
        {
            warn!(%error, "what was in hand can't be wiped: it counts as if the process had died");
        }
    }

    /// Nothing is noted from now on: what is there is what the next process finds.
    pub(super) fn end(&self) {
        self.0.lock().file = None;
    }
}

impl State {
    /// Keeps half of the places free, so that the next ones are found soon and side by side.
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

    fn free(&mut self, slot: u32) -> bool {
        let taken = self.taken.get_mut(slot as usize);
        let was = taken.is_some_and(std::mem::take);
        self.count -= usize::from(was);
        was
    }

    /// Writes what is in the buffer to places that lie side by side.
    fn write(&mut self, places: Option<(usize, usize)>) {
        if let (Some((first, _)), Some(file)) = (places, &self.file)
            && let Err(error) = file.write_all_at(&self.buffer, (first * WIDTH) as u64)
            && !std::mem::replace(&mut self.warned, true)
        {
            warn!(%error, "what is in hand can't be noted: should the process die, nothing is blamed");
        }
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(places: &[u64]) -> Vec<Id> {
        places.iter().map(|place| Id::new(1, *place)).collect()
    }

    fn noted(folder: &Path) -> Vec<u64> {
        let noted = read(folder, 1).expect("it can be read");
        assert!(noted.iter().all(|(_, way)| *way == DeliveryMode::Normal));
        noted.iter().map(|(id, _)| id.place()).collect()
    }

    #[test]
    fn what_is_in_hand_is_found_and_what_was_given_back_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(noted(folder.path()), [0; 0]);
        let hand = InFlightLog::begin(folder.path(), 1).expect("a file");
        let mut slots = Vec::new();
        hand.note(ids(&[1, 2, 3, 4]).into_iter(), &mut slots);
        hand.wipe(slots[1]);
        hand.wipe(slots[1]);
        hand.wipe(NO_SLOT);
        assert_eq!(noted(folder.path()), [1, 3, 4]);
        hand.end();
        hand.wipe(slots[0]);
        assert_eq!(noted(folder.path()), [1, 3, 4]);
    }

    #[test]
    fn what_stays_in_hand_long_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let hand = InFlightLog::begin(folder.path(), 1).expect("a file");
        let mut kept = Vec::new();
        // Some stay, at odd places; far more pass by than there is room for.
        for round in 0..5_000_u64 {
            let mut slots = Vec::new();
            let places = [round * 10 + 1, round * 10 + 2, round * 10 + 3];
            hand.note(ids(&places).into_iter(), &mut slots);
            hand.free(slots[0]);
            hand.free(slots[2]);
            match round % 7 {
                0 => kept.push(places[1]),
                _ => hand.free(slots[1]),
            }
        }
        let noted = noted(folder.path());
        assert!(kept.iter().all(|place| noted.contains(place)));
        let length = std::fs::metadata(path(folder.path(), 1))
            .expect("a file")
            .len();
        assert!(length <= 8 * 4096, "{length}");
    }

    #[test]
    fn a_suspect_is_told_from_others_and_alone_from_beside() {
        let folder = tempfile::tempdir().expect("a folder");
        let hand = InFlightLog::begin(folder.path(), 1).expect("a file");
        hand.note_suspect(Id::new(1, 1), DeliveryMode::Concurrent);
        let slot = hand.note_suspect(Id::new(1, 2), DeliveryMode::Exclusive);
        let noted = || read(folder.path(), 1).expect("it can be read");
        let expected = |way| {
            [
                (Id::new(1, 1), DeliveryMode::Concurrent),
                (Id::new(1, 2), way),
            ]
        };
        assert_eq!(noted(), expected(DeliveryMode::Exclusive));
        hand.note_anew(slot, Id::new(1, 2), DeliveryMode::WithDependents);
        assert_eq!(noted(), expected(DeliveryMode::WithDependents));
        tidy(folder.path(), 2);
        assert_eq!(read(folder.path(), 1).expect("it is gone"), []);
    }
}
