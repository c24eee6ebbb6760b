//! `entities` on the program of `examples/5-accounts`, and the memory that entities take.

use std::process::{Command, Output};
use std::time::Duration;

use brickwork_tests::binary::{accounts, workspace};
use brickwork_tests::process::{Process, until};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;
/// Maximum memory that four times as many entities may cost.
const GROWTH_MAX: u64 = 12 * MIB;
const START_MAX: Duration = Duration::from_secs(60);

struct Site(TempDir);

impl Site {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/5-accounts/accounts.toml");
        std::fs::copy(example, folder.path().join("accounts.toml")).expect("it can be copied");
        let overlay = format!("[admin]\nlisten = \"off\"\n{config}");
        std::fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
        Self(folder)
    }

    fn command(&self, verb: &[&str], rest: &[&str]) -> Command {
        let mut command = Command::new(accounts());
        command
            .args(verb)
            .args(["accounts.toml", "--with", "test.toml"])
            .args(rest)
            .current_dir(self.0.path());
        command
    }

    fn start(&self, rest: &[&str]) -> Process {
        Process::start(
            self.command(&["run"], rest),
            self.0.path(),
            "it was just built",
        )
    }

    fn run_to_the_end(&self) {
        let mut app = self.start(&["--until-idle", "--fail-on-dlq"]);
        let code = app.exit_code(Duration::from_secs(120));
        assert_eq!(code, Some(0), "{}", app.stderr());
    }

    fn entities(&self, verb: &str, rest: &[&str]) -> Output {
        let rest = [&["accounts"], rest].concat();
        let output = self.command(&["entities", verb], &rest).output();
        output.expect("it runs")
    }

    /// Returns a page of keys, and the key of the next page.
    fn page(&self, after: &str) -> (Vec<String>, Value) {
        let output = self.entities("list", &["--json", "--limit", "4", "--after", after]);
        assert!(output.status.success(), "{output:?}");
        let listed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let page = listed["page"].as_array().expect("a page").iter();
        let keys = page.map(|it| it["key"].as_str().expect("a key").to_owned());
        (keys.collect(), listed["next"].clone())
    }

    fn keys(&self) -> Vec<String> {
        let (mut keys, mut next) = self.page("");
        while let Some(after) = next.as_str() {
            let (more, then) = self.page(after);
            keys.extend(more);
            next = then;
        }
        keys
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn config(accounts: u64, transfers: u64) -> String {
    format!(
        "[services.customers.config]\naccounts = {accounts}\ntransfers = {transfers}\n\
         rate = 1000000\n[services.accounts.config]\nstatement_after_ms = 0\n"
    )
}

#[test]
fn entities_are_listed_shown_and_evicted_whether_the_app_runs_or_not() {
    let site = Site::new(&config(10, 50));
    assert_eq!(site.keys(), Vec::<String>::new(), "it has never run");
    site.run_to_the_end();
    let expected: Vec<String> = (0..10).map(|n| format!("account-{n:04}")).collect();
    assert_eq!(site.keys(), expected);
    let shown = site.entities("show", &["account-0003"]);
    let state: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert!(state["balance"].is_i64(), "{state}");

    let asked = site.entities("evict", &["account-0003"]);
    assert!(
        text(&asked.stdout).contains("--yes removes it"),
        "{asked:?}"
    );
    assert_eq!(site.keys().len(), 10, "nothing was changed");
    let evicted = site.entities("evict", &["account-0003", "--yes"]);
    assert!(evicted.status.success(), "{evicted:?}");
    assert!(!site.keys().contains(&expected[3]));
    let again = site.entities("evict", &["account-0003", "--yes"]);
    assert_eq!(again.status.code(), Some(1));
    let error = text(&again.stderr);
    assert!(
        error.contains("accounts has no entity account-0003"),
        "{error}"
    );

    // The app runs, and has the store open.
    let app = site.start(&[]);
    app.line(START_MAX, |line| line.contains("runs:").then_some(()));
    let evicted = until("the store is open", START_MAX, || {
        let evicted = site.entities("evict", &["account-0004", "--yes"]);
        match text(&evicted.stderr).contains("not open yet") {
            true => Err("not yet".to_owned()),
            false => Ok(evicted),
        }
    });
    assert!(evicted.status.success(), "{evicted:?}");
    let shown = site.entities("show", &["account-0004"]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    assert_eq!(site.keys().len(), 8);
    app.stop();
}

#[test]
fn a_wrong_service_is_wrong_usage() {
    let site = Site::new("");
    for (service, expected) in [
        ("acounts", "did you mean `accounts`?"),
        ("outcomes", "the service outcomes holds no entities"),
    ] {
        let mut command = site.command(&["entities", "list"], &[service]);
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
    }
}

/// Returns the most memory that an app took for so many entities, each touched once.
fn memory(accounts: u64) -> u64 {
    let site = Site::new(&config(accounts, 0));
    let mut app = site.start(&["--until-idle", "--fail-on-dlq"]);
    let status = format!("/proc/{}/status", app.id());
    let mut most = 0;
    while !app.has_ended() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) * 1024);
        // Samples a process that works.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(app.exit_code(START_MAX), Some(0), "{}", app.stderr());
    let (page, _) = site.page("");
    assert_eq!(page.len(), 4);
    most
}

#[test]
fn many_entities_cost_disk_and_not_memory() {
    let accounts = match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => 250_000,
        None => 5_000,
    };
    let (few, many) = (memory(accounts), memory(4 * accounts));
    println!(
        "{accounts} entities: {} MiB, four times as many: {} MiB",
        few / MIB,
        many / MIB
    );
    assert!(many < few + GROWTH_MAX, "{few} and {many} bytes");
}
