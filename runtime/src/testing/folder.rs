//! A folder for one test, gone when the test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Deleted with everything in it when it is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// # Panics
    /// If it can't be made.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
            let name = format!("brickwork-test-{process}-{number}");
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // What is there already is left alone.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("can't make the folder {}: {error}", path.display()),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    ///
    /// # Panics
    /// If it can't be written.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        match std::fs::write(&path, text) {
            Ok(()) => path,
            Err(error) => panic!("can't write {}: {error}", path.display()),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind is no reason to fail.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}
