//! A folder with a copy of the example, and its program running there.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use brickwork_tests::binary::{shop, workspace};
use brickwork_tests::process::Process;
use serde_json::Value;
use tempfile::TempDir;

use super::books::Books;

/// Maximum time to finish the remaining orders, also on a busy machine.
const FINISH: Duration = Duration::from_secs(300);

/// Size of a run: `BRICKWORK_FULL=1` takes minutes.
pub(crate) struct Tier {
    pub(crate) orders: u64,
    pub(crate) rate: u64,
    pub(crate) kills: usize,
}

impl Tier {
    pub(crate) fn now() -> Self {
        let (orders, rate, kills) = match std::env::var_os("BRICKWORK_FULL") {
            Some(_) => (24_000, 100, 80),
            None => (2_400, 130, 4),
        };
        Self {
            orders,
            rate,
            kills,
        }
    }
}

/// Returns the example's chaos overlay.
pub(crate) fn chaos() -> String {
    let file = workspace().join("examples/3-shop/chaos.toml");
    std::fs::read_to_string(file).expect("it is there")
}

pub(crate) struct Site {
    folder: TempDir,
    app: &'static str,
    more: String,
}

impl Site {
    /// Copies the example under another name, with `more` overlays and a `load`.
    pub(crate) fn new(app: &'static str, more: &str, load: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/3-shop/shop.toml");
        std::fs::copy(example, folder.path().join("shop.toml")).expect("it can be copied");
        let site = Self {
            folder,
            app,
            more: more.into(),
        };
        site.set_load(load);
        site
    }

    pub(crate) fn set_load(&self, load: &str) {
        let (app, more) = (self.app, &self.more);
        let overlay =
            format!("[app]\nname = \"{app}\"\n[admin]\nlisten = \"off\"\n{load}\n{more}\n");
        std::fs::write(self.folder.path().join("test.toml"), overlay).expect("it can be written");
    }

    fn command(&self, verb: &[&str], url: &str) -> Command {
        let mut command = Command::new(shop());
        command
            .args(verb)
            .args(["shop.toml", "--with", "test.toml", "--transport", url])
            .current_dir(self.folder.path());
        command
    }

    /// Starts the program; it runs until no order is left.
    pub(crate) fn start(&self, url: &str) -> Process {
        let mut command = self.command(&["run"], url);
        command.args(["--until-idle", "--fail-on-dlq"]);
        Process::start(command, self.folder.path(), "it was just built")
    }

    /// Runs the program until no order is left, and returns its log.
    pub(crate) fn run_to_the_end(&self, url: &str) -> String {
        let mut process = self.start(url);
        let code = process.exit_code(FINISH);
        let log = process.stderr();
        assert_eq!(code, Some(0), "{log}");
        log
    }

    /// Checks that there are no dead letters.
    pub(crate) fn check_dead_letters(&self, url: &str) {
        let mut command = self.command(&["dlq", "list"], url);
        let listed = command.arg("--json").stderr(Stdio::inherit()).output();
        let listed = listed.expect("it runs");
        assert!(listed.status.success());
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("--json prints JSON");
        let services = listed["services"].as_array().expect("services");
        assert!(!services.is_empty());
        for service in services {
            assert_eq!(service["letters"], 0, "{service}");
        }
    }

    /// Reads the stores while the app is stopped.
    pub(crate) fn books(&self) -> Books {
        Books::open(&self.stores())
    }

    fn stores(&self) -> PathBuf {
        self.folder.path().join("data/stores")
    }
}
