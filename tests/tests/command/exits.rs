//! How `run` ends: its exit code, its last output, and how soon.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::http;
use brickwork_tests::parts::{self, LINES};
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum time of an end that waits for nothing, also on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Writes an app whose source reads the numbers from 0 to `count`.
fn prepare(folder: &Path, app: &str, count: u64, services: &str) {
    let manifest = format!("[app]\nname = \"exits\"\n{app}\n{LINES}\n{services}");
    parts::write(folder, &manifest, parts::numbers(count));
}

fn signal(process: &Process, name: &str) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.expect("kill runs").success());
}

/// Waits until an admin endpoint gives the wanted answer.
fn until_says(admin: SocketAddr, path: &str, what: &str, wanted: impl Fn(&http::Response) -> bool) {
    until(what, PATIENCE, || {
        let answer = http::get(admin, path).map_err(|error| error.to_string())?;
        if wanted(&answer) {
            Ok(())
        } else {
            Err(answer.body)
        }
    });
}

fn in_flight(answer: &http::Response, service: &str) -> bool {
    let app = answer.json();
    let services = app["services"].as_array().cloned().unwrap_or_default();
    let service = services.into_iter().find(|row| row["service"] == service);
    service.is_some_and(|row| row["in_flight"] == 1)
}

/// Returns the sorted lines of a file; none if it is missing.
fn lines(folder: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Returns a number of the summary that `--json` prints.
fn summed(process: &Process, service: &str, column: &str) -> u64 {
    let printed = process.rest().join("\n");
    let summary: Value = serde_json::from_str(&printed).expect("--json prints JSON");
    let rows = summary["services"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["service"] == service);
    row.expect("a row for each service")[column]
        .as_u64()
        .expect("a count")
}

/// A handler that runs longer than the test waits, so that a stop would wait for it.
fn stalls(part: f64) -> String {
    format!(
        r#"
        [services.slow]
        use = "chaos"
        in = "lines"
        out = "done"
        handler_timeout = "10m"
        config = {{ stall = {part:?}, for = "9m" }}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "out.jsonl"
        "#
    )
}

#[test]
fn a_second_signal_ends_the_app_at_once_with_exit_code_1_and_loses_nothing() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("INT", "TERM")] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let admin = free_address();
        let app =
            |listen: &str| format!("shutdown_timeout = \"8m\"\n[admin]\nlisten = \"{listen}\"");
        prepare(folder.path(), &app(&admin.to_string()), 1, &stalls(1.0));
        let mut process = parts::run(folder.path(), folder.path(), &[]);
        until_says(admin, "/api/app", "it is being handled", |answer| {
            in_flight(answer, "slow")
        });
        signal(&process, first);
        until_says(admin, "/health/ready", "it is stopping", |answer| {
            answer.body.contains("the app is stopping")
        });
        assert!(
            !process.has_ended(),
            "one signal waits for messages in flight"
        );
        let begun = Instant::now();
        signal(&process, second);
        let code = process.exit_code(AT_ONCE);
        println!("{first}, {second}: {code:?} after {:?}", begun.elapsed());
        assert_eq!(code, Some(1), "{}", process.stderr());
        let said = process.stderr();
        assert!(said.contains("stopped at once"), "{said}");
        assert_eq!(lines(folder.path(), "out.jsonl"), [""; 0]);

        // The message was abandoned, so the next run handles it. The source may not have saved its
        // position yet: then it sends the line again.
        prepare(folder.path(), &app("off"), 1, &stalls(0.0));
        let mut again = parts::run(folder.path(), folder.path(), &["--until-idle"]);
        assert_eq!(again.exit_code(PATIENCE), Some(0), "{}", again.stderr());
        let mut handled = lines(folder.path(), "out.jsonl");
        handled.dedup();
        assert_eq!(handled, ["{\"n\":0}"]);
    }
}

const NO_ADMIN: &str = "[admin]\nlisten = \"off\"";

/// A neighbour that works.
const COPY: &str = r#"
    [services.copy]
    use = "file-out"
    in = "lines"
    config.path = "copy.jsonl"
"#;

/// Runs the app until it is idle, and checks that the neighbour has finished its work.
fn until_idle(folder: &Path, transport: &str, broken: &str) -> (Option<i32>, Process) {
    let app = format!("transport = \"{transport}\"\n{NO_ADMIN}");
    prepare(folder, &app, 3, &format!("{COPY}{broken}"));
    let mut process = parts::run(folder, folder, &["--until-idle", "--json"]);
    let code = process.exit_code(PATIENCE);
    let copied = ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"];
    assert_eq!(lines(folder, "copy.jsonl"), copied, "{}", process.stderr());
    (code, process)
}

#[test]
fn until_idle_ends_with_exit_code_1_while_a_service_is_isolated_and_0_once_it_works() {
    let broken = r#"
        [services.broken]
        use = "file-out"
        in = "lines"
        restart = { max_restarts = 0, backoff = { min = "10ms", max = "100ms" } }
        config.path = "folder/out.jsonl"
    "#;
    for transport in ["memory:", "embedded:queues"] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        // A file stands where the service's folder should be.
        let in_the_way = folder.path().join("folder");
        std::fs::write(&in_the_way, "").expect("it can be written");
        let (code, process) = until_idle(folder.path(), transport, broken);
        let said = process.stderr();
        assert_eq!(code, Some(1), "{said}");
        let error = "error: isolated, or down for good: broken\n";
        assert!(said.contains(error), "{said}");
        assert!(said.contains("broken.in: 3"), "{said}");
        if transport == "memory:" {
            continue;
        }
        std::fs::remove_file(&in_the_way).expect("it can be removed");
        let (code, process) = until_idle(folder.path(), transport, broken);
        assert_eq!(code, Some(0), "{}", process.stderr());
        assert_eq!(lines(folder.path(), "folder/out.jsonl").len(), 3);
    }
}

#[test]
fn until_idle_ends_with_exit_code_1_also_if_the_isolated_service_recovered() {
    // Each message panics once, and panics count: the second exceeds the limit.
    let broken = r#"
        [services.broken]
        use = "chaos"
        in = "lines"
        out = "never"
        retry.attempts = 1
        restart = { on_panic = "service", max_restarts = 1, backoff = { min = "10ms", max = "100ms" } }
        config.panic = 1.0
        [topics.never]
        external = "out"
    "#;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (code, process) = until_idle(folder.path(), "memory:", broken);
    let said = process.stderr();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("down for good: broken\n"), "{said}");
    assert!(!said.contains("lost with"), "nothing is left: {said}");
    assert_eq!(summed(&process, "broken", "dead_letters"), 3);
}

#[test]
fn a_root_supervisor_that_gives_up_ends_the_app_with_exit_code_1_and_queued_messages_are_kept() {
    let broken = r#"
        [services.broken]
        use = "file-out"
        in = "lines"
        config.path = "folder/out.jsonl"
        [services.broken.restart]
        max_restarts = 1
        backoff = { min = "1ms", max = "10ms" }
        on_give_up = "escalate"
        [supervision]
        max_restarts = 1
    "#;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let in_the_way = folder.path().join("folder");
    std::fs::write(&in_the_way, "").expect("it can be written");
    prepare(folder.path(), NO_ADMIN, 3, &format!("{COPY}{broken}"));
    // This app would run for ever.
    let mut process = parts::run(folder.path(), folder.path(), &[]);
    let code = process.exit_code(PATIENCE);
    let said = process.stderr();
    assert_eq!(code, Some(1), "{said}");
    let error = said.lines().find(|line| line.starts_with("error: "));
    let error = error.expect("it says why");
    let blamed = "error: services failed 2 times within 1m, at last broken: failed 2 times";
    assert!(error.starts_with(blamed), "{error}");
    assert!(error.contains("can't write to folder/out.jsonl"), "{error}");
    // The stop was graceful: the summary was printed.
    let printed = process.rest();
    let copied = printed.iter().any(|line| line.starts_with("copy "));
    assert!(copied, "{printed:#?}");

    std::fs::remove_file(&in_the_way).expect("it can be removed");
    let mut again = parts::run(folder.path(), folder.path(), &["--until-idle"]);
    assert_eq!(again.exit_code(PATIENCE), Some(0), "{}", again.stderr());
    for file in ["copy.jsonl", "folder/out.jsonl"] {
        let copied = ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"];
        assert_eq!(lines(folder.path(), file), copied, "{file}");
    }
}

#[test]
fn too_many_blocked_threads_end_the_app_with_exit_code_1_and_nothing_is_lost() {
    /// Number of instances that block their threads at once.
    const SIDE_BY_SIDE: usize = 4;
    let app = format!("workers = {SIDE_BY_SIDE}\nshutdown_timeout = \"1s\"\n{NO_ADMIN}");
    // Each attempt blocks for longer than the test waits.
    let services = |part: f64| -> String {
        let service = |nth| {
            format!(
                r#"
                [services.blocks-{nth}]
                use = "chaos"
                in = "lines"
                out = "done-{nth}"
                handler_timeout = "1s"
                retry = {{ attempts = 100, backoff = {{ min = "1ms", max = "1ms" }} }}
                config = {{ block = {part:?}, for = "9m" }}
                [services.keep-{nth}]
                use = "file-out"
                in = "done-{nth}"
                config.path = "out-{nth}.jsonl"
                "#
            )
        };
        (0..SIDE_BY_SIDE).map(service).collect()
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), &app, 1, &services(1.0));
    let begun = Instant::now();
    let mut process = parts::run(folder.path(), folder.path(), &[]);
    let code = process.exit_code(PATIENCE);
    println!("after {:?}", begun.elapsed());
    let said = process.stderr();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("threads are blocked by handlers"), "{said}");
    assert!(said.contains("error: "), "{said}");
    assert!(said.contains("threads blocked by handlers: "), "{said}");

    prepare(folder.path(), &app, 1, &services(0.0));
    let mut again = parts::run(folder.path(), folder.path(), &["--until-idle"]);
    assert_eq!(again.exit_code(PATIENCE), Some(0), "{}", again.stderr());
    for nth in 0..SIDE_BY_SIDE {
        let mut done = lines(folder.path(), &format!("out-{nth}.jsonl"));
        // A line comes twice if the source's thread was blocked before the line was confirmed.
        done.dedup();
        assert_eq!(done, ["{\"n\":0}"], "of blocks-{nth}");
    }
}
