//! Child programs as sources, in the shipped binary: no message is lost, whatever the child
//! does, and the next child continues at the saved position.

use super::*;

/// A folder with an app: a child as a source, and a file of its messages.
struct SourceApp(tempfile::TempDir);

impl SourceApp {
    /// `args` are the child's mode and number of messages, `config` is for its service, `app`
    /// for the app.
    fn new(args: &str, config: &str, app: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let script = script().with_file_name("source.js");
        fs::copy(script, folder.path().join("source.js")).expect("it can be copied");
        let manifest = format!(
            r#"
            [app]
            name = "sources"
            transport = "embedded:data/queues"
            {app}
            [admin]
            listen = "off"
            [services.child]
            use = "process-source"
            out = "sent"
            restart.backoff = {{ min = "10ms", max = "50ms" }}
            [services.child.config]
            command = ["node", "source.js", {args}]
            {config}
            [services.keep]
            use = "file-out"
            in = "sent"
            config.path = "sent.jsonl"
            "#
        );
        fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        Self(folder)
    }

    fn start(&self) -> Process {
        let mut command = Command::new(brickwork());
        command.args(["run", "app.toml"]).current_dir(self.0.path());
        Process::start(command, self.0.path(), "it was just built")
    }

    /// Runs the app until it is idle. Returns the log.
    fn run(&self) -> String {
        let output = Command::new("timeout")
            .arg("60")
            .arg(brickwork())
            .args(["run", "app.toml", "--until-idle", "--fail-on-dlq"])
            .current_dir(self.0.path())
            .output()
            .expect("the binary runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        log
    }

    fn sent(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join("sent.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("whole lines of JSON"))
            .collect()
    }

    fn numbers(&self) -> Vec<u64> {
        let sent = self.sent().into_iter();
        sent.filter_map(|value| value["n"].as_u64()).collect()
    }
}

impl SourceApp {
    fn sends_all(&self, count: u64) {
        until("all messages arrive", PATIENCE, || {
            let numbers = self.numbers();
            match is_complete(&numbers, count) {
                true => Ok(()),
                false => Err(format!("{numbers:?}")),
            }
        });
    }
}

/// Whether these are all numbers up to `count`, some of them perhaps again.
fn is_complete(numbers: &[u64], count: u64) -> bool {
    let known: BTreeSet<u64> = numbers.iter().copied().collect();
    known == (1..=count).collect()
}

#[test]
fn a_source_continues_at_its_position_and_sends_nothing_twice() {
    let app = SourceApp::new("'', '300'", "ends = true", "");
    app.run();
    assert_eq!(app.numbers(), (1..=300).collect::<Vec<_>>());
    // The source has ended at its position.
    app.run();
    assert_eq!(app.numbers().len(), 300);
    let file = app.0.path().join("app.toml");
    let more = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, more.replace("'300'", "'400'")).expect("it can be written");
    app.run();
    assert_eq!(app.numbers(), (1..=400).collect::<Vec<_>>());
}

#[test]
fn a_child_that_misbehaves_is_replaced_and_nothing_is_lost() {
    let cases = [
        ("garbage", "logs belong on stderr): ready!"),
        ("long", "a line is longer than 65536 bytes"),
        ("flood", "a line is longer than 65536 bytes"),
        ("half", "the child ended in the middle of a line"),
        ("exit", "the child ended: exit status: 3"),
        ("close", "the child closed its stdout"),
        ("noid", "a msg and no id"),
        ("port", "which is not one of its outputs (out)"),
    ];
    std::thread::scope(|scope| {
        for (mode, text) in cases {
            scope.spawn(move || {
                let args = format!("'{mode}', '20'");
                let app = SourceApp::new(&args, "ends = true\nline_max = '64KiB'", "");
                let log = app.run();
                assert!(log.contains(text), "{mode}: {log}");
                // A second child: the position of the first one was saved.
                assert_eq!(log.matches("child started").count(), 2, "{mode}: {log}");
                assert_eq!(app.numbers(), (1..=20).collect::<Vec<_>>(), "{mode}");
            });
        }
    });
}

#[test]
fn an_exit_with_code_0_is_a_failure_unless_the_source_ends() {
    let app = SourceApp::new("'zero', '20'", "", "");
    let _process = app.start();
    app.sends_all(20);
}

#[test]
fn a_child_that_reads_no_acks_sends_everything() {
    const COUNT: u64 = 20_000;
    let args = format!("'deaf', '{COUNT}'");
    let app = SourceApp::new(&args, "ends = true\nin_flight = 16", "");
    app.run();
    assert_eq!(app.numbers(), (1..=COUNT).collect::<Vec<_>>());
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_child_is_told() {
    let app = SourceApp::new("'big', '5'", "ends = true", "max_message = '1KiB'");
    let log = app.run();
    assert_eq!(app.numbers(), [1, 3, 4, 5]);
    assert!(log.contains("message of the child refused"), "{log}");
    let sent = app.sent();
    let told = sent.iter().find(|value| value["refused"] == "2");
    let error = told.and_then(|told| told["error"].as_str());
    assert!(
        error.is_some_and(|error| error.contains("max_message")),
        "{sent:?}"
    );
}

#[test]
fn killing_the_child_and_the_app_again_and_again_loses_nothing() {
    const COUNT: u64 = 1200;
    let args = format!("'stay', '{COUNT}', '1'");
    let app = SourceApp::new(&args, "", "");
    let mut process = app.start();
    let mut next = 100;
    let mut first_after = Vec::new();
    for round in 0.. {
        let sent = until("messages arrive", PATIENCE, || {
            let sent = app.sent();
            match sent.len() as u64 >= next || is_complete(&app.numbers(), COUNT) {
                true => Ok(sent),
                false => Err(format!("{} of {next}", sent.len())),
            }
        });
        if is_complete(&app.numbers(), COUNT) {
            break;
        }
        next = sent.len() as u64 + 150;
        if round % 2 == 0 {
            let pid = sent.last().and_then(|value| value["pid"].as_u64());
            signal("KILL", pid.expect("a pid"));
        } else {
            signal("KILL", process.id().into());
            process = app.start();
        }
        first_after.push(sent.len());
    }
    assert!(first_after.len() >= 4, "{first_after:?}");
    // Each child continued near the place where the one before it was killed.
    let numbers = app.numbers();
    for at in first_after {
        let around = numbers[at..]
            .iter()
            .take(1)
            .next()
            .copied()
            .unwrap_or(COUNT);
        assert!(around + 400 > at as u64, "{around} after {at}");
    }
    drop(process);
}

#[test]
fn a_source_that_stops_gets_its_acks_and_the_end_of_its_stdin() {
    let config = "env = { FAREWELL = 'bye-bye' }\ninherit_env = ['PATH']\ndir = 'place'\n\
                  outputs = ['out']\nstop_timeout = '20s'";
    let app = SourceApp::new("'stay', '50'", config, "");
    let place = app.0.path().join("place");
    fs::create_dir(&place).expect("it can be made");
    fs::rename(app.0.path().join("source.js"), place.join("source.js")).expect("it can be moved");
    let mut process = app.start();
    app.sends_all(50);
    signal("TERM", process.id().into());
    assert_eq!(process.exit_code(PATIENCE), Some(0));
    let farewell = fs::read_to_string(place.join("bye-bye"));
    assert_eq!(farewell.expect("it was written"), "50 and no HOME");
}

#[test]
fn a_source_that_ignores_its_stop_is_killed_in_time() {
    let app = SourceApp::new("'stubborn', '50'", "stop_timeout = '600ms'", "");
    let mut process = app.start();
    app.sends_all(50);
    let pid = app.sent()[0]["pid"].as_u64().expect("a pid");
    assert!(lives(pid));
    signal("TERM", process.id().into());
    assert_eq!(process.exit_code(PATIENCE), Some(0));
    is_gone(pid);
}
