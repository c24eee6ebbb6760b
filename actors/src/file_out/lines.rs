//! A file of lines that is only ever appended to.
//!
//! Owns its one invariant: the file ends at the end of a line, whatever failed or
//! crashed before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tracing::warn;

/// How much is read at a time when the last line is looked for.
const STEP_BYTES: u64 = 64 * 1024;
/// A longer last line is none: this is another kind of file.
const TAIL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An open file whose every line is whole.
#[derive(Debug)]
pub(super) struct LineFile {
    file: File,
    sync: bool,
    /// A write failed and couldn't be undone: the end must be looked at first.
    torn: bool,
}

impl LineFile {
    /// Opens or makes a file, and mends its end.
    pub(super) fn open(path: &Path, sync: bool) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        mend(&mut file, path)?;
        Ok(Self {
            file,
            sync,
            torn: false,
        })
    }

    /// Appends whole lines: all of them, or none if it fails.
    pub(super) fn append(&mut self, path: &Path, lines: &[u8]) -> io::Result<()> {
        if !self.is_at(path)? {
            // Renamed or removed by whoever rotates it: go on in a new one.
            *self = Self::open(path, self.sync)?;
        }
        if self.torn {
            mend(&mut self.file, path)?;
            self.torn = false;
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines).and_then(|()| match self.sync {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        if written.is_err() {
            self.torn = self.file.set_len(before).is_err();
        }
        written
    }

    /// Whether the path still leads to the open file.
    #[cfg(unix)]
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;

        match fs::metadata(path) {
            Ok(there) => {
                let here = self.file.metadata()?;
                Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    #[cfg(not(unix))]
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }
}

/// Makes the file end at the end of a line.
///
/// An unfinished last line belongs to a message that didn't count as done and comes
/// again, so it is cut off. If it is a whole object or list that only lacks its line
/// break, it gets that: it may be somebody's.
fn mend(file: &mut File, path: &Path) -> io::Result<()> {
    let length = file.metadata()?.len();
    let tail = tail(file, length)?;
    if tail.is_empty() {
        return Ok(());
    }
    let whole = matches!(tail[0], b'{' | b'[')
        && serde_json::from_slice::<serde::de::IgnoredAny>(&tail).is_ok();
    if whole {
        return file.write_all(b"\n");
    }
    warn!(
        path = %path.display(),
        bytes = tail.len(),
        "the file's last line was unfinished and is cut off"
    );
    file.set_len(length - tail.len() as u64)
}

/// What stands after the last line break.
fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut from = length;
    while from > 0 {
        let step = from.min(STEP_BYTES);
        from -= step;
        let mut part = vec![0; step as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            part.drain(..=at);
            from = 0;
        }
        part.append(&mut tail);
        tail = part;
        if tail.len() as u64 > TAIL_BYTES_MAX {
            return Err(io::Error::other(format!(
                "its last line is longer than {TAIL_BYTES_MAX} bytes: not a file of lines"
            )));
        }
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/out.jsonl");
        Place {
            _folder: folder,
            path,
        }
    }

    fn with(content: &[u8]) -> Place {
        let place = place();
        fs::create_dir_all(place.path.parent().unwrap()).unwrap();
        fs::write(&place.path, content).unwrap();
        place
    }

    #[test]
    fn folders_and_file_are_made() {
        let place = place();
        let mut file = LineFile::open(&place.path, true).unwrap();
        file.append(&place.path, b"1\n").unwrap();
        file.append(&place.path, b"2\n").unwrap();
        assert_eq!(fs::read(&place.path).unwrap(), b"1\n2\n");
    }

    #[test]
    fn an_unfinished_last_line_is_cut_off_and_a_whole_one_ended() {
        let long = format!("{{\"a\":1}}\n{{\"b\":\"{}", "x".repeat(200_000));
        let cases: [(&[u8], &[u8]); 7] = [
            (b"", b""),
            (b"{\"a\":1}\n", b"{\"a\":1}\n"),
            (b"{\"a\":1}\n{\"b\":", b"{\"a\":1}\n"),
            (b"{\"a\":1}\n{\"b\":2}", b"{\"a\":1}\n{\"b\":2}\n"),
            // A number may go on.
            (b"1\n12", b"1\n"),
            (b"{\"a\"", b""),
            (long.as_bytes(), b"{\"a\":1}\n"),
        ];
        for (before, after) in cases {
            let place = with(before);
            LineFile::open(&place.path, false).unwrap();
            assert_eq!(fs::read(&place.path).unwrap(), after);
        }
    }

    #[test]
    fn a_torn_end_is_mended_before_the_next_line() {
        let place = with(b"1\n");
        let mut file = LineFile::open(&place.path, false).unwrap();
        file.file.write_all(b"{\"half").unwrap();
        file.torn = true;
        file.append(&place.path, b"2\n").unwrap();
        assert_eq!(fs::read(&place.path).unwrap(), b"1\n2\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_never_a_line() {
        let path = Path::new("/dev/full");
        let file = OpenOptions::new().append(true).open(path).unwrap();
        let mut file = LineFile {
            file,
            sync: false,
            torn: false,
        };
        let error = file.append(path, b"1\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // A device can't be cut: so the end must be looked at before the next line.
        assert!(file.torn);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let place = with(b"1\n");
        let mut file = LineFile::open(&place.path, false).unwrap();
        let moved = place.path.with_extension("old");
        fs::rename(&place.path, &moved).unwrap();
        file.append(&place.path, b"2\n").unwrap();
        fs::remove_file(&place.path).unwrap();
        file.append(&place.path, b"3\n").unwrap();
        assert_eq!(fs::read(&moved).unwrap(), b"1\n");
        assert_eq!(fs::read(&place.path).unwrap(), b"3\n");
    }
}
