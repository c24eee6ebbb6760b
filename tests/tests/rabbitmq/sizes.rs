//! Message sizes: an oversized message from any sender is dead-lettered alone and costs bounded
//! memory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::{Broker, Settings};
use brickwork_tests::checker::Kept;
use brickwork_tests::process::{Process, until};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// A program outside that knows nothing of the app's limits.
struct Stranger {
    _connection: Connection,
    channel: Channel,
}

/// A dead letter.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Letter {
    id: String,
    bytes: usize,
    reason: String,
}

impl Stranger {
    async fn connect(broker: &Broker) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&broker.url(), properties).await;
        let connection = connection.expect("it connects");
        let channel = connection.create_channel().await.expect("a channel");
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.expect("confirms");
        Self {
            _connection: connection,
            channel,
        }
    }

    async fn publish(&self, app: &str, id: &str, payload: &[u8]) {
        let published = self.channel.basic_publish(
            app.into(),
            "big".into(),
            BasicPublishOptions::default(),
            payload,
            BasicProperties::default()
                .with_message_id(id.into())
                .with_delivery_mode(2),
        );
        let confirm = published.await.expect("it is sent").await;
        assert!(confirm.expect("it is confirmed").is_ack(), "{id}");
    }

    async fn letters(&self, queue: &str) -> (Vec<Letter>, Vec<String>) {
        let (mut letters, mut errors) = (Vec::new(), Vec::new());
        let get = || {
            self.channel
                .basic_get(queue.into(), BasicGetOptions::default())
        };
        while let Some(got) = get().await.expect("it can be read") {
            let properties = &got.delivery.properties;
            let headers = properties.headers().clone().unwrap_or_default();
            let header = |name: &str| match headers.inner().get(name) {
                Some(AMQPValue::LongString(text)) => text.to_string(),
                other => format!("{other:?}"),
            };
            let id = properties.message_id().as_ref();
            letters.push(Letter {
                id: id.map(ToString::to_string).unwrap_or_default(),
                bytes: got.delivery.data.len(),
                reason: header("brickwork-reason"),
            });
            errors.push(header("brickwork-error"));
        }
        letters.sort();
        (letters, errors)
    }
}

/// Returns a payload of exactly `bytes` bytes.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut text = format!("{{\"n\":{number},\"a\":\"");
    let pad = bytes - text.len() - 2;
    text.extend(std::iter::repeat_n('x', pad));
    text.push_str("\"}");
    text.into_bytes()
}

fn start(folder: &Path, app: &str, broker: &Broker, limit: &str, services: &str) -> Process {
    let manifest = format!(
        r#"
        [app]
        name = "{app}"
        transport = "{}"
        max_message = "{limit}"
        [admin]
        listen = "off"
        [topics.big]
        external = "in"
        {services}
        "#,
        broker.url()
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let app = Process::start(command, folder, "it was just built");
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    app
}

/// Returns the peak memory of a process in bytes.
fn memory_max(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number")
        * 1024
}

fn until_written(folder: &Path, count: usize, app: &Process) {
    until("everything else is written", PATIENCE, || {
        let written = Kept::count_so_far(&folder.join("out.jsonl"));
        match written >= count {
            true => Ok(()),
            false => Err(format!("{written} of {count}: {}", app.stderr())),
        }
    });
}

#[tokio::test]
async fn an_oversized_message_is_dead_lettered_alone_and_costs_bounded_memory() {
    let broker = Broker::shared();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let keep = r#"
        [services.keep]
        use = "file-out"
        in = "big"
        mailbox = 4
        config.path = "out.jsonl"
        "#;
    let app = start(folder.path(), "sizes", broker, "1MiB", keep);
    let before = memory_max(app.id());
    let stranger = Stranger::connect(broker).await;
    let mut expected = Vec::new();
    for number in 0..100 {
        let id = format!("large-{number:03}");
        stranger
            .publish("sizes", &id, &payload(number, 2 * MIB))
            .await;
        let small = format!("small-{number}");
        stranger
            .publish("sizes", &small, &payload(number, 100))
            .await;
        expected.push((id, 2 * MIB));
    }
    // Exactly the limit, one byte more, and an empty payload, which isn't JSON.
    stranger.publish("sizes", "exact", &payload(100, MIB)).await;
    stranger
        .publish("sizes", "more", &payload(101, MIB + 1))
        .await;
    stranger.publish("sizes", "nothing", b"").await;
    expected.push(("more".into(), MIB + 1));
    expected.push(("nothing".into(), 0));

    until_written(folder.path(), 101, &app);
    until("the rest is with the dead letters", PATIENCE, || {
        let queues = broker.ctl(&["list_queues", "name", "messages"]);
        match queues.contains("sizes.keep.dlq\t102") {
            true => Ok(()),
            false => Err(queues),
        }
    });
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(id, bytes)| Letter {
            id,
            bytes,
            reason: "reject".into(),
        })
        .collect();
    let (letters, errors) = stranger.letters("sizes.keep.dlq").await;
    assert_eq!(letters, expected);
    let said = |text: &str| errors.iter().filter(|error| error.contains(text)).count();
    assert_eq!(said("app.max_message allows 1048576"), 101, "{errors:?}");
    let kept = Kept::read(&folder.path().join("out.jsonl"));
    assert_eq!(kept.unexpected(&(0..101)), [] as [u64; 0]);
    let more = memory_max(app.id()) - before;
    println!("{} MiB more at the peak", more / MIB);
    assert!(
        more < 64 * MIB,
        "{} MiB for 200 MiB of messages",
        more / MIB
    );
}

#[tokio::test]
async fn a_message_too_large_for_the_broker_is_dead_lettered_alone() {
    let broker = Broker::with(&Settings {
        more: "max_message_size = 1048576",
        ..Settings::default()
    });
    let folder = tempfile::tempdir().expect("a folder can be made");
    let twice = r#"
        [services.twice]
        use = "map"
        in = "big"
        out = "twice"
        retry.backoff.min = "100ms"
        config.to = { n = "msg.n", a = "msg.a", b = "msg.a" }
        [services.keep]
        use = "file-out"
        in = "twice"
        config.path = "out.jsonl"
        "#;
    let app = start(folder.path(), "twice", &broker, "4MiB", twice);
    let stranger = Stranger::connect(&broker).await;
    for number in 0..100 {
        let bytes = if number % 20 == 10 { 700_000 } else { 100 };
        let id = format!("{number}");
        stranger
            .publish("twice", &id, &payload(number, bytes))
            .await;
    }
    until_written(folder.path(), 95, &app);
    until("the rest is with the dead letters", PATIENCE, || {
        let queues = broker.ctl(&["list_queues", "name", "messages"]);
        match queues.contains("twice.twice.dlq\t5") {
            true => Ok(()),
            false => Err(queues),
        }
    });
    let (letters, errors) = stranger.letters("twice.twice.dlq").await;
    let ids: Vec<&str> = letters.iter().map(|letter| &*letter.id).collect();
    assert_eq!(ids, ["10", "30", "50", "70", "90"]);
    assert!(
        letters.iter().all(|letter| letter.reason == "reject"),
        "{letters:?}"
    );
    assert!(
        errors
            .iter()
            .all(|error| error.contains("the broker accepts at most 1048576 bytes")),
        "{errors:?}"
    );
    let log = app.stderr();
    let losses = log.matches("the connection to the broker is lost").count();
    assert_eq!(losses, 1, "it says so once: {log}");
}
