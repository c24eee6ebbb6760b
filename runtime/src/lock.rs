//! The lock of a folder: one process at a time uses what is in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A lock doesn't say when it is let go: this is how often it is tried.
const EVERY: Duration = Duration::from_millis(50);

/// Held as long as the process uses what it is for; it goes with the process, however that
/// ends. The file stays: removing it would let two processes hold locks on two files of one
/// name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, and notes this process in it.
    ///
    /// # Errors
    /// Another process has it ([`io::ErrorKind::AddrInUse`]): the text is what `taken` makes
    /// of that one, such as `process 17`. Or the file can't be made.
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

    /// Keeps others from taking the lock as long as the result lives, for looking at what it
    /// is for; changes nothing. `None` if there is no such file: nobody has ever taken it.
    ///
    /// # Errors
    /// As [`take`](Self::take), which fails, too, while this is held.
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

    /// Takes it as soon as the process that has it has gone.
    ///
    /// # Errors
    /// It has not gone in time; otherwise as [`take`](Self::take).
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
    // Who it is is a courtesy: the lock counts.
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
    fn who_looks_changes_nothing_and_is_told_who_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let look = || Lock::look(&path, str::to_owned);
        assert!(look().expect("nobody has it").is_none());
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
        Lock::take(&path, str::to_owned).expect_err("somebody looks");
        drop(looking);
        Lock::take(&path, str::to_owned).expect("nobody looks any more");
    }
}
