//! A connected app always consumes: after any fault of the broker under load, the app resumes by
//! itself, loses nothing, and reports its state correctly.
//!
//! The shipped binary reads a file, marks each line twice and writes it; an HTTP input takes
//! requests of the test. A checker knows the attempted, accepted and handled messages.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::checker::Kept;
use brickwork_tests::http;
use brickwork_tests::parts::{self, LINES, MARKED_TWICE};
use brickwork_tests::process::{Process, free_address, until};
use brickwork_tests::watch::Watch;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum time from a working broker to the next written line. Half a second on an idle machine.
const SOON: Duration = Duration::from_secs(5);
/// Poll interval.
const EVERY: Duration = Duration::from_millis(20);

fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// Visible effects of a fault.
struct Expected {
    /// The readiness text, if the fault lasts long enough to be seen reliably.
    not_ready: Option<&'static str>,
    /// Allowed number of lost connections.
    losses: RangeInclusive<usize>,
}

const IS_LOST: &str = "the transport amqp is down: the connection to the broker is lost";

/// The connection is lost for some seconds.
const LOST: Expected = Expected {
    not_ready: Some(IS_LOST),
    losses: 1..=1,
};

/// The connection is lost for some tenths of a second.
const LOST_SHORTLY: Expected = Expected {
    not_ready: None,
    losses: 1..=1,
};

/// An app under load.
struct Load {
    broker: Broker,
    app: Process,
    admin: SocketAddr,
    folder: tempfile::TempDir,
    lines: usize,
    watching: Watching,
}

/// Observers of the app.
struct Watching {
    stop: Arc<AtomicBool>,
    ready: Watch,
    /// Posted numbers with the status code of each answer.
    posted: JoinHandle<Vec<(usize, u16)>>,
}

impl Load {
    /// Starts the app and waits until it is under load.
    fn start(more_url: &str) -> Self {
        let lines = if is_full() { 60_000 } else { 8_000 };
        let broker = Broker::start();
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (admin, door) = (free_address(), free_address());
        let url = format!("{}{more_url}", broker.url());
        prepare(folder.path(), &url, admin, door, lines);
        let arguments = ["--until-idle", "--fail-on-dlq", "--json"];
        let app = parts::run(folder.path(), folder.path(), &arguments);
        let stop = Arc::<AtomicBool>::default();
        let watching = Watching {
            ready: Watch::start(admin, &folder.path().join("out.jsonl")),
            posted: std::thread::spawn({
                let stop = stop.clone();
                move || post(door, &stop)
            }),
            stop,
        };
        let load = Self {
            broker,
            app,
            admin,
            folder,
            lines,
            watching,
        };
        load.until_written(lines / 20);
        load
    }

    fn written(&self) -> usize {
        let text = std::fs::read(self.folder.path().join("out.jsonl")).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    fn until_written(&self, count: usize) {
        until("lines are written", PATIENCE, || match self.written() {
            written if written >= count => Ok(()),
            written => Err(format!("{written} of {count}")),
        });
    }

    /// Polls readiness without a pause, since the state may be short.
    fn until_ready_says(&self, ready: bool, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http::get(self.admin, "/health/ready").expect("the app lives");
            if (answer.code == 200) == ready && answer.body.contains(wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted}: {}", answer.body);
            std::thread::sleep(EVERY);
        }
    }

    fn api(&self) -> Value {
        let answer = http::get(self.admin, "/api/app").expect("the app lives");
        answer.json()
    }

    /// Returns the number of messages that a service has emitted.
    fn emitted(&self, service: &str) -> u64 {
        let app = self.api();
        let services = app["services"].as_array().expect("services").iter();
        let row = services.clone().find(|row| row["service"] == service);
        let outputs = &row.expect("a row for each service")["outputs"];
        let outputs = outputs.as_array().expect("outputs").iter();
        outputs
            .map(|output| output["emitted"].as_u64().expect("a count"))
            .sum()
    }

    /// After the fault: waits for the end and checks that nothing is lost. The fault may have
    /// destroyed the numbers in `gone`.
    fn check(mut self, expected: &Expected, gone: Range<u64>) {
        let (back, before) = (Instant::now(), self.written());
        assert!(before < self.lines, "the fault came after the load");
        self.until_written(before + 1);
        let deaf = back.elapsed();
        let log = || self.app.stderr();
        assert!(
            deaf < SOON,
            "deaf for {deaf:?} with a broker that works:\n{}",
            log()
        );
        self.until_ready_says(true, "");
        let reconnects = self.api()["transport"]["reconnects"].as_u64();
        let reconnects = reconnects.expect("a count");
        self.watching.stop.store(true, Relaxed);
        let ready = self.watching.ready.stop();
        let posted = self.watching.posted.join().expect("it posts");
        // Time for the rest of the load, in a debug build beside other work.
        let rest = Duration::from_millis(5 * self.lines as u64);
        let code = self.app.exit_code(PATIENCE + rest);
        let log = self.app.stderr();
        assert_eq!(code, Some(0), "{log}");

        let (lost, again) = count(self.folder.path(), self.lines, &gone);
        let accepted: HashSet<usize> = posted
            .iter()
            .filter(|(_, code)| *code == 202)
            .map(|(number, _)| *number)
            .collect();
        let refused = posted.iter().filter(|(_, code)| *code == 503).count();
        let kept = Kept::read(&self.folder.path().join("posted.jsonl"));
        let missing: Vec<_> = accepted
            .iter()
            .filter(|number| !kept.has(**number as u64))
            .collect();
        assert_eq!(
            missing,
            Vec::<&usize>::new(),
            "accepted at the door and lost"
        );
        for (number, code) in &posted {
            assert!(matches!(code, 0 | 202 | 503), "{number}: {code}");
        }

        if let Some(why) = expected.not_ready {
            let mut looks = ready.0.iter();
            let told = looks.any(|look| look.ready == Some(false) && look.why.contains(why));
            assert!(told, "never said {why:?}: {ready:#?}");
        }
        let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        let losses = said("the connection to the broker is lost");
        let returns = said("connected to the broker again");
        assert!(expected.losses.contains(&losses), "{log}");
        assert_eq!(losses, returns, "{log}");
        assert_eq!(reconnects, losses as u64, "the answer of /api/app");
        assert_eq!(said("isolated") + said("given up"), 0, "{log}");
        let complaints = said(" WARN ") + said(" ERROR ");
        // One warning for each loss, and one for a consumer that was about to start.
        assert!(
            complaints <= losses + 6,
            "{complaints} lines of complaint:\n{log}"
        );
        println!(
            "deaf for {deaf:?}; of {} lines {lost} thrown away, {again} handled again; of {} \
             posted {} accepted, {refused} refused; {complaints} lines of complaint",
            self.lines,
            posted.len(),
            accepted.len(),
        );
    }
}

/// Counts missing and duplicate lines. A duplicate has the ids of the first line.
fn count(folder: &Path, lines: usize, gone: &Range<u64>) -> (usize, usize) {
    let kept = Kept::read(&folder.join("out.jsonl"));
    let (nobody_sent, lost) = (
        kept.unexpected(&(0..lines as u64)),
        kept.missing(0..lines as u64),
    );
    assert_eq!(nobody_sent, Vec::<u64>::new());
    let lost_here = lost.iter().filter(|number| !gone.contains(number)).count();
    assert_eq!(lost_here, 0, "{lost:?} are lost, {gone:?} may be");
    (lost.len(), kept.again(&["first", "second"]))
}

fn prepare(folder: &Path, url: &str, admin: SocketAddr, door: SocketAddr, lines: usize) {
    let manifest = format!(
        r#"
        [app]
        name = "deaf"
        transport = "{url}"
        [admin]
        listen = "{admin}"
        {LINES}
        {MARKED_TWICE}
        {}
        "#,
        parts::door(door)
    );
    parts::write(folder, &manifest, parts::numbers(lines as u64));
}

/// Posts numbers one after the other. The code is 0 if there was no answer.
fn post(door: SocketAddr, stop: &AtomicBool) -> Vec<(usize, u16)> {
    let mut answers = Vec::new();
    while !stop.load(Relaxed) {
        let body = format!("{{\"n\":{}}}", answers.len());
        let answer = http::post(
            door,
            "/",
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        );
        answers.push((answers.len(), answer.map_or(0, |answer| answer.code)));
        std::thread::sleep(EVERY);
    }
    answers
}

const NOTHING: Range<u64> = 0..0;

#[test]
fn an_app_resumes_after_a_restart_of_the_broker() {
    let mut load = Load::start("");
    load.broker.stop();
    load.until_ready_says(false, IS_LOST);
    load.broker.start_again();
    load.check(&LOST, NOTHING);
}

#[test]
fn an_app_resumes_after_the_broker_was_killed_and_started() {
    let mut load = Load::start("");
    load.broker.write_queues_down();
    load.broker.kill();
    load.until_ready_says(false, IS_LOST);
    load.broker.start_again();
    load.check(&LOST, NOTHING);
}

#[test]
fn forcibly_closed_connections_are_reopened() {
    let load = Load::start("");
    load.broker
        .ctl(&["close_all_connections", "a test closes them"]);
    load.check(&LOST_SHORTLY, NOTHING);
}

#[test]
fn repeatedly_closed_connections_isolate_no_service() {
    let load = Load::start("");
    // More closures than a service may have failures. A connection may end before it is closed.
    load.broker.ctl(&[
        "eval",
        "[begin
            [catch rabbit_networking:close_connection(C, <<\"t\">>) || C <- rabbit_networking:connections()],
            timer:sleep(400)
        end || _ <- lists:seq(1, 8)].",
    ]);
    let expected = Expected {
        not_ready: None,
        losses: 1..=8,
    };
    load.check(&expected, NOTHING);
}

#[test]
fn a_deleted_queue_is_declared_and_consumed_again() {
    let load = Load::start("");
    let handled = load.written() as u64;
    load.broker.ctl(&["delete_queue", "deaf.second.in"]);
    load.until_ready_says(true, "");
    // Messages in the deleted queue and those sent while it was missing are gone; later ones are
    // not. The margin covers messages in flight.
    let gone = handled.saturating_sub(1000)..load.emitted("lines") + 1000;
    let expected = Expected {
        not_ready: None,
        // The broker may close the publisher's channel when the queue is deleted.
        losses: 0..=1,
    };
    load.check(&expected, gone);
}

#[test]
fn a_cancelled_consumer_consumes_again() {
    let load = Load::start("");
    load.broker.ctl(&[
        "eval",
        "[rabbit_channel:send_command(proplists:get_value(channel_pid, C),
            {'basic.cancel', proplists:get_value(consumer_tag, C), true})
            || C <- rabbit_amqqueue:consumers_all(<<\"/\">>)].",
    ]);
    let expected = Expected {
        not_ready: None,
        losses: 0..=0,
    };
    load.check(&expected, NOTHING);
}

#[test]
fn a_deleted_exchange_is_declared_again() {
    let load = Load::start("");
    load.broker.ctl(&[
        "eval",
        "rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"deaf\">>), false, <<\"t\">>).",
    ]);
    load.check(&LOST_SHORTLY, NOTHING);
}

#[test]
fn a_broker_short_of_memory_delays_publishers_and_loses_nothing() {
    let load = Load::start("");
    load.broker
        .ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let expected = Expected {
        not_ready: Some("the broker accepts no publications"),
        losses: 0..=0,
    };
    load.until_ready_says(false, "the broker accepts no publications");
    if is_full() {
        // The fault must last longer than a publication waits for its confirm.
        std::thread::sleep(Duration::from_secs(35));
    }
    load.broker.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    load.check(&expected, NOTHING);
}

#[test]
fn a_silent_broker_is_detected_by_its_heartbeat() {
    if !is_full() {
        eprintln!("takes long: run with BRICKWORK_FULL=1");
        return;
    }
    let load = Load::start("?heartbeat=2");
    let frozen = load.broker.freeze();
    load.until_ready_says(false, IS_LOST);
    drop(frozen);
    load.check(&LOST, NOTHING);
}
