//! Positions of sources: small files that are replaced as a whole.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Reads a position; `None` if none was saved.
pub(crate) fn load<P: DeserializeOwned>(file: &Path) -> io::Result<Option<P>> {
    let named = |error: &dyn std::fmt::Display| {
        io::Error::other(format!(
            "can't read the position in {}: {error}",
            file.display()
        ))
    };
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| named(&error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&error)),
    }
}

/// Replaces a position: after a crash there is the old one or the new one.
pub(crate) fn save(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    written.write_all(bytes)?;
    written.sync_data()?;
    fs::rename(&new, file)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_what_was_saved_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("positions/intake.json");
        assert_eq!(load::<u64>(&file).unwrap(), None);
        save(&file, b"17").unwrap();
        save(&file, b"18").unwrap();
        assert_eq!(load::<u64>(&file).unwrap(), Some(18));
        fs::write(&file, "nonsense").unwrap();
        assert!(
            load::<u64>(&file)
                .unwrap_err()
                .to_string()
                .contains("intake.json")
        );
    }
}
