//! An append-only file of lines.
//!
//! Owns one invariant: before each append, the file ends at the end of a line, whatever failed
//! or crashed before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tracing::warn;

/// Bytes per read in the search for the last line break.
const STEP_BYTES: u64 = 64 * 1024;
/// Maximum bytes of the last line. With a longer one this is not a file of lines.
const TAIL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An open file that ends at the end of a line.
#[derive(Debug)]
pub(super) struct LineFile {
    file: File,
    sync: bool,
    /// A write failed and could not be undone: the end must be repaired before the next one.
    torn: bool,
}

impl LineFile {
    /// Opens or creates a file, and repairs its end.
    pub(super) fn open(path: &Path, sync: bool) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        repair_end(&mut file, path)?;
        Ok(Self {
            file,
            sync,
            torn: false,
        })
    }

    /// Appends whole lines: all of them, or none if the write fails.
    pub(super) fn append(&mut self, path: &Path, lines: &[u8]) -> io::Result<()> {
        if !self.is_at(path)? {
            // A rotating program renamed or removed the file: continue in a new one.
            *self = Self::open(path, self.sync)?;
        }
        if self.torn {
            repair_end(&mut self.file, path)?;
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

    /// Whether the path still names the open file.
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
/// An unfinished last line belongs to a message that was not acked and is redelivered: it is
/// cut off. A whole object or list that only lacks its line break gets one, since it may come
/// from another program.
fn repair_end(file: &mut File, path: &Path) -> io::Result<()> {
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
        "unfinished last line of the file cut off"
    );
    file.set_len(length - tail.len() as u64)
}

/// The bytes after the last line break.
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
                "its last line is longer than {TAIL_BYTES_MAX} bytes: it is not a file of lines"
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
    fn missing_directories_and_file_are_created() {
        let place = place();
        let mut file = LineFile::open(&place.path, true).unwrap();
        file.append(&place.path, b"1\n").unwrap();
        file.append(&place.path, b"2\n").unwrap();
        assert_eq!(fs::read(&place.path).unwrap(), b"1\n2\n");
    }

    #[test]
    fn an_unfinished_last_line_is_cut_off_and_a_whole_one_gets_its_line_break() {
        let long = format!("{{\"a\":1}}\n{{\"b\":\"{}", "x".repeat(200_000));
        let cases: [(&[u8], &[u8]); 7] = [
            (b"", b""),
            (b"{\"a\":1}\n", b"{\"a\":1}\n"),
            (b"{\"a\":1}\n{\"b\":", b"{\"a\":1}\n"),
            (b"{\"a\":1}\n{\"b\":2}", b"{\"a\":1}\n{\"b\":2}\n"),
            // A number may be incomplete.
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
    fn a_torn_end_is_repaired_before_the_next_line() {
        let place = with(b"1\n");
        let mut file = LineFile::open(&place.path, false).unwrap();
        file.file.write_all(b"{\"half").unwrap();
        file.torn = true;
        file.append(&place.path, b"2\n").unwrap();
        assert_eq!(fs::read(&place.path).unwrap(), b"1\n2\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_adds_no_line() {
        let path = Path::new("/dev/full");
        let file = OpenOptions::new().append(true).open(path).unwrap();
        let mut file = LineFile {
            file,
            sync: false,
            torn: false,
        };
        let error = file.append(path, b"1\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // A device can't be truncated, so the end must be repaired before the next line.
        assert!(file.torn);
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_created_again() {
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
