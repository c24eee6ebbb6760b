//! Positions of sources: how far each source has read, in small files that are replaced as
//! a whole.
//!
//! The folder belongs to one app, which the file `owner` names. With a shared folder the
//! sources of a second app would continue where those of the first stopped.

mod fence;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use fence::{RunNumber, SourcePosition};

/// The folder with the positions of an app's sources.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    folder: PathBuf,
    app: Arc<str>,
}

impl Positions {
    /// Returns the positions of an app with this data folder.
    pub(crate) fn new(data: &Path, app: &Arc<str>) -> Self {
        Self {
            folder: data.join("positions"),
            app: app.clone(),
        }
    }

    /// Returns the path of the file that names the owner.
    pub(crate) fn owner_file(&self) -> PathBuf {
        self.folder.join("owner")
    }

    /// Returns the owner if it is another app. Positions without an owner file belong to
    /// the next app that saves one.
    ///
    /// # Errors
    /// The owner file can't be read.
    pub(crate) fn other_owner(&self) -> io::Result<Option<String>> {
        Ok(self.owner()?.filter(|owner| **owner != *self.app))
    }

    /// Returns the error text for positions of another app, and the help for it.
    pub(crate) fn refusal(&self, owner: &str) -> (String, String) {
        let refusal = format!(
            "the positions in {} are those of the app {owner}",
            self.folder.display()
        );
        let help = format!(
            "name another folder in app.data; if this app was called {owner} before, remove {} \
             and it goes on from there",
            self.owner_file().display()
        );
        (refusal, help)
    }

    /// Loads a position; `None` if none was saved.
    ///
    /// # Errors
    /// The positions belong to another app, or the file can't be read or parsed as `P`.
    pub(crate) fn load<P: DeserializeOwned>(&self, source: &str) -> io::Result<Option<P>> {
        self.check_owner()?;
        let file = self.file(source);
        match read(&file)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| unreadable(&file, &error)),
            None => Ok(None),
        }
    }

    /// Replaces the position of a source that does not run; `None` removes it.
    ///
    /// # Errors
    /// The positions belong to another app, or the file can't be written.
    pub(crate) fn replace(&self, source: &str, position: Option<&Value>) -> io::Result<()> {
        match position {
            Some(position) => {
                let written = self.write(source, position.to_string().as_bytes())?;
                written.replace()?;
                written.sync()
            }
            None => {
                self.check_owner()?;
                match fs::remove_file(self.file(source)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    removed => removed,
                }
            }
        }
    }

    /// Writes a new position file beside the old one: after a crash either of them is
    /// complete. Not to be called twice at the same time for one source.
    ///
    /// # Errors
    /// The positions belong to another app, or the file can't be written.
    fn write(&self, source: &str, bytes: &[u8]) -> io::Result<NewFile> {
        fs::create_dir_all(&self.folder)?;
        match self.owner()? {
            // The owner file comes first, so that no position exists without an owner.
            None => {
                // Several sources may write the owner file at the same time.
                let new = self.folder.join(format!("{source}.owner"));
                let name = format!("{}\n", self.app);
                let owner = NewFile::write(self.owner_file(), new, name.as_bytes())?;
                owner.replace()?;
                owner.sync()?;
            }
            Some(_) => self.check_owner()?,
        }
        let file = self.file(source);
        let new = file.with_extension("new");
        NewFile::write(file, new, bytes)
    }

    fn file(&self, source: &str) -> PathBuf {
        self.folder.join(format!("{source}.json"))
    }

    fn owner(&self) -> io::Result<Option<String>> {
        let file = self.owner_file();
        let Some(bytes) = read(&file)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|error| unreadable(&file, &error))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn check_owner(&self) -> io::Result<()> {
        match self.other_owner()? {
            None => Ok(()),
            Some(owner) => {
                let (refusal, help) = self.refusal(&owner);
                Err(io::Error::other(format!("{refusal}: {help}")))
            }
        }
    }
}

/// Reads a file; `None` if the file or its folder does not exist.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "can't read the position in {}: {error}",
        file.display()
    ))
}

/// A complete new file that has not yet replaced the old one.
#[derive(Debug)]
#[must_use = "it replaces nothing by itself"]
struct NewFile {
    file: PathBuf,
    new: PathBuf,
}

impl NewFile {
    /// Writes `new`, which no other writer uses, and syncs its data.
    fn write(file: PathBuf, new: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let mut written = File::create(&new)?;
        written.write_all(bytes)?;
        written.sync_data()?;
        Ok(Self { file, new })
    }

    /// Replaces the old file.
    fn replace(&self) -> io::Result<()> {
        fs::rename(&self.new, &self.file)
    }

    /// Syncs the folder: the replacement survives a power cut.
    fn sync(self) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(data: &Path, app: &str) -> Positions {
        Positions::new(data, &app.into())
    }

    impl Positions {
        fn save(&self, source: &str, bytes: &[u8]) -> io::Result<()> {
            let written = self.write(source, bytes)?;
            written.replace()?;
            written.sync()
        }
    }

    #[test]
    fn a_load_returns_the_last_saved_position() {
        let data = tempfile::tempdir().unwrap();
        let positions = positions(data.path(), "shop");
        assert_eq!(positions.load::<u64>("intake").unwrap(), None);
        positions.save("intake", b"17").unwrap();
        positions.save("intake", b"18").unwrap();
        assert_eq!(positions.load::<u64>("intake").unwrap(), Some(18));
        fs::write(data.path().join("positions/intake.json"), "nonsense").unwrap();
        let error = positions.load::<u64>("intake").unwrap_err().to_string();
        assert!(error.contains("intake.json"), "{error}");
    }

    #[test]
    fn the_first_saves_of_several_sources_at_once_all_succeed() {
        let data = tempfile::tempdir().unwrap();
        let shop = positions(data.path(), "shop");
        let sources: Vec<String> = (0..16).map(|number| format!("source-{number}")).collect();
        for round in 0..20 {
            std::thread::scope(|scope| {
                for source in &sources {
                    scope.spawn(|| shop.save(source, format!("{round}").as_bytes()).unwrap());
                }
            });
            assert_eq!(shop.owner().unwrap().as_deref(), Some("shop"));
            fs::remove_file(shop.owner_file()).unwrap();
        }
    }

    #[test]
    fn positions_belong_to_the_app_that_saved_them_until_the_owner_file_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let (shop, other) = (
            positions(data.path(), "shop"),
            positions(data.path(), "other"),
        );
        assert_eq!(shop.other_owner().unwrap(), None);
        shop.save("intake", b"17").unwrap();
        assert_eq!(shop.other_owner().unwrap(), None);
        assert_eq!(other.other_owner().unwrap(), Some("shop".into()));
        let error = other.load::<u64>("intake").unwrap_err().to_string();
        assert!(error.contains("those of the app shop"), "{error}");
        let error = other.save("intake", b"3").unwrap_err().to_string();
        assert!(error.contains("name another folder"), "{error}");
        let owner_file = other.owner_file().display().to_string();
        assert!(error.contains(&format!("remove {owner_file} ")), "{error}");
        assert_eq!(shop.load::<u64>("intake").unwrap(), Some(17));
        // The help says to remove the owner file.
        fs::remove_file(owner_file).unwrap();
        assert_eq!(other.load::<u64>("intake").unwrap(), Some(17));
        other.save("intake", b"18").unwrap();
        assert_eq!(shop.other_owner().unwrap(), Some("other".into()));
    }
}
