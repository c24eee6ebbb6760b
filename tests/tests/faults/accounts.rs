//! `examples/5-accounts` end to end: the balances add up to the cent, whenever the process is
//! killed. The test reads the store's file without the code of the example.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use brickwork::sqlite::rusqlite::{Connection, OpenFlags};
use brickwork_tests::binary::{accounts, workspace};
use brickwork_tests::process::Process;
use brickwork_tests::seed::Seed;
use serde_json::Value;
use tempfile::TempDir;

use super::shop::ground;

/// Cents of the first deposit of each account.
const DEPOSIT: i64 = 50_000;
/// Maximum time to finish the remaining transfers, also on a busy machine.
const FINISH: Duration = Duration::from_secs(300);
const START_MAX: Duration = Duration::from_secs(60);
/// Maximum time from a start to the kill.
const LIFE_MS: u64 = 2_500;

/// Size of a run: `BRICKWORK_FULL=1` takes minutes.
struct Tier {
    accounts: u64,
    transfers: u64,
    rate: u64,
    kills: usize,
}

impl Tier {
    fn now() -> Self {
        let (accounts, transfers, rate, kills) = match std::env::var_os("BRICKWORK_FULL") {
            Some(_) => (200, 30_000, 200, 60),
            None => (30, 2_000, 250, 4),
        };
        Self {
            accounts,
            transfers,
            rate,
            kills,
        }
    }
}

struct Site(TempDir);

impl Site {
    fn new(tier: &Tier) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/5-accounts/accounts.toml");
        std::fs::copy(example, folder.path().join("accounts.toml")).expect("it can be copied");
        // Few entities in memory, and a low limit: states are read again, and money returns.
        let overlay = format!(
            "[admin]\nlisten = \"off\"\n[services.customers.config]\naccounts = {}\n\
             transfers = {}\nrate = {}\n[services.accounts.config]\nlimit = 70000\n\
             statement_after_ms = 300\n",
            tier.accounts, tier.transfers, tier.rate
        );
        std::fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
        Self(folder)
    }

    fn command(&self, url: &str, verb: &[&str]) -> Command {
        let mut command = Command::new(accounts());
        command
            .args(verb)
            .args(["accounts.toml", "--with", "test.toml", "--transport", url])
            .current_dir(self.0.path());
        command
    }

    fn start(&self, url: &str) -> Process {
        let mut command = self.command(url, &["run"]);
        command.args(["--until-idle", "--fail-on-dlq"]);
        Process::start(command, self.0.path(), "it was just built")
    }

    fn run_to_the_end(&self, url: &str) {
        let mut process = self.start(url);
        let code = process.exit_code(FINISH);
        assert_eq!(code, Some(0), "{}", process.stderr());
    }

    /// Returns the states of the accounts, by key.
    fn states(&self) -> BTreeMap<String, Value> {
        let file = self.0.path().join("data/stores/accounts.sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = Connection::open_with_flags(file, flags).expect("there is a store");
        let mut select = store
            .prepare("SELECT key, state FROM brickwork_entity")
            .expect("there is a table");
        let rows = select
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
            .expect("it can be read");
        rows.map(|row| {
            let (key, state) = row.expect("a row");
            (key, serde_json::from_str(&state).expect("JSON"))
        })
        .collect()
    }

    fn reminders(&self) -> i64 {
        let file = self.0.path().join("data/stores/accounts.sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = Connection::open_with_flags(file, flags).expect("there is a store");
        let sql = "SELECT count(*) FROM brickwork_reminder";
        store
            .query_row(sql, [], |row| row.get(0))
            .expect("a number")
    }

    /// Returns the lines of a file of the app, each once: `file-out` may write a line again.
    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("JSON")).collect()
    }
}

fn sum(states: &BTreeMap<String, Value>, field: &str) -> i64 {
    let values = states.values().map(|state| state[field].as_i64());
    values.map(|value| value.expect("a number")).sum()
}

/// Checks that no cent and no message is lost or doubled.
fn check(site: &Site, tier: &Tier, name: &str) {
    let states = site.states();
    assert_eq!(states.len() as u64, tier.accounts, "{name}");
    let total = DEPOSIT * tier.accounts as i64;
    assert_eq!(sum(&states, "balance"), total, "{name}");
    assert_eq!(sum(&states, "transfers"), tier.transfers as i64, "{name}");
    for (key, state) in &states {
        assert!(
            state["balance"].as_i64() >= Some(0),
            "{name}: {key} {state}"
        );
        assert_eq!(state["is_due"], false, "{name}: {key} {state}");
    }
    assert_eq!(site.reminders(), 0, "{name}");
    // The entries of each account's statements add up to the balance: each statement once.
    let mut statements: BTreeMap<(String, u64), Value> = BTreeMap::new();
    for statement in site.lines("statements.jsonl") {
        let account = statement["account"].as_str().expect("a key").to_owned();
        let number = statement["number"].as_u64().expect("a number");
        let first = statements
            .entry((account, number))
            .or_insert_with(|| statement.clone());
        assert_eq!(*first, statement, "{name}: a statement has one content");
    }
    for (key, state) in &states {
        let own = statements.iter().filter(|((account, _), _)| account == key);
        let own: Vec<_> = own.map(|(_, statement)| statement).collect();
        assert_eq!(state["statements"], own.len(), "{name}: {key}");
        let entries = own
            .iter()
            .flat_map(|it| it["entries"].as_array().expect("entries"));
        let cents: i64 = entries.map(|it| it["cents"].as_i64().expect("cents")).sum();
        assert_eq!(state["balance"], cents, "{name}: {key}");
    }
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in site.lines("outcomes.jsonl") {
        *ends.entry(outcome["end"].to_string()).or_default() += 1;
    }
    for end in ["Done", "NoMoney", "Returned"] {
        assert!(ends.contains_key(&format!("{end:?}")), "{name}: {ends:?}");
    }
    println!("{name}: {} accounts, {ends:?}", states.len());
}

#[test]
fn killing_the_accounts_repeatedly_loses_no_cent_and_doubles_none() {
    let seed = Seed::or(1);
    for open in ground::ALL {
        let mut random = seed.random();
        let ground = open();
        let tier = Tier::now();
        let site = Site::new(&tier);
        let mut kills = 0;
        let mut is_over = false;
        while kills < tier.kills && !is_over {
            let mut app = site.start(&ground.url);
            app.line(START_MAX, |line| line.contains("runs:").then_some(()));
            // The kill comes at a random moment.
            std::thread::sleep(Duration::from_millis(random.u64(..LIFE_MS)));
            is_over = app.has_ended();
            // The drop kills it.
            drop(app);
            kills += usize::from(!is_over);
        }
        assert!(
            kills > tier.kills / 2,
            "the work was done after {kills} kills"
        );
        site.run_to_the_end(&ground.url);
        // An app does not wait for messages that an earlier process delayed.
        if !ground.wait_for_delays().is_empty() || site.reminders() > 0 {
            site.run_to_the_end(&ground.url);
        }
        check(&site, &tier, ground.name);
    }
}
