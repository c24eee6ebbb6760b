//! Commands that work with a running app.

use super::*;

fn started(folder: &Path) -> Process {
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let process = Process::start(command, folder, "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    process
}

#[test]
fn two_processes_run_two_parts_of_an_app() {
    let url = brickwork_tests::broker::Broker::shared().url();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder can be made"));
    for folder in &folders {
        small_app(folder.path(), "off", "");
        let file = folder.path().join("app.toml");
        let manifest = std::fs::read_to_string(&file).expect("it was written");
        let manifest = manifest.replace("name = \"small\"", "name = \"small-parts\"");
        std::fs::write(&file, manifest).expect("it can be written");
    }
    let [readers, feeder] = folders.each_ref().map(tempfile::TempDir::path);
    let part = |only: &'static str| ["run", "app.toml", "--transport", &url, "--only", only];
    let mut command = Command::new(brickwork());
    command.args(part("large,keep")).current_dir(readers);
    let mut process = Process::start(command, readers, "it was just built");
    process.line(PATIENCE, |line| {
        line.contains("runs: 2 services").then_some(())
    });
    // This process is idle: messages for other processes do not count.
    let output = run(
        &[&part("numbers")[..], &["--until-idle", "--json"]].concat(),
        feeder,
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("--json prints JSON");
    assert_eq!(summary["services"][0]["emitted"], 5);
    assert_eq!(summary["services"].as_array().map(Vec::len), Some(1));
    until("the other part has done its work", PATIENCE, || {
        let lines = sorted_lines(&readers.join("large.jsonl"));
        match lines.len() {
            2 => Ok(()),
            _ => Err(format!("{lines:?}")),
        }
    });
    let mut kill = Command::new("kill");
    kill.arg("-TERM").arg(process.id().to_string());
    assert!(kill.status().expect("kill runs").success());
    assert_eq!(process.exit_code(PATIENCE), Some(0));
}

#[test]
fn a_part_that_cannot_be_run_alone_is_refused_with_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    for (only, code) in [
        ("numbers,keep", "E022"),
        ("numbers,lrage", "E032"),
        ("", "E032"),
    ] {
        for verb in ["run", "check"] {
            let output = run(&[verb, "app.toml", "--only", only], folder.path());
            assert_eq!(output.status.code(), Some(2), "{verb} {only}");
            assert!(stderr(&output).contains(code), "{}", stderr(&output));
        }
    }
    let all = [
        "run",
        "app.toml",
        "--only",
        "keep,large,numbers",
        "--until-idle",
    ];
    let output = run(&all, folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(sorted_lines(&folder.path().join("large.jsonl")).len(), 2);
}

#[test]
fn a_signal_stops_the_app_gracefully_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        small_app(folder.path(), "off", "");
        let mut process = started(folder.path());
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(process.id().to_string());
        assert!(kill.status().expect("kill runs").success());
        process.line(PATIENCE, |line| line.starts_with("keep").then_some(()));
        assert_eq!(process.exit_code(PATIENCE), Some(0), "SIG{signal}");
    }
}

#[test]
fn the_command_stop_stops_the_app_and_reports_when_none_runs() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    let mut process = started(folder.path());
    let second = run(&["run", "app.toml"], folder.path());
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("already running"),
        "{}",
        stderr(&second)
    );
    let output = run(&["stop", "app.toml"], folder.path());
    assert_eq!(
        stdout(&output),
        "small has stopped\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(process.exit_code(PATIENCE), Some(0));
    let output = run(&["stop", "app.toml"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no app is running"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_running_app_shows_itself() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_address();
    small_app(folder.path(), &address.to_string(), "");
    let _process = started(folder.path());
    let ready = until("ready", PATIENCE, || {
        let response = http::get(address, "/health/ready").map_err(|error| error.to_string())?;
        if response.code == 200 {
            Ok(response)
        } else {
            Err(response.body)
        }
    });
    assert_eq!(ready.code, 200);
    let app = until("all handled", PATIENCE, || {
        let app = http::get(address, "/api/app")
            .map_err(|error| error.to_string())?
            .json();
        let text = app.to_string();
        let lines = sorted_lines(&folder.path().join("large.jsonl"));
        if lines.len() == 2 { Ok(app) } else { Err(text) }
    });
    assert_eq!(app["app"], "small");
    assert_eq!(app["services"].as_array().map(Vec::len), Some(3));
    let page = http::get(address, "/").expect("it answers");
    assert!(page.body.contains("small") && page.code == 200);
}
