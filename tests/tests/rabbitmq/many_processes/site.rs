//! A folder with a manifest, the processes that run parts of it, and their output.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;
use tempfile::TempDir;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether slow cases run, too.
pub(super) fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// A folder with a manifest whose parts run in processes.
pub(super) struct Site {
    folder: TempDir,
    pub(super) url: String,
}

/// A process that runs a part.
pub(super) struct Part {
    pub(super) process: Process,
    pub(super) admin: SocketAddr,
}

impl Site {
    pub(super) fn new(url: &str) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder can be made"),
            url: url.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("it can be written");
    }

    pub(super) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }

    /// Returns the command that runs a part of a manifest, with its own data folder and admin
    /// endpoint.
    pub(super) fn command(
        &self,
        within: &[&str],
        part: &str,
        manifest: &str,
        only: &str,
        admin: SocketAddr,
    ) -> Command {
        let own = self.path().join(part);
        std::fs::create_dir_all(&own).expect("a folder can be made");
        let overlay = format!("app.data = \"{part}\"\nadmin.listen = \"{admin}\"\n");
        self.write(&format!("{part}.toml"), &overlay);
        let mut command = match within {
            [] => Command::new(brickwork()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(brickwork());
                command
            }
        };
        command
            .args(["run", manifest, "--with", &format!("{part}.toml")])
            .args(["--transport", &self.url]);
        if !only.is_empty() {
            command.args(["--only", only]);
        }
        command.current_dir(self.path());
        command
    }

    /// Starts a part and waits until it runs.
    pub(super) fn start(&self, part: &str, manifest: &str, only: &str) -> Part {
        self.start_within(&[], free_address(), part, manifest, only)
    }

    /// Does the same with a command prefix that selects the host.
    pub(super) fn start_within(
        &self,
        within: &[&str],
        admin: SocketAddr,
        part: &str,
        manifest: &str,
        only: &str,
    ) -> Part {
        let command = self.command(within, part, manifest, only, admin);
        let process = Process::start(command, &self.path().join(part), "it was just built");
        process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        Part { process, admin }
    }

    /// Runs a part until it is idle.
    pub(super) fn finish(&self, part: &str, manifest: &str, only: &str) {
        let mut command = self.command(&[], part, manifest, only, free_address());
        command.args(["--until-idle", "--fail-on-dlq"]);
        let own = self.path().join(part);
        let mut process = Process::start(command, &own, "it was just built");
        assert_eq!(process.exit_code(2 * PATIENCE), Some(0), "{part}");
    }

    pub(super) fn lines(&self, file: &str) -> Vec<Value> {
        let text = self.read(file);
        // The last line may be incomplete.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let value = |line: &str| serde_json::from_str(line).expect("whole lines of JSON");
        text[..whole].lines().map(value).collect()
    }

    pub(super) fn numbers(&self, file: &str) -> HashSet<u64> {
        let lines = self.lines(file);
        lines.iter().filter_map(|line| line["n"].as_u64()).collect()
    }

    pub(super) fn until_lines(&self, file: &str, count: usize) {
        until("lines are written", PATIENCE, || {
            let written = self.read(file).lines().count();
            (written >= count)
                .then_some(())
                .ok_or_else(|| format!("{written} of {count} in {file}"))
        });
    }
}

impl Part {
    pub(super) fn service(&self, label: &str) -> Value {
        let app = http::get(self.admin, "/api/app").expect("it lives").json();
        let services = app["services"].as_array().expect("services").iter();
        let mut found = services.filter(|row| row["service"] == label);
        found.next().expect("it runs here").clone()
    }

    pub(super) fn handled(&self, label: &str) -> u64 {
        let ok = &self.service(label)["handled"]["ok"];
        ok.as_u64().expect("a count")
    }

    pub(super) fn until_handled(&self, label: &str, wanted: u64, within: Duration) {
        until("it works", within, || match self.handled(label) {
            handled if handled >= wanted => Ok(()),
            handled => Err(format!("{handled} of {wanted}")),
        });
    }

    pub(super) fn kill(self) {
        signal("-KILL", self.process.id());
    }

    /// Stops the process gracefully.
    pub(super) fn stop(mut self) {
        signal("-TERM", self.process.id());
        assert_eq!(self.process.exit_code(PATIENCE), Some(0));
    }
}

pub(super) fn signal(name: &str, process: u32) {
    let mut kill = Command::new("kill");
    let sent = kill.args([name, &process.to_string()]).status();
    assert!(sent.expect("kill runs").success(), "kill {name} {process}");
}

/// Creates an app: numbers from a file through `work` into a file. `work` adds the ids of its
/// input and output to each line.
pub(super) fn numbers(name: &str, url: &str, count: usize, rate: usize) -> Site {
    let site = Site::new(url);
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", rate = {rate} }}
        [services.work]
        use = "map"
        in = "lines"
        out = "worked"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "meta.id" }}
        [services.keep]
        use = "map"
        in = "worked"
        out = "kept"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "msg.first", second = "meta.id" }}
        [services.write]
        use = "file-out"
        in = "kept"
        retry.backoff.min = "100ms"
        config.path = "out.jsonl"
        "#
    );
    site.write("app.toml", &manifest);
    let text: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    site.write("lines.jsonl", &text);
    site
}

/// Checks that no number is missing or unexpected, and that duplicates have the ids of the first
/// line. Returns the number of duplicates.
pub(super) fn check_ids(kept: &[Value], count: usize) -> usize {
    let mut copies: HashMap<u64, Vec<(&str, &str)>> = HashMap::new();
    for line in kept {
        let id = |name: &str| line[name].as_str().expect("an id");
        let ids = (id("first"), id("second"));
        copies
            .entry(line["n"].as_u64().expect("a number"))
            .or_default()
            .push(ids);
    }
    let sent = 0..count as u64;
    let lost: Vec<u64> = sent.clone().filter(|n| !copies.contains_key(n)).collect();
    assert_eq!(lost, Vec::<u64>::new(), "lost");
    assert!(
        copies.keys().all(|n| sent.contains(n)),
        "unexpected numbers"
    );
    for (n, ids) in &copies {
        let different: HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), 1, "{n} under several ids: {different:?}");
    }
    kept.len() - copies.len()
}

impl Part {
    pub(super) fn state(&self, label: &str) -> String {
        let state = &self.service(label)["state"];
        state.as_str().expect("a text").to_owned()
    }

    pub(super) fn until_state(&self, label: &str, wanted: &str, within: Duration) {
        until("the source is as it should be", within, || {
            match self.state(label) {
                state if state == wanted => Ok(()),
                state => Err(format!("{state}, not {wanted}")),
            }
        });
    }

    pub(super) fn emitted(&self, label: &str) -> u64 {
        let emitted = &self.service(label)["outputs"][0]["emitted"];
        emitted.as_u64().expect("a count")
    }

    pub(super) fn until_emitted(&self, label: &str, more_than: u64, within: Duration) {
        until("the source works", within, || match self.emitted(label) {
            emitted if emitted > more_than => Ok(()),
            emitted => Err(format!("{emitted}")),
        });
    }

    pub(super) fn is_ready(&self) -> bool {
        http::get(self.admin, "/health/ready")
            .expect("it lives")
            .code
            == 200
    }
}

/// Waits until every number has been written, each under one id.
pub(super) fn until_all_written(site: &Site, count: usize) {
    until("every number is written", PATIENCE, || {
        let numbers = site.numbers("out.jsonl");
        let all = numbers.len() >= count;
        all.then_some(())
            .ok_or_else(|| format!("{} of {count}", numbers.len()))
    });
}
