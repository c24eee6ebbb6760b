//! Folder locks: only one process at a time uses a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Interval between attempts. The operating system does not report that a lock is released.
const EVERY: Duration = Duration::from_millis(50);

/// A held lock. The operating system releases it when the process ends, however that happens. The
/// file stays: removing it would let two processes lock two files of the same name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, and writes the process id to the file.
    ///
    /// # Errors
    /// Another process has it ([`io::ErrorKind::AddrInUse`]): `taken` makes the error text from a
    /// description of that process, such as `process 17`. Or the file can't be created.
    pub fn take(path: &Path, taken: impl FnOnce(&str) -> String) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let text = format!("can't lock {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(explain)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = taken(&owner(&mut file));
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Err(TryLockError::Error(error)) => return Err(explain(error)),
        }
        file.set_len(0).map_err(explain)?;
        file.rewind().map_err(explain)?;
        writeln!(file, "{}", std::process::id()).map_err(explain)?;
        Ok(Self { _file: file })
    }

    /// Keeps other processes from taking the lock while the result lives, and changes nothing: for
    /// reading the folder. `None` if the file does not exist: no process has ever taken the lock.
    ///
    /// # Errors
    /// The same as for [`take`](Self::take), which fails while this is held.
    pub fn look(path: &Path, taken: impl FnOnce(&str) -> String) -> io::Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => {
                let text = taken(&owner(&mut file));
                Err(io::Error::new(io::ErrorKind::AddrInUse, text))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes the lock as soon as the process that has it ends.
    ///
    /// # Errors
    /// It has not ended in time; otherwise the same as for [`take`](Self::take).
    pub async fn wait(
        path: &Path,
        within: Duration,
        taken: impl Fn(&str) -> String,
    ) -> io::Result<Self> {
        let deadline = Instant::now() + within;
        loop {
            match Self::take(path, &taken) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    sleep(EVERY).await;
                }
                taken => return taken,
            }
        }
    }
}

fn owner(file: &mut File) -> String {
    let mut owner = String::new();
    // The error text only: the lock itself counts.
    let _unknown = file.take(32).read_to_string(&mut owner);
    match owner.trim() {
        "" => "another process".to_owned(),
        number => format!("process {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_changes_nothing_and_learns_the_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let look = || Lock::look(&path, str::to_owned);
        assert!(look().expect("it is free").is_none());
        assert!(!path.exists(), "it was not made");
        let lock = Lock::take(&path, str::to_owned).expect("it is free");
        let text = std::fs::read(&path).expect("a file");
        let taken = look().expect_err("it is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let own = format!("process {}", std::process::id());
        assert_eq!(taken.to_string(), own);
        drop(lock);
        let looking = [look(), look()].map(|looking| looking.expect("it is free"));
        assert!(looking.iter().all(Option::is_some));
        assert_eq!(std::fs::read(&path).expect("a file"), text);
        Lock::take(&path, str::to_owned).expect_err("a reader holds it");
        drop(looking);
        Lock::take(&path, str::to_owned).expect("it is free again");
    }
}
