//! A small disk in memory, mounted by a test: for root alone.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// A small disk; gone when this is dropped.
#[derive(Debug)]
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and says so, where it can't be mounted.
    ///
    /// # Panics
    /// Not even a folder can be made.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        // Past the harness, which hides what tests that pass print.
        let text = "SKIPPED: no disk can be mounted, which needs root: full disks are not tested";
        let _unseen = writeln!(std::io::stderr(), "{text}");
        None
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last byte, with the file that is returned.
    ///
    /// # Panics
    /// No file can be made.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).expect("a file can be made");
        for size in [1 << 20, 1 << 12, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        path
    }

    /// Fills it, and takes whatever becomes free there as well, until what is returned is
    /// dropped: then all of that is free.
    pub fn keep_full(&self) -> Neighbour {
        let path = self.fill();
        let over = Arc::new(AtomicBool::new(false));
        let (its_path, its_over) = (path.clone(), over.clone());
        let greedy = std::thread::spawn(move || {
            let file = File::options().append(true).open(its_path);
            let mut file = file.expect("it was made");
            while !its_over.load(Relaxed) {
                if file.write(&[0; 4096]).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Neighbour {
            path,
            over,
            greedy: Some(greedy),
        }
    }

    /// Forbids writing, or allows it again.
    ///
    /// # Panics
    /// It can't be mounted again.
    pub fn read_only(&self, is: bool) {
        let how = if is { "remount,ro" } else { "remount,rw" };
        let again = Command::new("mount")
            .args(["-o", how])
            .arg(self.path())
            .status();
        assert!(again.is_ok_and(|status| status.success()), "{how}");
    }
}

/// Somebody who takes all the room there is.
#[derive(Debug)]
pub struct Neighbour {
    path: PathBuf,
    over: Arc<AtomicBool>,
    greedy: Option<JoinHandle<()>>,
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(greedy) = self.greedy.take() {
            greedy.join().expect("it only writes");
        }
        std::fs::remove_file(&self.path).expect("it can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also if somebody still uses it.
        let gone = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(gone.is_ok_and(|status| status.success()), "still mounted");
    }
}
