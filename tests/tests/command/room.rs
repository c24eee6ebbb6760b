//! A disk that is full for a while under load: no confirmed message is lost, the app reports the
//! problem, and resumes by itself.
//!
//! The test mounts a small disk in memory, which needs root.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brickwork_tests::checker::Kept;
use brickwork_tests::disk::Disk;
use brickwork_tests::http;
use brickwork_tests::kept::Queues;
use brickwork_tests::parts::{self, LINES};
use brickwork_tests::process::{Process, free_address, until};

const PATIENCE: Duration = Duration::from_secs(120);

/// An app whose queues are on the small disk.
struct App {
    process: Process,
    admin: SocketAddr,
    door: SocketAddr,
    folder: tempfile::TempDir,
    lines: u64,
}

impl App {
    fn start(disk: &Disk, lines: u64, bytes: usize, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (admin, door) = (free_address(), free_address());
        let queues = disk.path().join("queues");
        let manifest = format!(
            r#"
            [app]
            name = "room"
            transport = "embedded:{}"
            [admin]
            listen = "{admin}"
            {LINES}
            [services.marked]
            use = "map"
            in = "lines"
            out = "marked"
            retry.backoff.min = "100ms"
            config.to = {{ n = "msg.n", v = "msg.v", id = "meta.id" }}
            [services.keep]
            use = "file-out"
            in = "marked"
            config.path = "out.jsonl"
            {}
            {}
            "#,
            queues.display(),
            parts::door(door),
            more.concat()
        );
        let text = (0..lines).map(|n| format!("{{\"n\":{n},\"v\":\"{n:0>bytes$}\"}}"));
        parts::write(folder.path(), &manifest, text);
        let arguments = ["--until-idle", "--fail-on-dlq"];
        let process = parts::run(folder.path(), folder.path(), &arguments);
        Self {
            process,
            admin,
            door,
            folder,
            lines,
        }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    fn written(&self) -> usize {
        let text = std::fs::read(self.out()).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    fn until_written(&self, count: usize) {
        until("lines are written", PATIENCE, || match self.written() {
            written if written >= count => Ok(()),
            written => Err(format!("{written} of {count}: {}", self.process.stderr())),
        });
    }

    fn until_ready_says(&self, ready: bool, what: &str) {
        until(what, PATIENCE, || {
            let answer = http::get(self.admin, "/health/ready");
            let answer = answer.map_err(|error| error.to_string())?;
            match (answer.code == 200) == ready && answer.body.contains(what) {
                true => Ok(()),
                false => Err(answer.body),
            }
        });
    }

    fn post(&self, number: u64) -> u16 {
        self.post_more(number, 0)
    }

    /// Posts a number with a padding of `bytes`.
    fn post_more(&self, number: u64, bytes: usize) -> u16 {
        let body = format!("{{\"n\":{number},\"v\":\"{}\"}}", "0".repeat(bytes));
        let json = [("Content-Type", "application/json")];
        let answer = http::post(self.door, "/", &json, body.as_bytes());
        answer.expect("the app answers").code
    }

    /// Waits for the end and checks that each of these files has every accepted number.
    fn finish(mut self, accepted: &[u64], queues: &Path, outs: &[&str]) {
        let code = self.process.exit_code(PATIENCE);
        assert_eq!(code, Some(0), "{}", self.process.stderr());
        for out in outs {
            let kept = Kept::read(&self.folder.path().join(out));
            assert_eq!(kept.missing(0..self.lines), Vec::<u64>::new(), "lost");
            assert_eq!(kept.unexpected(&(0..self.lines)), Vec::<u64>::new());
        }
        let kept = Kept::read(&self.out());
        let posted = Kept::read(&self.folder.path().join("posted.jsonl"));
        let lost = accepted.iter().filter(|number| !posted.has(**number));
        assert_eq!(lost.count(), 0, "accepted at the door and lost");
        let queues = Queues::open(queues).expect("they are there");
        queues.check();
        assert_eq!(queues.left(), 0);
        let log = self.process.stderr();
        let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        let again = kept.again(&["id"]);
        println!(
            "{} lines, {again} again; down {} times; {} lines of complaint",
            self.lines,
            said("refusing messages until they can be written"),
            said(" WARN ") + said(" ERROR "),
        );
        assert_eq!(said("given up") + said("isolated"), 0, "{log}");
    }
}

/// Runs these tests one at a time: each needs the whole machine and free addresses.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_full_disk_costs_no_message() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = Disk::mount(64) else { return };
    let app = App::start(&disk, 30_000, 1_000, &[]);
    app.until_written(2_000);
    assert_eq!(app.post(0), 202);
    let neighbour = disk.keep_full();
    app.until_ready_says(false, "there is no room");
    app.until_ready_says(false, "queues.sqlite");
    assert_eq!(app.post(1), 503);
    // The disk stays full for several attempts. The space of the reserve file is taken, too.
    let before = app.written();
    std::thread::sleep(Duration::from_secs(2));
    app.until_ready_says(false, "there is no room");
    drop(neighbour);
    app.until_ready_says(true, "");
    // The message that filled the disk may be redelivered at once.
    until("it is accepted", PATIENCE, || match app.post(2) {
        202 => Ok(()),
        code => Err(code.to_string()),
    });
    app.until_written(before + 1_000);
    app.finish(&[0, 2], &disk.path().join("queues"), &["out.jsonl"]);
}

/// A service slower than its source: its backlog fills the disk.
const SLOW: &str = r#"
    [services.slow]
    use = "chaos"
    in = "lines"
    out = "slow"
    instances = 16
    mailbox = 64
    handler_timeout = "10s"
    config = { stall = 1.0, for = "20ms" }
"#;
/// No service reads its output.
const SINK: &str = r#"
    [topics.slow]
    external = "out"
"#;
/// Another service reads its output: it must publish as much as it consumes.
const CHAIN: &str = r#"
    [services.slowly]
    use = "file-out"
    in = "slow"
    config.path = "slow.jsonl"
"#;

#[test]
fn a_backlog_that_fills_the_disk_is_consumed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = Disk::mount(32) else { return };
    let app = App::start(&disk, 20_000, 1_000, &[SLOW, SINK]);
    app.until_ready_says(false, "there is no room");
    app.finish(&[], &disk.path().join("queues"), &["out.jsonl"]);
}

/// Services need disk space to publish while the disk is full; sources must not take it.
#[test]
fn large_messages_that_fill_the_disk_are_consumed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = Disk::mount(32) else { return };
    let app = App::start(&disk, 700, 48_000, &[SLOW, CHAIN]);
    app.until_ready_says(false, "there is no room");
    app.finish(
        &[],
        &disk.path().join("queues"),
        &["out.jsonl", "slow.jsonl"],
    );
}

/// Messages that circulate for ever: the services always publish.
const RING: &str = r#"
    [services.tokens]
    use = "file-in"
    out = "ring"
    config.path = "lines.jsonl"
    [services.round]
    use = "map"
    in = "ring"
    out = "ring"
    retry.backoff.min = "100ms"
    config.to = { n = "msg.n" }
"#;

#[test]
fn sources_resume_when_space_is_free_though_services_publish_without_a_pause() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = Disk::mount(64) else { return };
    let app = App::start(&disk, 1_000, 100, &[RING]);
    app.until_written(1_000);
    assert_eq!(app.post(0), 202);
    let neighbour = disk.keep_full();
    // Circulating messages may need no further space.
    until("it is refused", PATIENCE, || {
        match app.post_more(0, 256 * 1024) {
            503 => Ok(()),
            code => Err(code.to_string()),
        }
    });
    app.until_ready_says(false, "there is no room");
    drop(neighbour);
    app.until_ready_says(true, "");
    until("it is accepted", PATIENCE, || match app.post(1) {
        202 => Ok(()),
        code => Err(code.to_string()),
    });
}
