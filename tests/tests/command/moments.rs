//! Kills at chosen moments. An app dies exactly before its n-th system call of a kind on a file,
//! for one n after the other. So it dies inside every commit that matters: before and after a
//! store's transaction is on the disk, before the ack, and between the relay's read, publish,
//! confirm and remove. After each death the app starts again and runs to its end: every effect
//! has happened once.
//!
//! `strace` kills the process before the call is made.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brickwork_tests::kept::Queues;
use brickwork_tests::process::Process;
use brickwork_tests::tally::Counts;

const PROGRAM: &str = env!("CARGO_BIN_EXE_puppets");
const PATIENCE: Duration = Duration::from_secs(60);
/// Few lines, so that most calls happen in the middle of a transaction.
const LINES: u64 = 60;

/// A system call on a file.
#[derive(Debug, Clone, Copy)]
struct Spot {
    call: &'static str,
    file: &'static str,
    /// Minimum number of such calls per thread.
    calls: u32,
}

/// The first store: inbox, effect and outbox are committed, and the relay removes confirmed
/// messages. The queue file: messages are published, acked and in flight. The second store: the
/// last effect.
const SPOTS: &[Spot] = &[
    spot("pwrite64", "data/stores/first.sqlite-wal", 80),
    spot("fsync", "data/stores/first.sqlite-wal", 12),
    spot("pwrite64", "data/queues/queues.sqlite-wal", 100),
    spot("fsync", "data/queues/queues.sqlite-wal", 16),
    spot("pwrite64", "data/queues/in-hand-1", 12),
    spot("pwrite64", "data/stores/second.sqlite-wal", 70),
    spot("fsync", "data/stores/second.sqlite-wal", 12),
];

const fn spot(call: &'static str, file: &'static str, calls: u32) -> Spot {
    Spot { call, file, calls }
}

/// Maximum number of moments per spot.
fn moments_max() -> u32 {
    match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => 100,
        None => 6,
    }
}

struct Site(tempfile::TempDir);

impl Site {
    fn new(inbox: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let manifest = format!(
            r#"
            [app]
            name = "moments"
            transport = "embedded:data/queues"
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
            config = {{ passes_on = true, inbox = {inbox} }}
            [services.second]
            use = "tally"
            store = true
            in = "counted"
            instances = 4
            config.inbox = {inbox}
            "#
        );
        let lines: String = (0..LINES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        for (file, text) in [("app.toml", manifest), ("lines.jsonl", lines)] {
            std::fs::write(folder.path().join(file), text).expect("it can be written");
        }
        Self(folder)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Runs the app until a thread is about to make this call for the n-th time. Returns whether
    /// it came to that.
    fn dies(&self, spot: Spot, n: u32) -> bool {
        let file = self.0.path().join(spot.file);
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-o"])
            .arg(self.0.path().join("calls"))
            .arg("-P")
            .arg(file)
            .args(["-e", &format!("trace={}", spot.call)])
            .args(["-e", &format!("inject={}:signal=KILL:when={n}", spot.call)])
            .args([PROGRAM, "run", "app.toml", "--until-idle"])
            .current_dir(self.0.path());
        let mut app = Process::start(strace, self.0.path(), "apt-get install strace");
        // `strace` reports the signal as its own exit.
        match app.exit_code(PATIENCE) {
            None => true,
            Some(0) => false,
            Some(code) => panic!("{spot:?} {n}: exit code {code}: {}", app.stderr()),
        }
    }

    fn ends(&self) {
        let ended = Command::new(PROGRAM)
            .args(["run", "app.toml", "--until-idle", "--fail-on-dlq"])
            .current_dir(self.0.path())
            .stdout(Stdio::null())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{said}");
    }

    fn counts(&self) -> [Counts; 2] {
        ["first", "second"].map(|service| Counts::read(&self.data(), service))
    }

    /// Checks the files after a death: the second service has no message that the first has not
    /// handled, and every effect is accounted for.
    fn check_after_death(&self, at: &str) {
        let [first, second] = self.counts();
        assert!(
            second.numbers <= first.numbers,
            "{at}: {first:?} {second:?}"
        );
        assert_eq!((first.again, second.again), (0, 0), "{at}");
        if let Some(queues) = Queues::open(&self.data().join("queues")) {
            queues.check();
        }
    }

    fn check(&self, at: &str) {
        assert_eq!(
            self.counts(),
            [Counts::once(LINES), Counts::once(LINES)],
            "{at}"
        );
        let queues = Queues::open(&self.data().join("queues")).expect("they are there");
        queues.check();
        assert_eq!((queues.left(), queues.dead_letters().len()), (0, 0), "{at}");
    }
}

#[test]
fn each_effect_happens_once_whenever_the_process_dies() {
    let began = Instant::now();
    let mut said = Vec::new();
    for spot in SPOTS {
        let mut died = 0;
        let step = spot.calls.div_ceil(moments_max()) as usize;
        for n in (1..=spot.calls).step_by(step) {
            let at = format!("{} {} of {}", spot.call, n, spot.file);
            let site = Site::new(true);
            if !site.dies(*spot, n) {
                // No thread makes further calls of this kind.
                site.check(&at);
                break;
            }
            site.check_after_death(&at);
            site.ends();
            site.check(&at);
            died += 1;
        }
        assert!(died >= 2, "{died} deaths at {spot:?}");
        said.push(format!("{} of {}: {died}", spot.call, name(spot.file)));
    }
    println!("{said:?}, in {:?}", began.elapsed());
}

fn name(file: &str) -> &str {
    let name = Path::new(file).file_name().and_then(|name| name.to_str());
    name.expect("it has one")
}

/// Counter-check: without the inbox the test above fails.
#[test]
fn without_their_inboxes_services_repeat_some_effects() {
    /// Maximum moments; a few are enough.
    const MOMENTS_MAX: u32 = 40;
    let spot = spot("pwrite64", "data/queues/queues.sqlite-wal", 180);
    let again = (2..MOMENTS_MAX).find_map(|moment| {
        let site = Site::new(false);
        let died = site.dies(spot, moment * 4);
        assert!(died, "nothing happened twice");
        site.ends();
        let again: u64 = site.counts().iter().map(|counts| counts.again).sum();
        (again > 0).then_some((moment, again))
    });
    let (moment, again) = again.expect("something happens twice");
    println!("at the moment {moment}, {again} were done again");
}
