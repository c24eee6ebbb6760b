//! The blame of a suspect that asks: its dependents may have crashed the process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork::Settlement;
use brickwork_tests::checker::{DeadLetter, Kept, dead_letters};
use brickwork_tests::kept::Queues;
use brickwork_tests::process::{Process, until};
use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{App, Place, SOON, attempt, message};

/// The expected crashes of a suspect that asks each time before the process crashes.
///
/// RabbitMQ counts deliveries and can't store that a suspect asked, so each crash after the
/// concurrent one counts. The embedded transport does not count the first two with dependents.
mod expected {
    pub(super) const RABBITMQ: [u32; 5] = [0, 1, 2, 3, 4];
    pub(super) const EMBEDDED: [u32; 5] = [0, 0, 0, 1, 2];
}

const SERVICES: &[&str] = &["stock", "prices"];

#[tokio::test]
async fn a_suspect_with_dependents_is_blamed_in_the_end() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let embedded = Place::embedded(folder.path(), "shop");
    blames(&embedded, expected::EMBEDDED).await;
}

#[tokio::test]
async fn a_suspect_with_dependents_is_blamed_for_each_crash_that_rabbitmq_counts() {
    blames(&Place::rabbitmq("dependents"), expected::RABBITMQ).await;
}

async fn blames(place: &Place, expected: [u32; 5]) {
    // Three crashes: from then on the suspect is tried alone.
    for crash in 0..3 {
        let app = App::start(place, SERVICES, false).await;
        if crash == 0 {
            app.publish("stock", "suspect").await;
        }
        let suspect = app.consume("stock").await.one().await;
        app.crash(vec![suspect]);
    }
    for blamed in expected {
        let app = App::start(place, SERVICES, false).await;
        let mut stock = app.consume("stock").await;
        let suspect = stock.one().await;
        assert_eq!(attempt(&suspect), (blamed + 1, blamed));
        // A request that is answered long before the crash was a dependent, too.
        let mut prices = app.consume("prices").await;
        let reply = app.transport.ask(message("stock", "prices", "price"), SOON);
        let request = prices.one().await;
        request.settle(Settlement::Ack(Some(Ok(Bytes::from("7")))));
        let reply = timeout(SOON, reply).await.expect("it ends");
        assert_eq!(reply.expect("it is answered").payload, "7");
        app.transport.flush().await.expect("it flushes");
        app.crash(vec![suspect]);
    }
}

/// A manifest in which each message has one attempt: one that waits until its deadline would
/// be given up.
fn manifest(place: &Place) -> String {
    format!(
        r#"
        [app]
        name = "{}"
        transport = "{}"
        [admin]
        listen = "off"
        [topics.stock]
        external = "in"
        [services.stock]
        use = "asker"
        in = "stock"
        out = {{ ask = "questions", out = "done" }}
        instances = 4
        retry.attempts = 1
        [services.answers]
        use = "answerer"
        in = "questions"
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "done.jsonl"
        "#,
        place.app, place.url
    )
}

const COUNT: u64 = 20;
const CULPRIT: u64 = 1;
/// Two crashes in normal work, and one beside it.
const UNBLAMED: usize = 3;
/// Well before the deadline of a handler.
const IN_TIME: Duration = Duration::from_secs(25);

fn life(folder: &Path, number: usize) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{number}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}

#[test]
fn a_handler_that_asks_and_then_crashes_the_process_is_given_up_alone_embedded() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let place = Place::embedded(&folder.path().join("data"), "shop");
    let letters = || {
        let queues = Queues::open(&folder.path().join("data/queues"));
        queues.map_or_else(Vec::new, |queues| queues.dead_letters())
    };
    // Two crashes with dependents don't count.
    assert_eq!(run(&place, folder.path(), letters), UNBLAMED + 3);
}

#[test]
fn a_handler_that_asks_and_then_crashes_the_process_is_given_up_alone_rabbitmq() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let place = Place::rabbitmq("errands");
    let letters = || dead_letters(&place.url, place.app, &["stock"]);
    assert_eq!(run(&place, folder.path(), letters), UNBLAMED + 1);
}

/// Runs the app until all messages but the culprit are done, and the culprit is a dead letter.
/// Returns the number of crashes.
fn run(place: &Place, folder: &Path, letters: impl Fn() -> Vec<DeadLetter>) -> usize {
    let runtime = Runtime::new().expect("a runtime can be made");
    runtime.block_on(publish_errands(place));
    std::fs::write(folder.join("app.toml"), manifest(place)).expect("it can be written");
    let done = folder.join("done.jsonl");
    let mut crashes = 0;
    let mut app = life(folder, crashes);
    until("only the culprit is given up", IN_TIME, || {
        if app.has_ended() {
            crashes += 1;
            app = life(folder, crashes);
        }
        let (kept, letters) = (Kept::count_so_far(&done), letters());
        match kept + letters.len() >= COUNT as usize {
            true => Ok(()),
            false => Err(format!("{kept} done, {crashes} crashes, {letters:?}")),
        }
    });
    app.stop();
    let letters: Vec<_> = letters().iter().map(|letter| letter.n).collect();
    assert_eq!(letters, [CULPRIT]);
    assert_eq!(Kept::read(&done).missing(0..COUNT), [CULPRIT]);
    crashes
}

/// Publishes each errand once: a source that crashes may publish again.
async fn publish_errands(place: &Place) {
    let app = App::start(place, &["stock"], false).await;
    for n in 0..COUNT {
        let errand = json!({"n": n, "abort": n == CULPRIT});
        app.publish("stock", errand.to_string()).await;
    }
    app.transport.close().await;
}
