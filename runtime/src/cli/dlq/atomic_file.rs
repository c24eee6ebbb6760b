//! A file that is there whole or not at all, for its owner alone: letters are somebody's
//! data.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Problem;

/// A file that is to be.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    path: &'a Path,
    replace: bool,
    /// What is written first, beside it.
    draft: PathBuf,
}

/// One at this path. With `replace` another file may be there already.
pub(super) fn new(path: &Path, replace: bool) -> Result<NewFile<'_>, Problem> {
    let Some(name) = path.file_name() else {
        let text = format!("--out {}: that is no file's name", path.display());
        return Err(Problem::wrong(text));
    };
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}.new", std::process::id()));
    let file = NewFile {
        path,
        replace,
        draft: path.with_file_name(draft),
    };
    file.check()?;
    Ok(file)
}

impl NewFile<'_> {
    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// Writes it, and puts it in its place.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Problem> {
        let written = self.put(bytes).map_err(|error| {
            let text = format!("can't write {}: {error}", self.path.display());
            Problem::failed(text)
        });
        written.and_then(|()| {
            let placed = self.check().and_then(|()| {
                fs::rename(&self.draft, self.path).map_err(|error| {
                    let text = format!("can't write {}: {error}", self.path.display());
                    Problem::failed(text)
                })
            });
            if placed.is_err() {
                // It is of no use to anybody.
                let _gone = fs::remove_file(&self.draft);
            }
            placed
        })
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.draft)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            // Nor is a part of it.
            let _gone = fs::remove_file(&self.draft);
        }
        written
    }

    fn check(&self) -> Result<(), Problem> {
        match self.replace || fs::symlink_metadata(self.path).is_err() {
            true => Ok(()),
            false => Err(Problem::failed(format!(
                "{} is there already: --force replaces it",
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
    fn a_file_is_there_whole_and_another_one_is_replaced_only_if_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        new(&path, false).unwrap().write(b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = new(&path, false).unwrap_err();
        assert!(refused.text.contains("--force"), "{}", refused.text);
        new(&path, true).unwrap().write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");

        // One that came meanwhile is left alone, and no draft is left behind.
        let late = folder.path().join("late.jsonl");
        let file = new(&late, false).unwrap();
        fs::write(&late, "somebody's").unwrap();
        assert!(file.write(b"ours").is_err());
        assert_eq!(fs::read(&late).unwrap(), b"somebody's");
        let nowhere = folder.path().join("nowhere/letters.jsonl");
        assert!(new(&nowhere, false).unwrap().write(b"x").is_err());
        assert!(new(Path::new("/"), false).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
