//! A backlog of millions on `embedded:` while its consumer is down. It costs disk and not memory,
//! an app that is killed on top of it starts at once, and the backlog is consumed in order, each
//! message once. Afterwards the disk space is free again.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::brickwork;
use brickwork_tests::kept::Queues;
use brickwork_tests::process::{Process, until};

const MIB: u64 = 1024 * 1024;
/// Maximum memory of the process with any backlog.
const MEMORY_MAX: u64 = 80 * MIB;
/// Maximum part of it that a backlog of twice the size may cost.
const GROWTH_MAX: u64 = 6 * MIB;
/// A file with less free space than this is not compacted.
const EMPTY_FILE_MAX: u64 = 6 * MIB;
/// Number of measurements.
const PARTS: u64 = 4;

/// Size of a run.
struct Tier {
    messages: u64,
    /// Maximum time for filling, and for draining.
    patience: Duration,
    /// Maximum time from the start of the process to its first work, if it is measured.
    start_max: Option<Duration>,
}

impl Tier {
    fn now() -> Self {
        match std::env::var_os("BRICKWORK_FULL") {
            Some(_) => Self {
                messages: 5_000_000,
                patience: Duration::from_secs(900),
                start_max: Some(Duration::from_secs(2)),
            },
            None => Self {
                messages: 300_000,
                patience: Duration::from_secs(120),
                start_max: None,
            },
        }
    }
}

struct Site(tempfile::TempDir);

impl Site {
    /// Creates a file with numbers and an app whose sink can't start.
    fn new(messages: u64) -> Self {
        let site = Self(tempfile::tempdir().expect("a folder can be made"));
        let manifest = r#"
            [app]
            name = "backlog"
            transport = "embedded:data/queues"
            [admin]
            listen = "off"
            [services.lines]
            use = "file-in"
            out = "lines"
            config.path = "lines.jsonl"
            [services.keep]
            use = "file-out"
            in = "lines"
            mailbox = 1024
            queue.high_water = 10000000
            config.path = "there/out.jsonl"
        "#;
        std::fs::write(site.path("app.toml"), manifest).expect("it can be written");
        // A file stands where the sink's folder should be.
        std::fs::write(site.path("there"), "").expect("it can be written");
        let lines = File::create(site.path("lines.jsonl")).expect("it can be made");
        let mut lines = BufWriter::new(lines);
        for n in 0..messages {
            writeln!(lines, "{}", line(n)).expect("it can be written");
        }
        lines.flush().expect("it can be written");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts the app and returns the time until it works.
    fn start(&self, life: &str) -> (Process, Duration) {
        let logs = self.path(life);
        std::fs::create_dir(&logs).expect("a folder can be made");
        let mut command = Command::new(brickwork());
        command.args(["run", "app.toml"]).current_dir(self.0.path());
        let began = Instant::now();
        let app = Process::start(command, &logs, "it was just built");
        let patience = Duration::from_secs(60);
        app.line(patience, |line| line.contains("runs:").then_some(()));
        (app, began.elapsed())
    }

    fn sink_can_start(&self) {
        std::fs::remove_file(self.path("there")).expect("it can be removed");
    }

    /// Counts the messages that wait on the disk.
    fn backlog(&self) -> u64 {
        let queues = Queues::open(&self.path("data/queues"));
        queues.map_or(0, |queues| {
            let sum = "SELECT coalesce(sum(messages), 0) FROM queue";
            queues.count(sum) as u64
        })
    }

    fn file_size(&self) -> u64 {
        let file = self.path("data/queues/queues.sqlite");
        std::fs::metadata(file).expect("it is there").len()
    }

    /// Waits for each part of the backlog and measures the app's memory there.
    fn watch(&self, what: &str, app: &Process, tier: &Tier, way: impl Fn(u64) -> u64) -> Watched {
        let began = Instant::now();
        let memory = (1..=PARTS).map(|part| {
            let wanted = tier.messages * part / PARTS;
            until(what, tier.patience, || match way(self.backlog()) {
                gone if gone >= wanted => Ok(()),
                gone => Err(format!("{gone} of {wanted}: {}", app.stderr())),
            });
            memory_now(app)
        });
        Watched {
            memory: memory.collect(),
            memory_max: memory_max(app),
            took: began.elapsed(),
        }
    }

    /// Checks that the sink's file has every number once, in order.
    fn check(&self, messages: u64) {
        let out = File::open(self.path("there/out.jsonl")).expect("it is there");
        let mut seen = 0;
        for (n, kept) in BufReader::new(out).lines().enumerate() {
            assert_eq!(kept.expect("it can be read"), line(n as u64), "line {n}");
            seen += 1;
        }
        assert_eq!(seen, messages);
    }
}

fn line(n: u64) -> String {
    format!("{{\"n\":{n}}}")
}

/// Measurements of a run.
struct Watched {
    memory: Vec<u64>,
    memory_max: u64,
    took: Duration,
}

impl Watched {
    /// Peaks count, too. In the first half the caches of SQLite and of the allocator fill.
    fn check(&self) {
        let (half, last) = (
            self.memory[self.memory.len() / 2 - 1],
            self.memory[self.memory.len() - 1],
        );
        assert!(
            self.memory_max <= MEMORY_MAX,
            "{} MiB",
            self.memory_max / MIB
        );
        let grown = last.saturating_sub(half);
        assert!(grown <= GROWTH_MAX, "{grown} bytes more: {:?}", self.memory);
    }

    fn say(&self, messages: u64) -> String {
        let memory: Vec<u64> = self.memory.iter().map(|bytes| bytes / MIB).collect();
        format!(
            "{:.0} a second, {memory:?} MiB, {} at most",
            messages as f64 / self.took.as_secs_f64(),
            self.memory_max / MIB
        )
    }
}

fn memory_now(app: &Process) -> u64 {
    status(app, "VmRSS:")
}

fn memory_max(app: &Process) -> u64 {
    status(app, "VmHWM:")
}

fn status(app: &Process, field: &str) -> u64 {
    let file = Path::new("/proc").join(app.id().to_string()).join("status");
    let text = std::fs::read_to_string(file).expect("it lives");
    let found = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = found.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a number");
    kib * 1024
}

#[test]
fn a_backlog_costs_disk_and_not_memory_and_is_consumed_in_order() {
    let tier = Tier::now();
    let site = Site::new(tier.messages);
    // Builds the binary before the clock starts.
    brickwork();

    let (app, _) = site.start("fills");
    let filled = site.watch("the backlog grows", &app, &tier, |backlog| backlog);
    // Once the position is saved, the source will not send these lines again.
    until("its position is saved", tier.patience, || {
        let ended = app.stderr().contains("source has ended");
        ended.then_some(()).ok_or_else(|| app.stderr())
    });
    // Kills the app.
    app.stop();
    assert_eq!(site.backlog(), tier.messages);
    let full = site.file_size();

    site.sink_can_start();
    let (mut app, start) = site.start("drains");
    let all = tier.messages;
    let drained = site.watch("it is worked off", &app, &tier, |backlog| all - backlog);
    let began = Instant::now();
    until("the file shrinks", tier.patience, || {
        match site.file_size() {
            size if size <= EMPTY_FILE_MAX => Ok(()),
            size => Err(format!("{size} bytes")),
        }
    });
    let shrunk = began.elapsed();
    let told = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    assert_eq!(app.exit_code(tier.patience), Some(0), "{}", app.stderr());

    println!(
        "{all} messages; filled: {}; {} MiB on the disk; there again after {start:?}; drained: \
         {}; {} KiB on the disk {shrunk:?} later",
        filled.say(all),
        full / MIB,
        drained.say(all),
        site.file_size() / 1024,
    );
    site.check(tier.messages);
    let queues = Queues::open(&site.path("data/queues")).expect("they are there");
    queues.check();
    assert_eq!(queues.dead_letters().len(), 0);
    filled.check();
    drained.check();
    // Each message takes at least its envelope and some bytes.
    assert!(full >= tier.messages * 100, "{full} bytes");
    if let Some(max) = tier.start_max {
        assert!(start <= max, "{start:?}");
    }
}

/// A steady flow of small messages runs beside the backlog.
#[test]
fn disk_space_is_freed_also_under_a_steady_flow() {
    const MESSAGES: u64 = 100_000;
    let tier = Tier {
        messages: MESSAGES,
        ..Tier::now()
    };
    let site = Site::new(MESSAGES);
    brickwork();
    let (app, _) = site.start("fills");
    site.watch("the backlog grows", &app, &tier, |backlog| backlog);
    until("its position is saved", tier.patience, || {
        let ended = app.stderr().contains("source has ended");
        ended.then_some(()).ok_or_else(|| app.stderr())
    });
    app.stop();
    let full = site.file_size();
    assert!(full > 2 * EMPTY_FILE_MAX, "{full} bytes");

    let beats = r#"
        [services.beats]
        use = "file-in"
        out = "beats"
        config = { path = "beats.jsonl", rate = 20, repeat = 1000 }
        [services.heard]
        use = "file-out"
        in = "beats"
        config.path = "heard.jsonl"
    "#;
    let manifest = std::fs::read_to_string(site.path("app.toml")).expect("it can be read");
    std::fs::write(site.path("app.toml"), manifest + beats).expect("it can be written");
    std::fs::write(site.path("beats.jsonl"), "{}\n".repeat(100)).expect("it can be written");
    site.sink_can_start();
    let (app, _) = site.start("drains");
    let heard = || std::fs::read_to_string(site.path("heard.jsonl")).map_or(0, |text| text.len());
    until("the file shrinks", tier.patience, || {
        match site.file_size() {
            size if size <= EMPTY_FILE_MAX => Ok(()),
            size => Err(format!("{size} bytes: {}", app.stderr())),
        }
    });
    let at_once = heard();
    until("it goes on", tier.patience, || {
        let more = heard() > at_once;
        more.then_some(()).ok_or_else(|| app.stderr())
    });
    app.stop();
    site.check(MESSAGES);
}
