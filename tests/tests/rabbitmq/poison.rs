//! Poison: one message among hundreds, prefetched together with them, panics, never ends, or
//! kills the process. It is dead-lettered after its attempts within bounded time, and every other
//! message is handled, on every durable transport.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::checker::{DeadLetter, Kept, dead_letters};
use brickwork_tests::feeder::{Feed, Feeder};
use brickwork_tests::kept::Queues;
use brickwork_tests::process::{Process, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// Attempts, back-offs, time-outs and restarts of the process take a few seconds.
const IN_TIME: Duration = Duration::from_secs(30);
const ATTEMPTS: i64 = 3;

/// Transport of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a broker, fed by an outside publisher.
    Amqp,
    /// In a folder, fed from a file.
    Embedded,
}

/// Maximum crashes per poison message: two in normal work, one beside it, then its attempts alone.
const CRASHES_MAX: usize = 3 + ATTEMPTS as usize;

const COUNT: u64 = 400;
/// Numbers of the poison messages, in the middle of the others.
const POISON: [u64; 3] = [190, 200, 210];

/// Returns an order: a poison message performs its act, the others do a little work.
fn order(number: u64, acts: [&str; 3]) -> String {
    let act = POISON.iter().position(|poison| *poison == number);
    let act = act.map_or("", |index| acts[index]);
    let act = if act.is_empty() { "sleep" } else { act };
    json!({"n": number, "act": act, "ms": 5}).to_string()
}

fn panics(number: u64) -> String {
    order(number, ["", "panic", ""])
}

fn never_ends(number: u64) -> String {
    order(number, ["", "forever", ""])
}

fn aborts(number: u64) -> String {
    order(number, ["", "abort", ""])
}

fn all_at_once(number: u64) -> String {
    order(number, ["panic", "abort", "forever"])
}

fn prepare(folder: &Path, name: &str, place: Place, payload: fn(u64) -> String) {
    let url = match place {
        Place::Amqp => Broker::shared().url(),
        Place::Embedded => "embedded:data/queues".to_owned(),
    };
    let fed = match place {
        Place::Amqp => "[topics.orders]\nexternal = \"in\"",
        Place::Embedded => {
            "[services.feed]\nuse = \"file-in\"\nout = \"orders\"\nconfig.path = \"orders.jsonl\""
        }
    };
    let orders: String = (0..COUNT).map(|number| payload(number) + "\n").collect();
    std::fs::write(folder.join("orders.jsonl"), orders).expect("it can be written");
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        transport = "{url}"
        [admin]
        listen = "off"
        {fed}
        [services.work]
        use = "puppet"
        in.in = "orders"
        out = "done"
        instances = 4
        mailbox = 64
        handler_timeout = "500ms"
        retry = {{ attempts = {ATTEMPTS}, backoff = {{ min = "100ms", max = "200ms" }} }}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "done.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn start(folder: &Path, life: usize) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}

/// Feeds an app with `payload`s, restarts it after each death, and waits until all other messages
/// are handled and the poison is dead-lettered. Returns the number of deaths.
fn run(place: Place, name: &str, payload: fn(u64) -> String, expected: &[(u64, &str)]) -> usize {
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), name, place, payload);
    let mut app = start(folder.path(), 0);
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let began = Instant::now();
    let feeder = (place == Place::Amqp).then(|| {
        Feeder::start(Feed {
            url: Broker::shared().url(),
            app: name.to_owned(),
            topic: "orders".to_owned(),
            count: COUNT,
            payload,
            per_second: 10_000,
        })
    });
    let is_fed = || feeder.as_ref().is_none_or(Feeder::is_done);
    let done = folder.path().join("done.jsonl");
    let mut crashes = 0;
    let letters = || {
        let mut letters = match place {
            Place::Amqp => dead_letters(&Broker::shared().url(), name, &["work", "keep"]),
            Place::Embedded => Queues::open(&folder.path().join("data/queues"))
                .map_or_else(Vec::new, |queues| queues.dead_letters()),
        };
        letters.sort_by_key(|letter| letter.n);
        // Another poison message may kill the process between publishing a letter and the ack:
        // then the letter is there twice.
        letters.dedup();
        letters
    };
    until("only the poison is given up", IN_TIME, || {
        if app.has_ended() {
            crashes += 1;
            app = start(folder.path(), crashes);
        }
        let (kept, letters) = (Kept::count_so_far(&done), letters());
        if is_fed() && kept + letters.len() >= COUNT as usize {
            return Ok(());
        }
        Err(format!(
            "{kept} of {COUNT} handled, {crashes} crashes, {letters:?}"
        ))
    });
    let took = began.elapsed();
    let sent = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());

    let letter = |&(n, reason): &(u64, &str)| DeadLetter {
        n,
        reason: reason.to_owned(),
        attempts: ATTEMPTS,
    };
    let expected: Vec<_> = expected.iter().map(letter).collect();
    assert_eq!(letters(), expected);
    let kept = Kept::read(&done);
    let poison: Vec<u64> = expected.iter().map(|letter| letter.n).collect();
    assert_eq!(kept.missing(0..COUNT), poison, "innocents are lost");
    assert_eq!(kept.unexpected(&(0..COUNT)), Vec::<u64>::new());
    println!(
        "{name}: {crashes} crashes, {} of {COUNT} handled, all settled after {took:?}",
        kept.count()
    );
    crashes
}

/// Makes each promise a test of its own for each transport.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod amqp {
            $(#[test]
            fn $promise() {
                super::$promise(super::Place::Amqp);
            })*
        }
        mod embedded {
            $(#[test]
            fn $promise() {
                super::$promise(super::Place::Embedded);
            })*
        }
    };
}

promises! {
    a_message_that_panics_is_given_up_alone
    a_message_that_never_ends_is_given_up_alone
    a_message_that_aborts_the_process_is_given_up_alone
    each_of_several_culprits_is_given_up_for_what_it_did
}

fn a_message_that_panics_is_given_up_alone(place: Place) {
    assert_eq!(run(place, "poison-panic", panics, &[(200, "panic")]), 0);
}

fn a_message_that_never_ends_is_given_up_alone(place: Place) {
    assert_eq!(
        run(place, "poison-hang", never_ends, &[(200, "timeout")]),
        0
    );
}

fn a_message_that_aborts_the_process_is_given_up_alone(place: Place) {
    let crashes = run(place, "poison-abort", aborts, &[(200, "crash")]);
    assert!(crashes <= CRASHES_MAX, "{crashes} crashes");
}

fn each_of_several_culprits_is_given_up_for_what_it_did(place: Place) {
    let expected = [(190, "panic"), (200, "crash"), (210, "timeout")];
    let crashes = run(place, "poison-all", all_at_once, &expected);
    assert!(crashes <= CRASHES_MAX, "{crashes} crashes");
}

#[test]
fn a_suspect_is_kept_whatever_delivery_limit_a_policy_sets() {
    let limit = r#"{"delivery-limit":1}"#;
    let queue = r"^poison-policy\.work\.suspect$";
    Broker::shared().ctl(&["set_policy", "poison-policy", queue, limit]);
    let crashes = run(Place::Amqp, "poison-policy", aborts, &[(200, "crash")]);
    assert!(crashes <= CRASHES_MAX, "{crashes} crashes");
}
