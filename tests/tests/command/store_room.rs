//! A full disk under the stores: no message is lost or handled twice, and the outboxes resume by
//! themselves.
//!
//! The test mounts a small disk in memory, which needs root.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brickwork_tests::disk::Disk;
use brickwork_tests::process::{Process, until};
use brickwork_tests::tally::Counts;

const PATIENCE: Duration = Duration::from_secs(120);
const LINES: u64 = 20_000;

/// Starts two services with a store, of which the first feeds the second.
fn tallied(folder: &Path, data: &Path, queues: &Path) -> Process {
    let manifest = format!(
        r#"
        [app]
        name = "store-room"
        transport = "embedded:{}"
        data = "{}"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.first]
        use = "tally"
        store = true
        in = "lines"
        out = "counted"
        instances = 4
        config = {{ passes_on = true, inbox = true }}
        [services.second]
        use = "tally"
        store = true
        in = "counted"
        instances = 4
        config.inbox = true
        "#,
        queues.display(),
        data.display(),
    );
    let lines: String = (0..LINES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    for (file, text) in [("app.toml", manifest), ("lines.jsonl", lines)] {
        std::fs::write(folder.join(file), text).expect("it can be written");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command
        .args(["run", "app.toml", "--until-idle", "--fail-on-dlq"])
        .current_dir(folder)
        .stdout(Stdio::null());
    Process::start(command, folder, "it was just built")
}

fn a_full_disk_for_a_while(queues_too: bool) {
    let Some(disk) = Disk::mount(64) else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let queues_in = match queues_too {
        true => disk.path(),
        false => folder.path(),
    };
    let queues = queues_in.join("queues");
    // Sources keep their positions beside the stores, but not on that disk.
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder can be made");
    symlink(disk.path(), data.join("stores")).expect("it can be linked to");
    let mut process = tallied(folder.path(), &data, &queues);
    let log = data.join("stores/second.sqlite-wal");
    until("the second one writes", PATIENCE, || {
        let written = std::fs::metadata(&log).map_or(0, |log| log.len());
        let said = || format!("{written} bytes: {}", process.stderr());
        (written > 100_000).then_some(()).ok_or_else(said)
    });
    let neighbour = disk.keep_full();
    until("it is said", PATIENCE, || {
        let said = process.stderr();
        let full = said.contains("there is no room");
        full.then_some(()).ok_or(said)
    });
    // The disk stays full for several attempts.
    std::thread::sleep(Duration::from_secs(3));
    drop(neighbour);
    let code = process.exit_code(PATIENCE);
    assert_eq!(code, Some(0), "{}", process.stderr());
    for service in ["first", "second"] {
        assert_eq!(
            Counts::read(&data, service),
            Counts::once(LINES),
            "{service}"
        );
    }
}

#[test]
fn a_full_disk_under_the_stores_alone_costs_no_message_and_no_second_effect() {
    a_full_disk_for_a_while(false);
}

#[test]
fn a_full_disk_under_stores_and_queues_costs_no_message_and_no_second_effect() {
    a_full_disk_for_a_while(true);
}
