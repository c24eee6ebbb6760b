//! A temporary directory for one test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A directory that is deleted with its content on drop.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// # Panics
    /// If the directory can't be created.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
            let name = format!("brickwork-test-{process}-{number}");
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left over from another process with the same id.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("can't create the directory {}: {error}", path.display()),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    ///
    /// # Panics
    /// If the file can't be written.
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
        // A directory that stays behind is no reason to fail.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}
