//! Services in child processes over RabbitMQ: they are supervised, observed and stopped as if
//! they ran in the app's own process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running app: numbers from a file through `work` in a child process into a file.
struct Running {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

/// Returns the manifest; `work` is added to the table of that service, `more` are further tables.
fn manifest(name: &str, admin: &str, work: &str, more: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        workers = 2
        shutdown_timeout = "5s"
        [admin]
        listen = "{admin}"
        [services.numbers]
        use = "file-in"
        out = "numbers"
        config.path = "numbers.jsonl"
        [services.work]
        use = "chaos"
        in = "numbers"
        out = "done"
        isolation = "process"
        {work}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "done.jsonl"
        {more}
        "#
    )
}

fn numbers(folder: &Path, count: usize) {
    let lines: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    std::fs::write(folder.join("numbers.jsonl"), lines).expect("it can be written");
}

fn run(folder: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml"])
        .args(more)
        .env("BRICKWORK_TRANSPORT", Broker::shared().url())
        .current_dir(folder);
    let process = Process::start(command, folder, "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    process
}

impl Running {
    fn start(name: &str, count: usize, work: &str, more: &str) -> Self {
        Self::start_with(name, count, work, more, &[])
    }

    fn start_with(name: &str, count: usize, work: &str, more: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let address = free_address();
        let text = manifest(name, &address.to_string(), work, more);
        std::fs::write(folder.path().join("app.toml"), text).expect("it can be written");
        numbers(folder.path(), count);
        let process = run(folder.path(), arguments);
        Self {
            process,
            address,
            folder,
        }
    }

    fn get(&self, path: &str) -> Result<http::Response, String> {
        http::get(self.address, path).map_err(|error| error.to_string())
    }

    /// Returns the entry of a service in `/api/app`.
    fn service(&self, label: &str) -> Result<Value, String> {
        let app = self.get("/api/app")?.json();
        let services = app["services"].as_array().cloned().unwrap_or_default();
        let found = services.into_iter().find(|it| it["service"] == label);
        found.ok_or_else(|| app.to_string())
    }

    /// Returns the process id of `work`, once it runs in another process than `not`.
    fn child(&self, not: Option<u64>) -> u64 {
        until("work runs in a process", PATIENCE, || {
            let work = self.service("work")?;
            match work["process"].as_u64() {
                Some(process) if Some(process) != not && work["state"] == "up" => Ok(process),
                _ => Err(work.to_string()),
            }
        })
    }

    /// Waits until `work` has handled `count` messages successfully.
    fn handled(&self, count: u64) {
        until("work has handled some", PATIENCE, || {
            let work = self.service("work")?;
            match work["handled"]["ok"].as_u64() {
                Some(ok) if ok >= count => Ok(()),
                _ => Err(work.to_string()),
            }
        });
    }

    /// Waits until every number has come through, perhaps more than once.
    fn complete(&self, count: usize) {
        let file = self.folder.path().join("done.jsonl");
        until("every number comes through", PATIENCE, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: BTreeSet<&str> = text.lines().collect();
            match lines.len() {
                have if have == count => Ok(()),
                have => Err(format!("{have} of {count}")),
            }
        });
    }
}

fn signal(name: &str, process: u64) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).arg(process.to_string());
    assert!(kill.status().expect("kill runs").success());
}

fn gone(process: u64) {
    until("the process is gone", PATIENCE, || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        // A process whose parent was killed may remain as a zombie.
        if state.is_empty() || state.starts_with('Z') {
            Ok(())
        } else {
            Err(stat)
        }
    });
}

#[test]
fn services_in_child_processes_produce_the_same_results() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let example = workspace().join("examples/2-github-alerts");
    for file in ["app.toml", "github-webhooks.jsonl"] {
        std::fs::copy(example.join(file), folder.path().join(file)).expect("it can be copied");
    }
    // A source, a service that panics and fails, and the router.
    let overlay = "app.name = \"alerts-apart\"\nadmin.listen = \"off\"\n\
         services.intake.isolation = \"process\"\n\
         services.weather.isolation = \"process\"\n\
         services.sort.isolation = \"process\"\n";
    std::fs::write(folder.path().join("apart.toml"), overlay).expect("it can be written");
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml", "--with", "apart.toml"])
        .args(["--until-idle", "--fail-on-dlq", "--json"])
        .env("BRICKWORK_TRANSPORT", Broker::shared().url())
        .current_dir(folder.path());
    let mut process = Process::start(command, folder.path(), "it was just built");
    assert_eq!(process.exit_code(2 * PATIENCE), Some(0));
    let sorted = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for file in ["issues.jsonl", "checks.jsonl", "security.jsonl"] {
        let got = sorted(&folder.path().join("out").join(file));
        assert_eq!(got, sorted(&example.join("expected").join(file)), "{file}");
    }
    // Every delivery is accounted for across processes.
    let summary: Value =
        serde_json::from_str(&process.rest().concat()).expect("--json prints JSON");
    let row = |label: &str| {
        let rows = summary["services"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["service"] == label);
        row.expect("a row for each service").clone()
    };
    let (weather, sort) = (row("weather"), row("sort"));
    assert_eq!(row("intake")["emitted"], 329);
    assert_eq!(
        (&weather["ok"], &weather["emitted"], &sort["ok"]),
        (&329.into(), &329.into(), &329.into())
    );
    let count = |name: &str| weather[name].as_u64().expect("a count");
    assert!(count("panic") > 0, "{weather}");
    let log = process.stderr();
    assert_eq!(
        log.matches("runs in a process of its own").count(),
        3,
        "{log}"
    );
}

#[test]
fn a_child_that_is_killed_under_load_is_restarted_and_nothing_is_lost() {
    const COUNT: usize = 2_000;
    let slow = "instances = 4\nconfig = { stall = 1.0, for = \"3ms\" }";
    let watch = "[services.watch]\nuse = \"file-out\"\nin = \"brickwork.events\"\n\
                 config.path = \"events.jsonl\"\n";
    let app = Running::start("isolation-killed", COUNT, slow, watch);
    let mut process = app.child(None);
    let mut handled = 0;
    for _ in 0..2 {
        handled += 200;
        app.handled(handled);
        signal("KILL", process);
        process = app.child(Some(process));
    }
    app.complete(COUNT);
    // The earlier counts are kept and grow.
    app.handled(handled + 1);
    let work = app.service("work").expect("it is there");
    assert_eq!(work["restarts"]["process"], 2, "{work}");
    let failures = work["last_failures"].to_string();
    assert!(failures.contains("signal: 9"), "{failures}");
    // Each child tells its start, and the app its end.
    until("the events tell it", PATIENCE, || {
        let text = std::fs::read_to_string(app.folder.path().join("events.jsonl"));
        let text = text.map_err(|error| error.to_string())?;
        let mut counts = [("service-up", 3), ("service-down", 2)].into_iter();
        let event = |name| format!("{{\"event\":\"{name}\",\"service\":\"work\"");
        match counts.all(|(name, count)| text.matches(&event(name)).count() == count) {
            true => Ok(()),
            false => Err(text),
        }
    });
}

#[test]
fn an_app_is_not_idle_while_a_child_that_was_killed_or_hangs_has_work_left() {
    const COUNT: usize = 1_000;
    let slow = "instances = 4\nhandler_timeout = \"1s\"\nconfig = { stall = 1.0, for = \"3ms\" }";
    let idle = ["--until-idle", "--fail-on-dlq"];
    let mut app = Running::start_with("isolation-idle", COUNT, slow, "", &idle);
    let process = app.child(None);
    app.handled(50);
    signal("KILL", process);
    let process = app.child(Some(process));
    signal("STOP", process);
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
    app.complete(COUNT);
}

#[test]
fn a_hanging_child_is_detected_killed_and_restarted() {
    const COUNT: usize = 500;
    let slow = "instances = 4\nhandler_timeout = \"1s\"\nconfig = { stall = 1.0, for = \"5ms\" }";
    let app = Running::start("isolation-hangs", COUNT, slow, "");
    let process = app.child(None);
    app.handled(20);
    signal("STOP", process);
    until("it is missed", PATIENCE, || {
        let work = app.service("work")?;
        if work["restarts"]["process"] == 1 {
            Ok(())
        } else {
            Err(work.to_string())
        }
    });
    app.child(Some(process));
    gone(process);
    let failures = app.service("work").expect("it is there")["last_failures"].to_string();
    assert!(failures.contains("did not answer for"), "{failures}");
    app.complete(COUNT);
}

#[test]
fn a_service_that_aborts_its_process_is_isolated_and_the_others_continue() {
    let work = "config.abort = 1.0\n\
         restart = { max_restarts = 2, within = \"1m\", backoff = { min = \"10ms\", max = \"1h\" } }";
    let more = "[services.copy]\nuse = \"file-out\"\nin = \"numbers\"\n\
         config.path = \"copy.jsonl\"\n";
    let app = Running::start("isolation-aborts", 50, work, more);
    let ready = until("it is isolated", PATIENCE, || {
        let ready = app.get("/health/ready")?;
        if ready.body.contains("isolated") {
            Ok(ready)
        } else {
            Err(ready.body)
        }
    });
    assert_eq!(ready.code, 503);
    assert!(
        ready
            .body
            .contains("service work is isolated: it failed 3 times")
            && ready.body.contains("SIGABRT"),
        "{}",
        ready.body
    );
    let work = app.service("work").expect("it is there");
    assert_eq!(
        (&work["state"], work["process"].as_u64()),
        (&"isolated".into(), None)
    );
    until("the others go on", PATIENCE, || {
        let text = std::fs::read_to_string(app.folder.path().join("copy.jsonl"));
        match text.unwrap_or_default().lines().count() {
            50 => Ok(()),
            have => Err(format!("{have} of 50")),
        }
    });
}

#[test]
fn a_child_that_gives_up_for_its_group_ends_the_app_when_the_root_gives_up() {
    let work = "config.abort = 1.0\nrestart = { max_restarts = 1, within = \"1m\", \
         on_give_up = \"escalate\", backoff = { min = \"1ms\", max = \"10ms\" } }";
    let more = "[groups.pair]\nservices = [\"work\", \"keep\"]\nstrategy = \"one_for_all\"\n\
         max_restarts = 1\nwithin = \"1m\"\n\
         [supervision]\nmax_restarts = 0\n";
    let mut app = Running::start("isolation-group", 10, work, more);
    assert_eq!(app.process.exit_code(PATIENCE), Some(1));
    let log = app.process.stderr();
    let blamed = "error: services failed 1 times within 1m, at last pair: failed 2 times within 1m, \
         at last work: failed 2 times within 1m, at last (process): ";
    assert!(log.contains(blamed), "{log}");
    // With `one_for_all` the group restarted once, with the neighbour.
    let together = "restart=\"work, keep\"";
    assert!(log.contains(together), "{log}");
}

#[test]
fn no_child_outlives_a_killed_parent_and_the_next_parent_continues() {
    const COUNT: usize = 1_000;
    let slow = "instances = 4\nconfig = { stall = 1.0, for = \"3ms\" }";
    let mut app = Running::start("isolation-orphan", COUNT, slow, "");
    let child = app.child(None);
    app.handled(50);
    signal("KILL", u64::from(app.process.id()));
    // Restarts at once, while the child may still run.
    app.process = run(app.folder.path(), &[]);
    gone(child);
    app.child(Some(child));
    app.complete(COUNT);
    assert_eq!(
        app.service("work").expect("it is there")["restarts"]["process"],
        0
    );
}

#[test]
fn stopping_the_app_stops_its_children_gracefully() {
    let mut app = Running::start("isolation-stops", 10, "", "");
    let child = app.child(None);
    app.complete(10);
    // Every user can read arguments, so the transport's password must not be among them.
    let arguments = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
    let arguments = arguments.expect("it runs");
    assert!(arguments.contains("--only\0work\0"), "{arguments}");
    assert!(!arguments.contains("amqp"), "{arguments}");
    let mut stop = Command::new(brickwork());
    stop.args(["stop", "app.toml"])
        .env("BRICKWORK_TRANSPORT", Broker::shared().url())
        .current_dir(app.folder.path());
    let output = stop.output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
    assert!(
        !Path::new(&format!("/proc/{child}")).exists(),
        "it is gone before its parent"
    );
    let log = app.process.stderr();
    assert!(log.contains("told to stop by the app"), "{log}");
    assert!(!log.contains("killed"), "{log}");
}

#[test]
fn a_hanging_child_does_not_keep_the_app_from_stopping() {
    let mut app = Running::start("isolation-hung-stop", 10, "", "");
    let child = app.child(None);
    app.complete(10);
    signal("STOP", child);
    let began = Instant::now();
    signal("TERM", u64::from(app.process.id()));
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
    // The `shutdown_timeout` and a margin for the rest.
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    gone(child);
    let log = app.process.stderr();
    assert!(log.contains("did not stop in time and is killed"), "{log}");
}

#[test]
fn a_service_that_gives_up_in_its_child_process_is_isolated_without_a_process() {
    let more = "[services.broken]\nuse = \"file-out\"\nin = \"numbers\"\n\
         isolation = \"process\"\nconfig.path = \"numbers.jsonl/not-a-folder\"\n\
         [services.broken.restart]\nmax_restarts = 2\nwithin = \"1m\"\n\
         backoff = { min = \"1ms\", max = \"1h\" }\n";
    let app = Running::start("isolation-gives-up", 10, "", more);
    let broken = until("it is isolated", PATIENCE, || {
        let broken = app.service("broken")?;
        if broken["state"] == "isolated" {
            Ok(broken)
        } else {
            Err(broken.to_string())
        }
    });
    assert_eq!(broken["process"].as_u64(), None, "{broken}");
    assert_eq!(broken["restarts"]["process"], 0, "{broken}");
    let why = broken["gave_up"].as_str().expect("it says why");
    assert!(
        why.starts_with("failed 3 times within 1m, at last (start)"),
        "{why}"
    );
    app.complete(10);
}

#[test]
fn metrics_and_state_of_a_child_process_look_as_in_the_app_process() {
    let series = |isolation: &str| {
        let name = format!("isolation-series-{isolation}");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let address = free_address();
        let text = manifest(&name, &address.to_string(), "", "")
            .replace("\"process\"", &format!("\"{isolation}\""));
        std::fs::write(folder.path().join("app.toml"), text).expect("it can be written");
        numbers(folder.path(), 25);
        let process = run(folder.path(), &[]);
        let app = Running {
            process,
            address,
            folder,
        };
        app.complete(25);
        app.handled(25);
        until("the app is ready", PATIENCE, || {
            match app.get("/health/ready")? {
                ready if ready.code == 200 => Ok(()),
                ready => Err(ready.body),
            }
        });
        let counts = [
            "brickwork_messages_handled_total{service=\"work\",input=\"in\",outcome=\"ok\"} 25\n",
            "brickwork_handle_duration_seconds_count{service=\"work\",input=\"in\"} 25\n",
            "brickwork_messages_emitted_total{service=\"work\",output=\"out\"} 25\n",
            "brickwork_service_up{service=\"work\"} 1\n",
            "brickwork_instances{service=\"work\"} 1\n",
            "brickwork_queue_messages{service=\"work\",input=\"in\"} 0\n",
        ];
        let metrics = until("everything is counted", PATIENCE, || {
            let metrics = app.get("/metrics")?.body;
            match counts.iter().find(|count| !metrics.contains(**count)) {
                None => Ok(metrics),
                Some(missing) => Err(format!("no {missing}{metrics}")),
            }
        });
        let lines = metrics
            .lines()
            .filter(|line| line.contains("service=\"work\""));
        let names = lines.filter_map(|line| line.rsplit_once(' '));
        names
            .map(|(series, _)| series.to_owned())
            .collect::<BTreeSet<String>>()
    };
    assert_eq!(series("process"), series("shared"));
}

#[test]
fn a_group_with_a_child_process_restarts_together_except_for_its_source_that_has_ended() {
    let work = "restart.max_restarts = 0";
    let more = "[groups.line]\nservices = [\"work\", \"keep\", \"numbers\"]\n";
    let app = Running::start("isolation-line", 10, work, more);
    let process = app.child(None);
    app.complete(10);
    signal("KILL", process);
    app.child(Some(process));
    let state = app.get("/api/app").expect("it answers").json();
    assert_eq!(state["groups"][0]["restarts"], 1, "{state}");
    for (label, restarts) in [("work", 1), ("keep", 1), ("numbers", 0)] {
        let service = app.service(label).expect("it is there");
        assert_eq!(service["restarts"]["supervisor"], restarts, "{service}");
    }
    let numbers = app.service("numbers").expect("it is there");
    assert_eq!(numbers["state"], "ended", "{numbers}");
}
