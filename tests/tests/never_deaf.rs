//! Never deaf: whatever happens to the broker or to what is on it, in the middle of a load,
//! the app goes on by itself, loses nothing, and tells the truth meanwhile.
//!
//! The shipped binary reads a file, marks each line twice and writes it; beside it a front
//! door takes what a test posts. A checker knows what was attempted, accepted and handled.

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
/// From the broker working again to the first line that is written. It is half a second;
/// other tests want the machine, too.
const SOON: Duration = Duration::from_secs(5);
/// How often those are asked who don't say by themselves.
const EVERY: Duration = Duration::from_millis(20);

fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// What the outside sees of a fault.
struct Expected {
    /// What readiness says of it, if that takes long enough to be seen for certain.
    not_ready: Option<&'static str>,
    /// How often the connection may be lost.
    losses: RangeInclusive<usize>,
}

const IS_LOST: &str = "the transport amqp is down: the connection to the broker is lost";

/// For some seconds.
const LOST: Expected = Expected {
    not_ready: Some(IS_LOST),
    losses: 1..=1,
};

/// For some tenths of a second.
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

/// What the outside saw.
struct Watching {
    stop: Arc<AtomicBool>,
    ready: Watch,
    /// What was posted, and the answer to it.
    posted: JoinHandle<Vec<(usize, u16)>>,
}

impl Load {
    /// Starts it, and waits until it is in full swing.
    fn start(more_url: &str) -> Self {
        let lines = if is_full() { 60_000 } else { 20_000 };
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

    /// Waits until readiness says something; at once, as it were: it may be short.
    fn until_ready_says(&self, ready: bool, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http::get(self.admin, "/health/ready").expect("the app lives");
            if (answer.code == 200) == ready && answer.body.contains(what) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {}", answer.body);
            std::thread::sleep(EVERY);
        }
    }

    fn api(&self) -> Value {
        let answer = http::get(self.admin, "/api/app").expect("the app lives");
        answer.json()
    }

    /// How many messages a service has emitted.
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

    /// The fault is over: the app goes on by itself, to the end, and everything adds up.
    /// `gone` are the numbers that the fault may have thrown away.
    fn check(mut self, expected: &Expected, gone: Range<u64>) {
        let (back, before) = (Instant::now(), self.written());
        assert!(before < self.lines, "the fault came after the load");
        self.until_written(before + 1);
        let deaf = back.elapsed();
        assert!(deaf < SOON, "deaf for {deaf:?} with a broker that works");
        self.until_ready_says(true, "");
        let reconnects = self.api()["transport"]["reconnects"].as_u64();
        let reconnects = reconnects.expect("a count");
        self.watching.stop.store(true, Relaxed);
        let ready = self.watching.ready.stop();
        let posted = self.watching.posted.join().expect("it posts");
        // The rest of the load, in a debug build beside other work.
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
        assert_eq!(reconnects, losses as u64, "what /api/app says");
        assert_eq!(said("isolated") + said("given up"), 0, "{log}");
        let complaints = said(" WARN ") + said(" ERROR ");
        // Each loss, and what was just about to be consumed at one of them.
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

/// How many lines are missing, and how many are there more than once: each under the
/// ids that it had at first.
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

/// Posts numbers, one after the other; the code is 0 where there was no answer.
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
fn a_broker_that_restarts_finds_the_app_at_work_again() {
    let mut load = Load::start("");
    load.broker.stop();
    load.until_ready_says(false, IS_LOST);
    load.broker.start_again();
    load.check(&LOST, NOTHING);
}

#[test]
fn a_broker_that_is_killed_and_started_again_finds_the_app_at_work_again() {
    let mut load = Load::start("");
    load.broker.write_queues_down();
    load.broker.kill();
    load.until_ready_says(false, IS_LOST);
    load.broker.start_again();
    load.check(&LOST, NOTHING);
}

#[test]
fn connections_that_are_closed_by_force_are_made_again() {
    let load = Load::start("");
    load.broker
        .ctl(&["close_all_connections", "a test closes them"]);
    load.check(&LOST_SHORTLY, NOTHING);
}

#[test]
fn connections_that_are_closed_again_and_again_isolate_nobody() {
    let load = Load::start("");
    // More often than any service may fail. One may be gone before it is told to go.
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
fn a_queue_that_is_deleted_under_its_consumer_is_made_and_consumed_again() {
    let load = Load::start("");
    let handled = load.written() as u64;
    load.broker.ctl(&["delete_queue", "deaf.second.in"]);
    load.until_ready_says(true, "");
    // What was in it is gone, and what came while it was not there; nothing that was
    // sent later is. So many may be under way beside.
    let gone = handled.saturating_sub(1000)..load.emitted("lines") + 1000;
    let expected = Expected {
        not_ready: None,
        // Its publisher's channel may fail in the broker as the queue goes.
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
fn an_exchange_that_is_deleted_under_its_publishers_is_made_again() {
    let load = Load::start("");
    load.broker.ctl(&[
        "eval",
        "rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"deaf\">>), false, <<\"t\">>).",
    ]);
    load.check(&LOST_SHORTLY, NOTHING);
}

#[test]
fn a_broker_short_of_memory_makes_everybody_wait_and_loses_nothing() {
    let load = Load::start("");
    load.broker
        .ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let expected = Expected {
        not_ready: Some("the broker accepts no publications"),
        losses: 0..=0,
    };
    load.until_ready_says(false, "the broker accepts no publications");
    if is_full() {
        // Longer than a publication waits for its confirm: that it lasts is the fault.
        std::thread::sleep(Duration::from_secs(35));
    }
    load.broker.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    load.check(&expected, NOTHING);
}

#[test]
fn a_broker_that_says_nothing_is_noticed_by_its_heartbeat() {
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
