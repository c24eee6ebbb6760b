//! `run --watch`, through the shipped binary.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// An app that runs and watches. It reads the level of its log from a file.
struct Watching {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

fn write(file: PathBuf, text: &str) {
    std::fs::write(file, text).expect("it can be written");
}

impl Watching {
    fn start(program: &Path, folder: TempDir) -> Self {
        let address = free_address();
        let manifest = format!(
            r#"
            [app]
            name = "watched"
            transport = "memory:"
            log.level = "${{file:level}}"
            [admin]
            listen = "{address}"
            [services.keep]
            use = "file-out"
            in = "topic"
            config.path = "kept.jsonl"
            [topics.topic]
            external = "in"
            "#
        );
        write(folder.path().join("app.toml"), &manifest);
        write(
            folder.path().join("over.toml"),
            "services.keep.mailbox = 5\n",
        );
        write(folder.path().join("level"), "info\n");
        let mut command = Command::new(program);
        command
            .args(["run", "app.toml", "--with", "over.toml", "--watch"])
            .current_dir(folder.path());
        let process = Process::start(command, folder.path(), "it was just built");
        process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        Self {
            process,
            address,
            folder,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn app(&self) -> Result<Value, String> {
        let app = http::get(self.address, "/api/app").map_err(|error| error.to_string())?;
        Ok(app.json())
    }

    /// Waits until so much is said on stderr.
    fn said(&self, text: &str) {
        until(text, PATIENCE, || {
            let said = self.process.stderr();
            if said.contains(text) {
                Ok(())
            } else {
                Err(said)
            }
        });
    }

    /// Waits until the app runs again, the same process after an orderly stop.
    fn restarted(&self, times: usize) {
        self.process
            .line(PATIENCE, |line| line.contains("runs:").then_some(()));
        let said = self.process.stderr();
        assert_eq!(said.matches("the app restarts").count(), times, "{said}");
        until("it answers", PATIENCE, || {
            let app = self.app()?;
            if app["process"] == self.process.id() {
                Ok(())
            } else {
                Err(app.to_string())
            }
        });
    }

    fn mailbox(&self) -> Value {
        let app = self.app().expect("it answers");
        app["services"][0]["mailbox"]["capacity"].clone()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder can be made")
}

#[test]
fn a_changed_file_is_in_force_after_an_orderly_restart_of_the_same_process() {
    let mut app = Watching::start(&brickwork(), folder());
    assert_eq!(app.mailbox(), 5);
    write(app.file("over.toml"), "services.keep.mailbox = 17\n");
    app.restarted(1);
    assert_eq!(app.mailbox(), 17);
    app.said("changed: over.toml; the app restarts");
    // A file that the manifest names.
    write(app.file("level"), "debug\n");
    app.restarted(2);
    app.said("changed: level; the app restarts");
    // To touch one is enough, for the sake of something that isn't watched.
    let manifest = std::fs::File::options()
        .append(true)
        .open(app.file("app.toml"));
    let touched = manifest.and_then(|file| file.set_modified(std::time::SystemTime::now()));
    touched.expect("it can be touched");
    app.restarted(3);
    app.said("changed: app.toml; the app restarts");
    // And it still stops as it should.
    let mut kill = Command::new("kill");
    let term = kill.arg("-TERM").arg(app.process.id().to_string());
    assert!(term.status().expect("kill runs").success());
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
}

#[test]
fn a_wrong_manifest_is_reported_and_the_app_goes_on_until_it_is_right_again() {
    let app = Watching::start(&brickwork(), folder());
    let started = app.app().expect("it answers")["started"].clone();
    write(app.file("over.toml"), "services.keep.mialbox = 17\n");
    app.said("the manifest is wrong, the app goes on unchanged");
    let said = app.process.stderr();
    assert!(
        said.contains("E010") && said.contains("over.toml:1"),
        "{said}"
    );
    let now = app.app().expect("it goes on");
    assert_eq!((&now["started"], &now["ready"]), (&started, &true.into()));
    write(app.file("over.toml"), "services.keep.mailbox = 18\n");
    app.restarted(1);
    assert_eq!(app.mailbox(), 18);
}

#[test]
fn a_new_program_takes_the_place_of_the_old_one_and_a_broken_one_does_not() {
    let folder = folder();
    let program = folder.path().join("mine");
    std::fs::copy(brickwork(), &program).expect("it can be copied");
    let app = Watching::start(&program, folder);
    let replace = |make: &dyn Fn(&Path)| {
        // As a linker does: another file by the same name.
        let next = app.file("next");
        make(&next);
        std::fs::rename(next, &program).expect("it can be put there");
    };
    replace(&|next| write(next.to_owned(), "no program"));
    app.said("can't be run");
    assert!(app.app().is_ok(), "it goes on");
    replace(&|next| {
        std::fs::copy(brickwork(), next).expect("it can be copied");
    });
    app.restarted(1);
    let exe = std::fs::read_link(format!("/proc/{}/exe", app.process.id()));
    assert_eq!(
        exe.expect("it runs"),
        program,
        "the new one, not the one that was replaced"
    );
}
