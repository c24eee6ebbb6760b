//! The folder of an `embedded:` transport under `check --connect` and `prune`: their reports are
//! right, a check changes nothing, and a prune removes nothing that is still used.

use brickwork_tests::binary::brickwork;
use brickwork_tests::disk::Disk;
use brickwork_tests::kept::Queues;
use brickwork_tests::process::Process;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

mod problems;
mod stranded;

const PATIENCE: Duration = Duration::from_secs(60);

/// More messages than one step of a prune removes.
const LINES: usize = 2_500;

/// Page size in bytes.
const PAGE: usize = 4096;

/// Returns the common part of all manifests here: a source of numbers and a sink.
fn manifest(name: &str, more: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "embedded:queues"
        [admin]
        listen = "off"
        [services.numbers]
        use = "file-in"
        out = "numbers"
        config.path = "numbers.jsonl"
        [services.keep]
        use = "file-out"
        in = "numbers"
        config.path = "out.jsonl"
        {more}
        "#
    )
}

/// A service that the next manifest no longer has. All its messages become dead letters.
const OLD: &str = r#"
    [topics."through"]
    external = "both"
    [services.old]
    use = "chaos"
    in = "numbers"
    out = "through"
    retry.attempts = 1
    breaker = "off"
    config.fail = 1.0
"#;

/// An HTTP input without requests, which keeps the app running.
const DOOR: &str = r#"
    [services.door]
    use = "http-in"
    out = "numbers"
    config = { listen = "127.0.0.1:0", path = "/" }
"#;

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().expect("a folder can be made"));
        let lines = (0..LINES).map(|n| format!("{{\"n\":{n},\"v\":\"{n:0>2000}\"}}\n"));
        site.write("numbers.jsonl", &lines.collect::<String>());
        site.write("v1.toml", &manifest("shop", OLD));
        site.write("v2.toml", &manifest("shop", ""));
        site
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn queues(&self) -> PathBuf {
        self.path().join("queues")
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("it can be written");
    }

    fn command(&self, verb: &str, manifest: &str, more: &[&str]) -> Command {
        let mut command = Command::new(brickwork());
        command
            .args([verb, manifest])
            .args(more)
            .current_dir(self.path());
        command
    }

    fn output(&self, verb: &str, manifest: &str, more: &[&str]) -> Output {
        let mut command = self.command(verb, manifest, more);
        command.output().expect("it runs")
    }

    /// Runs a manifest until it is idle.
    fn run(&self, manifest: &str) {
        let output = self.output("run", manifest, &["--until-idle"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Starts a manifest and waits until it works.
    fn start(&self, manifest: &str) -> Process {
        let command = self.command("run", manifest, &[]);
        let process = Process::start(command, self.path(), "it was just built");
        process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        process
    }

    /// Returns the transport section of `check --connect`, and the exit code.
    fn look(&self, manifest: &str, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.output(
            "check",
            manifest,
            &[&["--connect", "--json"], more].concat(),
        );
        (output.status.code(), json(&output)["transport"].take())
    }

    fn leftovers(&self, manifest: &str) -> Vec<(String, u64, String)> {
        let (code, transport) = self.look(manifest, &[]);
        assert_eq!(code, Some(0), "stale resources are no problem");
        left(&transport["leftovers"])
    }

    /// Returns the findings of `prune`. With `--yes` in `more`, prune also removes them.
    fn prune(&self, manifest: &str, more: &[&str]) -> Vec<(String, u64, String)> {
        let output = self.output("prune", manifest, &[&["--json"], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        left(&json(&output)["leftovers"])
    }

    /// Returns every file in the folder of the queues.
    fn files(&self) -> BTreeMap<OsString, Vec<u8>> {
        let files = std::fs::read_dir(self.queues()).expect("there is a folder");
        let files = files.map(|file| file.expect("a file"));
        files
            .map(|file| (file.file_name(), std::fs::read(file.path()).expect("bytes")))
            .collect()
    }

    fn bytes(&self) -> u64 {
        let file = std::fs::metadata(self.queues().join("queues.sqlite"));
        file.expect("there is a file").len()
    }

    /// Checks that the file is intact.
    fn kept(&self) -> Queues {
        let kept = Queues::open(&self.queues()).expect("there are queues");
        kept.check();
        kept
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

/// Returns the stale resources: name, number of messages, planned action.
fn left(list: &Value) -> Vec<(String, u64, String)> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list}")).iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let left = list.map(|one| {
        assert_eq!(
            one.get("consumers"),
            None,
            "no running app answers for them"
        );
        let messages = one["messages"].as_u64().expect("a number");
        (text(&one["what"]), messages, text(&one["fate"]))
    });
    left.collect()
}

fn of(what: &str, messages: usize, fate: &str) -> (String, u64, String) {
    (what.to_owned(), messages as u64, fate.to_owned())
}

#[test]
fn a_folder_is_described_in_every_state_and_stays_unchanged() {
    let site = Site::new();
    site.write("on.toml", &manifest("shop", &format!("{OLD}{DOOR}")));
    let queues = serde_json::json!([
        "queue keep.dlq",
        "queue old.dlq",
        "queue keep.in",
        "queue old.in"
    ]);
    let none = serde_json::json!([]);

    // Before the first run.
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    assert_eq!(transport["product"], "SQLite");
    assert_eq!(transport["missing"], queues);
    assert_eq!(transport["there"], none);
    assert_eq!(transport["problems"], none);
    assert!(
        transport["notes"]
            .to_string()
            .contains("the app makes it when it starts")
    );
    assert!(!site.queues().exists(), "nothing was made");

    // After a graceful stop.
    site.run("v1.toml");
    let before = site.files();
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    assert_eq!(transport["there"], queues);
    assert_eq!(transport["missing"], none);
    let notes = transport["notes"].to_string();
    assert!(
        notes.contains(&format!("queue old.dlq: {LINES} ready")),
        "{notes}"
    );
    let size = format!(
        "queues.sqlite has {:.1} MiB",
        site.bytes() as f64 / 1_048_576.0
    );
    assert!(notes.contains(&size), "{size}: {notes}");
    let text = said(&site.output("check", "v1.toml", &["--connect"]));
    assert!(text.contains(": SQLite 3."), "{text}");
    assert!(
        text.contains("4 queues are there as they must be"),
        "{text}"
    );
    assert!(site.files() == before, "the files are unchanged");

    // While the app runs.
    let app = site.start("on.toml");
    let (code, transport) = site.look("on.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    let notes = transport["notes"].to_string();
    let user = format!("process {} (the app shop) uses the queues", app.id());
    assert!(notes.contains(&user), "{notes}");
    assert!(
        notes.contains(&format!("queue old.dlq: {LINES} ready")),
        "{notes}"
    );

    // After a kill; delayed and suspect messages are counted, too.
    app.stop();
    let some = "INSERT INTO suspect SELECT (SELECT number FROM queue WHERE service = 'keep'
                    AND input = 'in') * (1 << 40) + 1, 1, 2, 0, '', x'', 0;
                INSERT INTO delayed SELECT 1, 9e12, number, 1, 1, 0, '', x'', 0 FROM queue
                    WHERE service = 'keep' AND input = 'in';
                UPDATE queue SET delayed = 1, retrying = 1 WHERE service = 'keep'
                    AND input = 'in';";
    Queues::vandalise(&site.queues(), some);
    let before = site.files();
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    let notes = transport["notes"].to_string();
    assert!(!notes.contains("process"), "{notes}");
    let waiting = "queue keep.in: 1 delayed, 1 suspects";
    assert!(notes.contains(waiting), "{notes}");
    assert!(site.files() == before, "the files are unchanged");
}

#[test]
fn prune_removes_stale_queues_when_told_to_and_frees_their_space() {
    let site = Site::new();
    site.run("v1.toml");
    assert_eq!(site.leftovers("v1.toml"), []);
    let before = site.files();
    let found = [
        of("queue old.dlq", LINES, "kept"),
        of("queue old.in", 0, "removable"),
    ];
    assert_eq!(site.leftovers("v2.toml"), found);
    assert_eq!(site.prune("v2.toml", &[]), found);
    let text = said(&site.output("prune", "v2.toml", &["--with-messages"]));
    assert!(
        text.contains("queue old.dlq (2500 messages): would be removed"),
        "{text}"
    );
    assert!(site.files() == before, "the files are unchanged");

    let removed = of("queue old.in", 0, "removed");
    let kept = of("queue old.dlq", LINES, "kept");
    assert_eq!(site.prune("v2.toml", &["--yes"]), [kept.clone(), removed]);
    assert_eq!(site.leftovers("v2.toml"), [kept]);
    assert_eq!(site.kept().dead_letters().len(), LINES);

    // Delayed and suspect messages are removed with their queue.
    let some = "INSERT INTO suspect SELECT number * (1 << 40) + 9000, 1, 2, 0, '', x'', 0
                    FROM queue WHERE service = 'old' UNION ALL
                SELECT number * (1 << 40) + 9000, 1, 2, 0, '', x'', 0
                    FROM queue WHERE service = 'keep' AND input = 'in';
                INSERT INTO damaged SELECT 'suspect ' || id, 'a test', 0 FROM suspect;
                INSERT INTO delayed SELECT number, 9e12, number, 0, 1, 0, '', x'', 0 FROM queue;
                UPDATE queue SET delayed = 1;";
    Queues::vandalise(&site.queues(), some);
    let size = site.bytes();
    let all = ["--yes", "--with-messages"];
    let removed = of("queue old.dlq", LINES + 2, "removed");
    assert_eq!(site.prune("v2.toml", &all), [removed]);
    assert_eq!(site.prune("v2.toml", &all), []);
    let left = site.bytes();
    assert!(left * 4 < size, "of {size} bytes {left} are left");
    // The other queues are unchanged.
    let kept = site.kept();
    let count = |table: &str| kept.count(&format!("SELECT count(*) FROM {table}"));
    assert_eq!(
        ["queue", "suspect", "damaged", "delayed"].map(count),
        [2, 1, 1, 2]
    );
    drop(kept);

    // The app continues; so does an older version, with new queues.
    let nothing = "DELETE FROM suspect; DELETE FROM damaged; DELETE FROM delayed;
                   UPDATE queue SET delayed = 0;";
    Queues::vandalise(&site.queues(), nothing);
    site.run("v2.toml");
    std::fs::remove_dir_all(site.path().join("data")).expect("the positions go");
    site.run("v1.toml");
    assert_eq!(site.kept().dead_letters().len(), LINES);
}

#[test]
fn a_folder_in_use_is_not_pruned_and_its_user_is_named() {
    let site = Site::new();
    site.write("on.toml", &manifest("shop", &format!("{OLD}{DOOR}")));
    let app = site.start("on.toml");
    let user = format!("process {} (the app shop) uses the queues", app.id());
    let look = site.output("prune", "v2.toml", &[]);
    assert!(look.status.success(), "{}", said(&look));
    assert!(said(&look).contains(&user), "{}", said(&look));
    let prune = site.output("prune", "v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(prune.status.code(), Some(1), "{}", said(&prune));
    assert!(said(&prune).contains(&user), "{}", said(&prune));
    assert!(
        said(&prune).contains("stop it (brickwork stop)"),
        "{}",
        said(&prune)
    );
    let stop = site.output("stop", "on.toml", &[]);
    assert!(stop.status.success(), "{}", said(&stop));
    drop(app);
    let removed = site.prune("v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert!(
        removed.iter().all(|(_, _, fate)| fate == "removed"),
        "{removed:?}"
    );
    site.kept();
}

#[test]
fn a_killed_prune_leaves_correct_counts_and_can_be_repeated() {
    const MANY: usize = 400_000;
    let site = Site::new();
    site.write("numbers.jsonl", "");
    site.run("v1.toml");
    let fill = format!(
        "WITH RECURSIVE many (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {MANY})
         INSERT INTO message SELECT (SELECT number FROM queue WHERE service = 'old'
             AND input = 'in') * (1 << 40) + n, 1, 0, '', zeroblob(100), 0 FROM many;
         UPDATE queue SET messages = {MANY}, next_place = {MANY} + 1
             WHERE service = 'old' AND input = 'in';"
    );
    Queues::vandalise(&site.queues(), &fill);
    let all = ["--yes", "--with-messages"];
    let prune = site.command("prune", "v2.toml", &all);
    let mut prune = Process::start(prune, site.path(), "it was just built");
    let kept = Queues::open(&site.queues()).expect("there are queues");
    let left = "SELECT messages FROM queue WHERE service = 'old' AND input = 'in'";
    while kept.count(left) == MANY as i64 {
        assert!(!prune.has_ended(), "{}", prune.stderr());
    }
    prune.stop();
    drop(kept);
    let found = site.leftovers("v2.toml");
    let (_, messages, _) = &found[1];
    println!("killed with {messages} of {MANY} left");
    assert!((1..MANY as u64).contains(messages), "{found:?}");
    site.kept();
    let removed = site.prune("v2.toml", &all);
    let fates = [
        of("queue old.dlq", 0, "removed"),
        of("queue old.in", *messages as usize, "removed"),
    ];
    assert_eq!(removed, fates);
    assert_eq!(site.leftovers("v2.toml"), []);
    site.kept();
}
