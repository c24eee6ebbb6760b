//! The folder of an `embedded:` transport, looked at by `check --connect` and pruned by
//! `prune`: what they say is so, looking changes nothing, and nothing that somebody needs is
//! removed. Through the shipped binary.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::disk::Disk;
use brickwork_tests::kept::Queues;
use brickwork_tests::process::Process;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// More than one step of a prune.
const LINES: usize = 2_500;
/// In bytes.
const PAGE: usize = 4096;

/// What every manifest here has: numbers, and somebody who keeps them.
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

/// A service that the next manifest doesn't have any more: all that comes to it is a dead
/// letter.
const OLD: &str = r#"
    [topics."through"]
    external = "both"
    [services.old]
    use = "chaos"
    in = "numbers"
    out = "through"
    retry.attempts = 1
    config.fail = 1.0
"#;

/// A door at which nobody knocks.
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

    /// Runs a manifest until there is nothing left to do.
    fn run(&self, manifest: &str) {
        let output = self.output("run", manifest, &["--until-idle"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Starts a manifest, and waits until it works.
    fn start(&self, manifest: &str) -> Process {
        let command = self.command("run", manifest, &[]);
        let process = Process::start(command, self.path(), "it was just built");
        process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        process
    }

    /// What `check --connect` says of the transport, and the exit code.
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
        assert_eq!(code, Some(0), "leftovers are in nobody's way");
        left(&transport["leftovers"])
    }

    /// What `prune` finds, and does with `--yes` among `more`.
    fn prune(&self, manifest: &str, more: &[&str]) -> Vec<(String, u64, String)> {
        let output = self.output("prune", manifest, &[&["--json"], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        left(&json(&output)["leftovers"])
    }

    /// Every file in the folder of queues.
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

    /// Checks that the file is whole.
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

/// What is left over: what, how many messages it holds, and what becomes of it.
fn left(list: &Value) -> Vec<(String, u64, String)> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list}")).iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let left = list.map(|one| {
        assert_eq!(one.get("consumers"), None, "nobody can be asked for them");
        let messages = one["messages"].as_u64().expect("a number");
        (text(&one["what"]), messages, text(&one["fate"]))
    });
    left.collect()
}

fn of(what: &str, messages: usize, fate: &str) -> (String, u64, String) {
    (what.to_owned(), messages as u64, fate.to_owned())
}

#[test]
fn a_folder_is_described_in_every_state_and_stays_as_it_is() {
    let site = Site::new();
    site.write("on.toml", &manifest("shop", &format!("{OLD}{DOOR}")));
    let queues = serde_json::json!([
        "queue keep.dlq",
        "queue old.dlq",
        "queue keep.in",
        "queue old.in"
    ]);
    let none = serde_json::json!([]);

    // Nothing is there.
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    assert_eq!(transport["product"], "SQLite");
    assert_eq!(transport["missing"], queues);
    assert_eq!(transport["there"], none);
    assert_eq!(transport["problems"], none);
    assert!(transport["notes"].to_string().contains("made at the start"));
    assert!(!site.queues().exists(), "nothing was made");

    // It has run, and stopped in order.
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
    assert!(site.files() == before, "what is there is as it was");

    // It runs.
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

    // It was killed; what waits and what is suspect is counted, too.
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
    assert!(site.files() == before, "what is there is as it was");
}

#[test]
fn what_a_manifest_no_longer_names_goes_when_it_is_told_to_and_space_comes_back() {
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
    assert!(site.files() == before, "what is there is as it was");

    let removed = of("queue old.in", 0, "removed");
    let kept = of("queue old.dlq", LINES, "kept");
    assert_eq!(site.prune("v2.toml", &["--yes"]), [kept.clone(), removed]);
    assert_eq!(site.leftovers("v2.toml"), [kept]);
    assert_eq!(site.kept().dead_letters().len(), LINES);

    // What waits there, or is suspect, goes with it.
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
    // Of others nothing went.
    let kept = site.kept();
    let count = |table: &str| kept.count(&format!("SELECT count(*) FROM {table}"));
    assert_eq!(
        ["queue", "suspect", "damaged", "delayed"].map(count),
        [2, 1, 1, 2]
    );
    drop(kept);

    // The app goes on; an older version, too, with queues made anew.
    let nothing = "DELETE FROM suspect; DELETE FROM damaged; DELETE FROM delayed;
                   UPDATE queue SET delayed = 0;";
    Queues::vandalise(&site.queues(), nothing);
    site.run("v2.toml");
    std::fs::remove_dir_all(site.path().join("data")).expect("the positions go");
    site.run("v1.toml");
    assert_eq!(site.kept().dead_letters().len(), LINES);
}

#[test]
fn a_folder_that_is_used_is_not_pruned_and_the_user_is_named() {
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
fn a_prune_that_is_killed_in_the_middle_leaves_true_counts_and_is_run_again() {
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

/// Makes a page of a file, counted from 1, what nobody wrote.
fn damage(file: &Path, page: usize) {
    let mut bytes = std::fs::read(file).expect("a file");
    bytes[(page - 1) * PAGE..page * PAGE].fill(0xa5);
    std::fs::write(file, &bytes).expect("it can be written");
}

/// The one problem that `check --connect` names, all of it.
fn problem(site: &Site, more: &[&str]) -> String {
    let (code, transport) = site.look("v1.toml", more);
    assert_eq!(code, Some(1), "{transport}");
    let problems = transport["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{transport}");
    assert_ne!(problems[0]["help"], "");
    problems[0].to_string()
}

#[test]
fn what_is_in_the_way_is_named_with_what_to_do_and_stays_as_it_is() {
    let site = Site::new();
    // Another app's.
    site.write("theirs.toml", &manifest("theirs", ""));
    site.run("theirs.toml");
    // Of the queues alone: positions have an owner, too.
    std::fs::remove_dir_all(site.path().join("data")).expect("the positions go");
    let before = site.files();
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("the app theirs"), "{said_of_it}");
    assert!(said_of_it.contains("folder of its own"), "{said_of_it}");
    let prune = site.output("prune", "v1.toml", &["--yes", "--with-messages"]);
    assert_eq!(prune.status.code(), Some(1), "{}", said(&prune));
    assert!(said(&prune).contains("the app theirs"), "{}", said(&prune));
    assert!(site.files() == before, "what is there is as it was");

    // Damage that was noted; a page that isn't what it was; a later version; no database.
    let app = "UPDATE app SET name = 'shop'";
    let noted = format!("{app}; INSERT INTO damaged VALUES ('message 17', 'it is short', 1)");
    Queues::vandalise(&site.queues(), &noted);
    let said_of_it = problem(&site, &[]);
    assert!(
        said_of_it.contains("message 17: it is short"),
        "{said_of_it}"
    );
    let later = "DELETE FROM damaged;
                 INSERT INTO brickwork_migration VALUES ('queues', 99, 'more', '', 0)";
    Queues::vandalise(&site.queues(), later);
    let said_of_it = problem(&site, &[]);
    assert!(
        said_of_it.contains("is it an older version?"),
        "{said_of_it}"
    );
    let now = "DELETE FROM brickwork_migration WHERE step = 99";
    Queues::vandalise(&site.queues(), now);
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    let file = site.queues().join("queues.sqlite");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'suspect'";
    damage(&file, site.kept().count(root) as usize);
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("damaged"), "{said_of_it}");
    std::fs::write(&file, "no database\n".repeat(1_000)).expect("it can be written");
    let before = site.files();
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("not a database"), "{said_of_it}");
    assert!(said_of_it.contains("put a copy back"), "{said_of_it}");
    assert!(site.files() == before, "what is there is as it was");

    // No folder.
    let said_of_it = problem(&site, &["--transport", "embedded:numbers.jsonl"]);
    assert!(said_of_it.contains("is no folder"), "{said_of_it}");
    let said_of_it = problem(&site, &["--transport", "embedded:numbers.jsonl/queues"]);
    assert!(said_of_it.contains("is no folder"), "{said_of_it}");
}

#[test]
fn a_disk_that_cannot_be_written_or_is_full_is_named() {
    let Some(disk) = Disk::mount(64) else {
        return;
    };
    let site = Site::new();
    let url = format!("embedded:{}", disk.path().join("queues").display());
    let there = ["--transport", &*url];
    assert_eq!(site.look("v1.toml", &there).0, Some(0));
    let ballast = disk.fill();
    let said_of_it = problem(&site, &there);
    assert!(
        said_of_it.contains("its disk has 0 B left, and 12.0 MiB"),
        "{said_of_it}"
    );
    std::fs::remove_file(ballast).expect("it goes");
    let run = site.output("run", "v2.toml", &[&["--until-idle"], &there[..]].concat());
    assert!(run.status.success(), "{}", said(&run));
    disk.read_only(true);
    let (code, transport) = site.look("v1.toml", &there);
    assert_eq!(code, Some(1), "{transport}");
    let problems = transport["problems"].to_string();
    assert!(problems.contains("can't be written"), "{problems}");
    assert!(problems.contains("let the user of the app"), "{problems}");
    assert_eq!(
        transport["missing"].as_array().map(Vec::len),
        Some(2),
        "{transport}"
    );
    let prune = site.output("prune", "v1.toml", &[&["--yes"], &there[..]].concat());
    assert!(
        prune.status.success(),
        "there is nothing to remove: {}",
        said(&prune)
    );
    disk.read_only(false);
    // Pruning needs room, and has it from the reserve.
    let run = site.output("run", "v1.toml", &[&["--until-idle"], &there[..]].concat());
    assert!(run.status.success(), "{}", said(&run));
    disk.fill();
    let prune = ["--yes", "--with-messages", "--json"];
    let prune = site.output("prune", "v2.toml", &[&prune, &there[..]].concat());
    assert!(prune.status.success(), "{}", said(&prune));
    let removed = left(&json(&prune)["leftovers"]);
    assert!(
        removed.iter().all(|(_, _, fate)| fate == "removed"),
        "{removed:?}"
    );
}

#[test]
fn what_lies_beside_a_damaged_page_is_not_removed_and_everything_else_is() {
    let site = Site::new();
    site.run("v1.toml");
    let file = site.queues().join("queues.sqlite");
    // In the midst of the letters.
    damage(&file, site.bytes() as usize / PAGE / 2);
    let output = site.output("prune", "v2.toml", &["--yes", "--with-messages", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let failed = &json(&output)["leftovers"];
    let fates: Vec<_> = left(failed).into_iter().map(|(_, _, fate)| fate).collect();
    assert_eq!(fates, ["failed", "removed"], "{failed}");
    assert!(
        failed[0]["why"].to_string().contains("is damaged"),
        "{failed}"
    );
}
