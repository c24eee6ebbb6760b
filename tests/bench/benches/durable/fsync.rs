//! The speed of the disk: one small write and its `fdatasync`, one after the other.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use brickwork_bench::rounds::median;

const WRITES: u32 = 2_000;

/// Returns microseconds per write, as the median of five runs.
pub(crate) fn microseconds() -> f64 {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let path = folder.path().join("log");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .open(path)
                .expect("a file");
            let began = Instant::now();
            for _ in 0..WRITES {
                file.write_all(&[7; 4096]).expect("it writes");
                file.sync_data().expect("it syncs");
            }
            began.elapsed().as_secs_f64() / f64::from(WRITES) * 1e6
        })
        .collect();
    median(&mut rounds)
}

pub(crate) fn run() {
    println!("4 KiB appended and fdatasync: {:.0} µs\n", microseconds());
}
