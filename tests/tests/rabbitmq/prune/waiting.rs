//! Messages for a service that the manifest no longer has: those that wait for a retry keep its
//! queue, and those that wait in its queue are told.

use brickwork_tests::http::get;
use brickwork_tests::process::free_address;

use super::*;

/// The old service, with messages that fail and wait for an hour.
const FAILING: &str = r#"
    [services.old]
    use = "chaos"
    in = "numbers"
    out = "through"
    retry.backoff = { min = "1h", max = "1h", jitter = 0.0 }
    config.fail = 1.0
    [topics."through"]
    external = "out"
"#;

#[test]
fn a_queue_stays_while_messages_wait_for_a_retry_there() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("waits", r#""numbers""#, FAILING));
    site.write("v2.toml", &manifest("waits", r#""numbers""#, ""));
    let run = site.command("run", "v1.toml", &[]);
    let mut run = Process::start(run, site.path(), "it was just built");
    let hand = Hand::on(broker);
    hand.until_ready("waits.wait.6553600", 2);
    // A process that is killed may not have acked the messages whose retries wait.
    let signal = ["-TERM", &run.id().to_string()];
    assert!(
        Command::new("kill")
            .args(signal)
            .status()
            .is_ok_and(|it| it.success())
    );
    assert_eq!(run.exit_code(PATIENCE), Some(0), "{}", run.stderr());
    let left = site.prune("v2.toml", &["--yes"]);
    let expected = [
        ("queue waits.old.dlq", "kept"),
        ("queue waits.old.in", "kept"),
        ("queue waits.old.suspect", "kept"),
    ];
    assert_eq!(fates(&left), expected, "{left:?}");
    let why = &left["queue waits.old.in"].1;
    assert!(why.contains("2 messages wait for a retry"), "{why}");
    hand.until_ready("waits.wait.6553600", 2);
    let left = site.prune("v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(fates(&left), expected.map(|(what, _)| (what, "removed")));

    // A message whose queue is gone is held, told, and removed on demand only.
    hand.publish("", "waits.unroutable", "{}");
    let held = "messages in queue waits.unroutable";
    assert_eq!(fates(&site.check("v2.toml")), [(held, "kept")]);
    assert_eq!(fates(&site.prune("v2.toml", &["--yes"])), [(held, "kept")]);
    hand.until_ready("waits.unroutable", 1);
    let left = site.prune("v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(fates(&left), [(held, "removed")]);
    hand.until_ready("waits.unroutable", 0);
}

#[test]
fn messages_that_no_service_reads_are_told_at_the_start_and_by_health_and_metrics() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("renamed", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("renamed", r#""numbers""#, ""));
    // Each version has a data folder of its own.
    site.write("data.toml", "app.data = \"data-old\"");
    let old = ["--only", "old", "--with", "data.toml"];
    let old = site.command("run", "v1.toml", &old);
    let old = Process::start(old, site.path(), "it was just built");
    old.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let listen = free_address();
    let admin = format!("admin.listen = \"{listen}\"");
    site.write("admin.toml", &admin);
    let new = site.command(
        "run",
        "v2.toml",
        &["--with", "admin.toml", "--only", "keep"],
    );
    let new = Process::start(new, site.path(), "it was just built");
    new.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    // An older version still reads it.
    let notes = || {
        let ready = get(listen, "/health/ready").expect("it answers");
        assert_eq!(ready.code, 200, "{}", ready.body);
        ready.body
    };
    std::thread::sleep(Duration::from_secs(2));
    assert!(!notes().contains("no service reads"), "{}", notes());
    old.stop();
    new.stop();

    let hand = Hand::on(broker);
    hand.publish("renamed", "numbers", "{}");
    hand.until_ready("renamed.old.in", 1);
    let new = site.command(
        "run",
        "v2.toml",
        &["--with", "admin.toml", "--only", "keep"],
    );
    let new = Process::start(new, site.path(), "it was just built");
    let told = "1 messages wait in renamed.old.in, which no service reads";
    until("readiness tells", PATIENCE, || {
        match get(listen, "/health/ready") {
            Ok(ready) if ready.code == 200 && ready.body.contains(told) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let metrics = get(listen, "/metrics").expect("it answers").body;
    let metric = "brickwork_stranded_messages{transport=\"amqp\"} 1";
    assert!(metrics.contains(metric), "{metrics}");
    let log = new.stderr();
    assert!(
        log.contains("no service reads this queue") && log.contains("renamed.old.in"),
        "{log}"
    );
    new.stop();
}
