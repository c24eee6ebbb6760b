//! `examples/6-saas-sync` in a folder of its own, beside its outside world, on ports of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork::sqlite::rusqlite::{Connection, OpenFlags};
use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::http;
use brickwork_tests::process::{Process, until};
use serde_json::Value;
use tempfile::TempDir;

/// Time limit for an event that must happen, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Size of a run: `BRICKWORK_FULL=1` takes ten minutes.
pub(super) struct Tier {
    pub(super) seconds: u64,
    pub(super) events: u64,
    pub(super) kills: u32,
}

impl Tier {
    pub(super) fn now() -> Self {
        let (seconds, events, kills) = match std::env::var_os("BRICKWORK_FULL") {
            Some(_) => (600, 18_000, 3),
            None => (24, 900, 1),
        };
        Self {
            seconds,
            events,
            kills,
        }
    }
}

/// The example, its world, and the folder of both.
pub(super) struct Site {
    folder: TempDir,
    /// All ports of the example without their last digit.
    ports: u16,
    world: Process,
}

/// A row of the example's database.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: String,
    /// Milliseconds from the event to its row.
    pub(super) delay: i64,
}

impl Site {
    /// Starts the world of this run; the app is started by [`app`](Self::app).
    pub(super) fn new(tier: &Tier) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/6-saas-sync");
        for entry in std::fs::read_dir(&example).expect("the example is there") {
            let file = entry.expect("it can be read").path();
            if file
                .extension()
                .is_some_and(|it| it == "toml" || it == "json")
            {
                let name = file.file_name().expect("a file has a name");
                std::fs::copy(&file, folder.path().join(name)).expect("it can be copied");
            }
        }
        let ports = free_ports();
        let admin = format!("[admin]\nlisten = \"127.0.0.1:{ports}7\"\n");
        std::fs::write(folder.path().join("test.toml"), admin).expect("it can be written");
        let mut command = Command::new("node");
        command
            .arg(example.join("world.js"))
            .args(["--seconds", &tier.seconds.to_string()])
            .args(["--events", &tier.events.to_string()])
            .env("WORLD", ports.to_string());
        let world = Process::start(command, folder.path(), "tests/run installs Node");
        world.line(PATIENCE, |line| line.starts_with("ready").then_some(()));
        Self {
            folder,
            ports,
            world,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(brickwork());
        command
            .args(verb)
            .args(["app.toml", "--with", "test.toml"])
            .env("WORLD", self.ports.to_string())
            .env("MAIL_PORT", format!("{}4", self.ports))
            .current_dir(self.path());
        command
    }

    /// Starts the app and waits until it runs.
    pub(super) fn app(&self) -> Process {
        let app = Process::start(self.command(&["run"]), self.path(), "it was just built");
        app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        app
    }

    /// Waits until the world has sent all events.
    pub(super) fn all_sent(&self, tier: &Tier) {
        let within = Duration::from_secs(tier.seconds) + PATIENCE;
        self.world
            .line(within, |line| (line == "all sent").then_some(()));
        let events = tier.events;
        until("every webhook is accepted", PATIENCE, || {
            let sent = self.world("/summary")["sent"].as_u64();
            (sent >= Some(events))
                .then_some(())
                .ok_or(format!("{sent:?}"))
        });
    }

    /// Returns a view of the world.
    pub(super) fn world(&self, view: &str) -> Value {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports * 10));
        let answer = http::get(address, view).expect("the world answers");
        assert_eq!(answer.code, 200, "{view}: {}", answer.body);
        let start = answer.body.find(['[', '{']).expect("JSON");
        serde_json::from_str(&answer.body[start..]).expect("JSON")
    }

    /// Returns the metrics of the app.
    pub(super) fn metrics(&self) -> String {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports * 10 + 7));
        http::get(address, "/metrics")
            .expect("the app answers")
            .body
    }

    /// Returns the rows of the database; none before it exists.
    pub(super) fn rows(&self) -> Vec<Row> {
        let file = self.path().join("out/events.sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(database) = Connection::open_with_flags(file, flags) else {
            return Vec::new();
        };
        let sql = "SELECT id, sent, stored FROM events";
        let Ok(mut select) = database.prepare(sql) else {
            return Vec::new();
        };
        let rows = select.query_map([], |row| {
            let (sent, stored): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(Row {
                id: row.get(0)?,
                delay: stored - sent,
            })
        });
        let rows = rows.expect("it can be read");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    /// Returns the ids of a file of the app, with the number of their lines.
    pub(super) fn ids(&self, file: &str) -> BTreeMap<String, usize> {
        let text = std::fs::read_to_string(self.path().join(file)).unwrap_or_default();
        let mut ids = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line is JSON");
            let id = line["id"].as_str().expect("an id").to_owned();
            *ids.entry(id).or_default() += 1;
        }
        ids
    }

    /// Returns the services with dead letters, once the app has stopped.
    pub(super) fn dead_letters(&self) -> Vec<String> {
        let output = self.command(&["dlq", "list"]).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let table = String::from_utf8_lossy(&output.stdout);
        let rows = table.lines().skip(1);
        let count = |row: &str| row.split_whitespace().nth(1).map(str::to_owned);
        rows.filter(|row| count(row).as_deref() != Some("0"))
            .map(str::to_owned)
            .collect()
    }
}

/// Returns ten free ports, without their last digit.
fn free_ports() -> u16 {
    let mut random = fastrand::Rng::new();
    for _ in 0..1000 {
        // Below the ports that the system gives to others.
        let ports = random.u16(1100..3200);
        let free = |digit| TcpListener::bind((Ipv4Addr::LOCALHOST, ports * 10 + digit)).is_ok();
        if (0..10).all(free) {
            return ports;
        }
    }
    panic!("there are no free ports")
}
