//! Positions of sources: small files that are replaced as a whole, in a folder that belongs
//! to one app. Another app's sources would go on from where the first ones stopped.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

/// Where the sources of an app keep how far they have come.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    folder: PathBuf,
    app: Arc<str>,
}

impl Positions {
    /// Those of an app with this data folder.
    pub(crate) fn of(data: &Path, app: &Arc<str>) -> Self {
        Self {
            folder: data.join("positions"),
            app: app.clone(),
        }
    }

    /// The file that says whose they are.
    pub(crate) fn mark(&self) -> PathBuf {
        self.folder.join("owner")
    }

    /// The other app whose they are. Those from before there were marks are whoever's
    /// saves the next one.
    ///
    /// # Errors
    /// The mark can't be read.
    pub(crate) fn others(&self) -> io::Result<Option<String>> {
        Ok(self.owner()?.filter(|owner| **owner != *self.app))
    }

    /// Says what is wrong, for an owner that is another app, and what to do.
    pub(crate) fn refusal(&self, owner: &str) -> (String, String) {
        let refusal = format!(
            "the positions in {} are those of the app {owner}",
            self.folder.display()
        );
        let help = format!(
            "name another folder in app.data; if this app was called {owner} before, remove {} \
             and it goes on from there",
            self.mark().display()
        );
        (refusal, help)
    }

    /// Reads a position; `None` if none was saved.
    ///
    /// # Errors
    /// It is another app's, can't be read, or isn't such a value.
    pub(crate) fn load<P: DeserializeOwned>(&self, source: &str) -> io::Result<Option<P>> {
        self.refuse_others()?;
        let file = self.file(source);
        match read(&file)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| unreadable(&file, &error)),
            None => Ok(None),
        }
    }

    /// Writes a position beside the one that it is to replace: after a crash there is the
    /// old one or the new one. One at a time for a source.
    ///
    /// # Errors
    /// It is another app's, or can't be written.
    pub(crate) fn write(&self, source: &str, bytes: &[u8]) -> io::Result<Written> {
        fs::create_dir_all(&self.folder)?;
        match self.owner()? {
            // Before the position: without a mark nobody's is there.
            None => {
                // Several sources may find none at the same time.
                let new = self.folder.join(format!("{source}.owner"));
                let name = format!("{}\n", self.app);
                let mark = Written::new(self.mark(), new, name.as_bytes())?;
                mark.replace()?;
                mark.keep()?;
            }
            Some(_) => self.refuse_others()?,
        }
        let file = self.file(source);
        let new = file.with_extension("new");
        Written::new(file, new, bytes)
    }

    fn file(&self, source: &str) -> PathBuf {
        self.folder.join(format!("{source}.json"))
    }

    fn owner(&self) -> io::Result<Option<String>> {
        let mark = self.mark();
        let Some(bytes) = read(&mark)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|error| unreadable(&mark, &error))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn refuse_others(&self) -> io::Result<()> {
        match self.others()? {
            None => Ok(()),
            Some(owner) => {
                let (refusal, help) = self.refusal(&owner);
                Err(io::Error::other(format!("{refusal}: {help}")))
            }
        }
    }
}

fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        // Without a data folder, too.
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

/// What is to replace a file.
#[derive(Debug)]
#[must_use = "it replaces nothing by itself"]
pub(crate) struct Written {
    file: PathBuf,
    new: PathBuf,
}

impl Written {
    /// Writes another file first, which is nobody else's.
    fn new(file: PathBuf, new: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let mut written = File::create(&new)?;
        written.write_all(bytes)?;
        written.sync_data()?;
        Ok(Self { file, new })
    }

    /// Replaces the file: who reads it finds this from now on.
    pub(crate) fn replace(&self) -> io::Result<()> {
        fs::rename(&self.new, &self.file)
    }

    /// Has it stay also when the machine fails.
    pub(crate) fn keep(self) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(data: &Path, app: &str) -> Positions {
        Positions::of(data, &app.into())
    }

    impl Positions {
        fn save(&self, source: &str, bytes: &[u8]) -> io::Result<()> {
            let written = self.write(source, bytes)?;
            written.replace()?;
            written.keep()
        }
    }

    #[test]
    fn a_position_is_what_was_saved_last() {
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
    fn sources_that_save_for_the_first_time_at_once_all_succeed() {
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
            fs::remove_file(shop.mark()).unwrap();
        }
    }

    #[test]
    fn positions_belong_to_the_app_that_saved_them_and_a_renamed_one_takes_them_over() {
        let data = tempfile::tempdir().unwrap();
        let (shop, other) = (
            positions(data.path(), "shop"),
            positions(data.path(), "other"),
        );
        assert_eq!(shop.others().unwrap(), None);
        shop.save("intake", b"17").unwrap();
        assert_eq!(shop.others().unwrap(), None);
        assert_eq!(other.others().unwrap(), Some("shop".into()));
        let error = other.load::<u64>("intake").unwrap_err().to_string();
        assert!(error.contains("those of the app shop"), "{error}");
        let error = other.save("intake", b"3").unwrap_err().to_string();
        assert!(error.contains("name another folder"), "{error}");
        let mark = other.mark().display().to_string();
        assert!(error.contains(&format!("remove {mark} ")), "{error}");
        assert_eq!(shop.load::<u64>("intake").unwrap(), Some(17));
        // What the error says.
        fs::remove_file(mark).unwrap();
        assert_eq!(other.load::<u64>("intake").unwrap(), Some(17));
        other.save("intake", b"18").unwrap();
        assert_eq!(shop.others().unwrap(), Some("other".into()));
    }
}
