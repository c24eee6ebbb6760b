//! Writes a file completely or not at all, readable by its owner only: letters are private data.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Problem;

/// A file to be written.
#[derive(Debug)]
pub(super) struct AtomicFile<'a> {
    path: &'a Path,
    replace: bool,
    /// The file that is written first, in the same folder.
    draft: PathBuf,
}

impl<'a> AtomicFile<'a> {
    /// Prepares writing. With `replace`, the file may exist already.
    pub(super) fn new(path: &'a Path, replace: bool) -> Result<Self, Problem> {
        let Some(name) = path.file_name() else {
            let text = format!("--out {}: not the name of a file", path.display());
            return Err(Problem::wrong(text));
        };
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}.new", std::process::id()));
        let file = Self {
            path,
            replace,
            draft: path.with_file_name(draft),
        };
        file.check()?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// Writes the file.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Problem> {
        let failed = |error: io::Error| {
            let text = format!("can't write {}: {error}", self.path.display());
            Problem::failed(text)
        };
        let mut draft = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.draft)
            .map_err(failed)?;
        let written = draft.write_all(bytes).and_then(|()| draft.sync_all());
        let placed = written
            .map_err(failed)
            .and_then(|()| self.check())
            .and_then(|()| fs::rename(&self.draft, self.path).map_err(failed));
        if placed.is_err() {
            let _removed = fs::remove_file(&self.draft);
        }
        placed
    }

    fn check(&self) -> Result<(), Problem> {
        match self.replace || fs::symlink_metadata(self.path).is_err() {
            true => Ok(()),
            false => Err(Problem::failed(format!(
                "{} exists already: --force replaces it",
                self.path.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_written_completely_and_an_existing_one_is_replaced_only_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        AtomicFile::new(&path, false)
            .unwrap()
            .write(b"one")
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = AtomicFile::new(&path, false).unwrap_err();
        assert!(refused.text.contains("--force"), "{}", refused.text);
        AtomicFile::new(&path, true).unwrap().write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");

        // A file that appeared meanwhile is not changed, and no draft is left.
        let late = folder.path().join("late.jsonl");
        let file = AtomicFile::new(&late, false).unwrap();
        fs::write(&late, "another").unwrap();
        assert!(file.write(b"ours").is_err());
        assert_eq!(fs::read(&late).unwrap(), b"another");
        let nowhere = folder.path().join("nowhere/letters.jsonl");
        assert!(
            AtomicFile::new(&nowhere, false)
                .unwrap()
                .write(b"x")
                .is_err()
        );
        assert!(AtomicFile::new(Path::new("/"), false).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
