//! Backpressure is seen by those who operate the app: readiness, metric, log.

use super::*;

#[test]
fn readiness_metric_and_log_name_the_full_queue_that_a_source_waits_for() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let [admin, address] = [(); 2].map(|()| free_address());
    let manifest = format!(
        r#"
        [app]
        name = "full"
        transport = "memory:"
        [admin]
        listen = "{admin}"
        [services.intake]
        use = "http-in"
        out = "posted"
        config.listen = "{address}"
        [services.work]
        use = "chaos"
        in = "posted"
        out = "worked"
        mailbox = 1
        queue.high_water = 2
        config = {{ stall = 1.0, for = "20s" }}
        [services.keep]
        use = "file-out"
        in = "worked"
        config.path = "kept.jsonl"
        "#
    );
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let process = Process::start(command, folder.path(), "it was just built");
    let get = |path: &str| http::get(admin, path).expect("it answers");
    until("the queue is full", PATIENCE, || {
        match http::post(address, "/", &[JSON], b"{}") {
            Ok(answer) if answer.code == 503 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let ready = until("readiness says so", PATIENCE, || {
        let answer = get("/health/ready");
        match answer.json().get("notes") {
            Some(notes) => Ok((answer.code, notes.to_string())),
            None => Err(answer.body),
        }
    });
    let (code, notes) = ready;
    assert_eq!(code, 200, "an app that is busy is ready: {notes}");
    for part in ["intake", "work.in", "2"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    let metrics = get("/metrics").body;
    let mark = "brickwork_queue_high_water_messages{service=\"work\",input=\"in\"} 2";
    assert!(metrics.contains(mark), "{metrics}");
    let paused = metrics
        .lines()
        .find(|line| line.starts_with("brickwork_sources_paused"));
    assert!(
        paused.is_some_and(|line| line.ends_with(" 1")),
        "{paused:?}"
    );
    // The log names a source that has waited for ten seconds.
    let lines = || {
        let log = process.stderr();
        let lines = log.lines().filter(|line| line.contains("the source waits"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    until("the log says so", PATIENCE, || match lines().is_empty() {
        false => Ok(()),
        true => Err(process.stderr()),
    });
    let logged = Instant::now();
    // Depths are read every second: later readings do not repeat the line.
    until("depths are read three more times", PATIENCE, || {
        match logged.elapsed() >= Duration::from_secs(3) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("service=intake") && lines[0].contains("work.in"),
        "{lines:?}"
    );
}
