//! A small disk in memory that a test mounts; needs root.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// A small disk. Dropping it unmounts it.
#[derive(Debug)]
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a disk, or returns `None` and prints a note if mounting isn't allowed.
    ///
    /// # Panics
    /// If the folder for it can't be made.
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
        // Written to stderr directly: the harness hides the output of tests that pass.
        let text = "SKIPPED: no disk can be mounted, which needs root: full disks are not tested";
        let _unseen = writeln!(std::io::stderr(), "{text}");
        None
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk to the last byte and returns the file that fills it.
    ///
    /// # Panics
    /// If no file can be made.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).expect("a file can be made");
        for size in [1 << 20, 1 << 12, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        path
    }

    /// Fills the disk, and also takes space that becomes free, until the returned guard is
    /// dropped; then all of it is free.
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

    /// Makes the disk read-only, or writable again.
    ///
    /// # Panics
    /// If the disk can't be mounted again.
    pub fn read_only(&self, is: bool) {
        let how = if is { "remount,ro" } else { "remount,rw" };
        let again = Command::new("mount")
            .args(["-o", how])
            .arg(self.path())
            .status();
        assert!(again.is_ok_and(|status| status.success()), "{how}");
    }
}

/// A thread that takes all free space of a disk.
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
        // Unmounts even if a process still uses the disk.
        let gone = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(gone.is_ok_and(|status| status.success()), "still mounted");
    }
}
