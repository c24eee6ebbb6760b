//! Links over ZeroMQ: between two apps, at least once, and with programs that use libzmq.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::polyglot::python;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with an app of the shipped binary.
struct LinkedApp(TempDir);

impl LinkedApp {
    fn new(services: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let manifest = format!(
            "[app]\nname = \"linked\"\ntransport = \"embedded:data/queues\"\nmax_message = \"256KiB\"\n\
             [admin]\nlisten = \"off\"\n{services}"
        );
        fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        Self(folder)
    }

    /// An app that keeps the messages of a `zeromq-in` with this config.
    fn receiver(config: &str) -> Self {
        Self::new(&format!(
            "[services.link]\nuse = \"zeromq-in\"\nout = \"got\"\n[services.link.config]\n{config}\n\
             [services.keep]\nuse = \"file-out\"\nin = \"got\"\nconfig.path = \"got.jsonl\"\n"
        ))
    }

    /// An app that sends lines to a `zeromq-out` with this config.
    fn sender(lines: &[String], config: &str) -> Self {
        let app = Self::new(&format!(
            "[services.lines]\nuse = \"file-in\"\nout = \"orders.eu\"\nconfig.path = \"lines.jsonl\"\n\
             [services.link]\nuse = \"zeromq-out\"\nin = \"orders.eu\"\n[services.link.config]\n{config}\n"
        ));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(app.path().join("lines.jsonl"), text).expect("it can be written");
        app
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self) -> Process {
        let mut command = Command::new(brickwork());
        command.args(["run", "app.toml"]).current_dir(self.path());
        Process::start(command, self.path(), "it was just built")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("brickwork.stderr")).unwrap_or_default()
    }

    fn got(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path().join("got.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("whole lines of JSON"))
            .collect()
    }

    /// Waits until every number below `count` has come. Returns all messages.
    fn has_all(&self, count: u64) -> Vec<Value> {
        until("all messages arrive", PATIENCE, || {
            let got = self.got();
            let known: BTreeSet<u64> = got.iter().filter_map(|it| it["n"].as_u64()).collect();
            match known.len() as u64 == count {
                true => Ok(got),
                false => Err(format!("{} of {count}; {}", known.len(), self.log())),
            }
        })
    }

    /// Waits until the log has this text.
    fn logs(&self, text: &str) {
        until(text, PATIENCE, || match self.log() {
            log if log.contains(text) => Ok(()),
            log => Err(log),
        });
    }

    /// Returns the dead letters of the running app, one in each line.
    fn letters(&self) -> String {
        let output = Command::new(brickwork())
            .args(["dlq", "export", "app.toml"])
            .current_dir(self.path())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn lines(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("{{\"n\":{n}}}")).collect()
}

/// Starts a program with libzmq.
fn peer(folder: &Path, mode: &str, at: SocketAddr, count: u64) -> Process {
    let mut command = Command::new(python());
    command
        .arg(workspace().join("tests/tests/command/zeromq/peer.py"))
        .args([mode, &format!("tcp://{at}"), &count.to_string()]);
    Process::start(command, folder, "tests/run installs pyzmq")
}

#[test]
fn two_apps_that_are_killed_again_and_again_lose_no_message() {
    const COUNT: u64 = 3000;
    let at = free_address();
    let receiver = LinkedApp::receiver(&format!("bind = 'tcp://{at}'"));
    let sender = LinkedApp::sender(&lines(COUNT), &format!("connect = ['tcp://{at}']"));
    // The sender starts without a receiver.
    let mut sending = sender.start();
    sender.logs("can't connect");
    let mut receiving = receiver.start();
    for round in 1..=6 {
        until("more messages arrive", PATIENCE, || {
            let got = receiver.got().len() as u64;
            match got >= round * COUNT / 10 {
                true => Ok(()),
                false => Err(format!("{got}; {}", receiver.log())),
            }
        });
        if round % 2 == 0 {
            drop(sending);
            sending = sender.start();
        } else {
            drop(receiving);
            receiving = receiver.start();
        }
    }
    let got = receiver.has_all(COUNT);
    let doubled = got.len() as u64 - COUNT;
    assert!(doubled < COUNT / 2, "{doubled} came again");
    assert_eq!(sender.letters(), "");
    drop((sending, receiving));
}

#[test]
fn a_message_without_an_ack_comes_again_with_the_same_id_and_loses_no_attempt() {
    let at = free_address();
    let config = format!("connect = ['tcp://{at}']\nack_timeout = '500ms'");
    let sender = LinkedApp::sender(&lines(3), &config);
    let router = peer(sender.path(), "router", at, 0);
    let _sending = sender.start();
    let mut first = BTreeSet::new();
    let mut again = BTreeSet::new();
    while again.len() < 3 {
        let line = router.line(PATIENCE, |line| Some(line.to_owned()));
        let (id, times) = line.split_once(' ').expect("two words");
        match times {
            "first" => first.insert(id.to_owned()),
            _ => again.insert(id.to_owned()),
        };
    }
    assert_eq!(first, again);
}

#[test]
fn a_receiver_that_dies_with_messages_gets_them_again() {
    let at = free_address();
    let sender = LinkedApp::sender(&lines(3), &format!("connect = ['tcp://{at}']"));
    let _sending = sender.start();
    let ids = |router: &Process| -> BTreeSet<String> {
        let line = || router.line(PATIENCE, |line| Some(line.to_owned()));
        (0..3).map(|_| line()).collect()
    };
    let router = peer(sender.path(), "router", at, 0);
    let first = ids(&router);
    assert_eq!(first.len(), 3);
    drop(router);
    let router = peer(sender.path(), "router", at, 0);
    assert_eq!(ids(&router), first);
}

#[test]
fn a_receiver_refuses_for_good_a_message_that_is_too_large_for_it() {
    let at = free_address();
    let config = format!("bind = 'tcp://{at}'\nmessage_max = '3KiB'");
    let receiver = LinkedApp::receiver(&config);
    let file = receiver.path().join("app.toml");
    let manifest = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, manifest.replace("256KiB", "1KiB")).expect("it can be written");
    let mut all = lines(5);
    // Larger than app.max_message, than message_max, and than the receiver's buffer.
    for length in [2000, 4000, 200_000] {
        all.insert(
            2,
            format!("{{\"n\":99,\"pad\":\"{}\"}}", "x".repeat(length)),
        );
    }
    let sender = LinkedApp::sender(&all, &format!("connect = ['tcp://{at}']"));
    let (_receiving, _sending) = (receiver.start(), sender.start());
    receiver.has_all(5);
    until("the letters are there", PATIENCE, || {
        let letters = sender.letters();
        let with = |text: &str| letters.lines().filter(|line| line.contains(text)).count();
        let refused = with("the receiver refused it");
        let large = with("larger than message_max");
        match (refused, large) {
            (3, 2) => Ok(()),
            _ => Err(format!("{letters}; {}", sender.log())),
        }
    });
    assert!(
        !receiver.log().contains("connection closed"),
        "{}",
        receiver.log()
    );
}

#[test]
fn backpressure_of_the_receiver_costs_no_attempt() {
    let at = free_address();
    let receiver = LinkedApp::receiver(&format!("bind = 'tcp://{at}'\nin_flight = 1"));
    let config =
        format!("connect = ['tcp://{at}']\nwindow = 32\n[services.link.retry]\nattempts = 1\n");
    let sender = LinkedApp::sender(&lines(30), &config);
    let (_receiving, _sending) = (receiver.start(), sender.start());
    receiver.has_all(30);
    assert_eq!(sender.letters(), "");
}

#[test]
fn libzmq_pushes_and_publishes_to_an_app() {
    let at = free_address();
    let receiver = LinkedApp::receiver(&format!(
        "mode = 'pull'\nin_flight = 2\nconnect = ['tcp://{at}']"
    ));
    let pushing = peer(receiver.path(), "push", at, 500);
    let receiving = receiver.start();
    assert_eq!(receiver.has_all(500).len(), 500);
    drop((receiving, pushing));

    let config = format!("mode = 'sub'\nconnect = ['tcp://{at}']\ntopics = ['orders.']");
    let receiver = LinkedApp::receiver(&config);
    let receiving = receiver.start();
    let mut publishing = peer(receiver.path(), "pub", at, 20);
    receiver.has_all(20);
    // The publisher dies; another one has the subscription, too.
    drop(publishing);
    let before = receiver.got().len();
    publishing = peer(receiver.path(), "pub", at, 20);
    until("messages of the second one", PATIENCE, || {
        match receiver.got().len() {
            got if got > before + 200 => Ok(()),
            got => Err(format!("{got}; {}", receiver.log())),
        }
    });
    assert!(receiver.got().iter().all(|it| it["topic"] != "other"));
    drop((receiving, publishing));
}

#[test]
fn an_app_pushes_and_publishes_to_libzmq() {
    let at = free_address();
    let sender = LinkedApp::sender(&lines(200), &format!("mode = 'push'\nbind = 'tcp://{at}'"));
    let sending = sender.start();
    let pulling = peer(sender.path(), "pull", at, 200);
    let mut missing: BTreeSet<String> = lines(200).into_iter().collect();
    while !missing.is_empty() {
        let line = pulling.line(PATIENCE, |line| Some(line.to_owned()));
        assert!(missing.remove(&line), "{line}");
    }
    drop((sending, pulling));

    // The program that pulls dies; the app connects to the next one.
    let all: Vec<String> = lines(50_000);
    let sender = LinkedApp::sender(&all, &format!("mode = 'push'\nconnect = ['tcp://{at}']"));
    let sending = sender.start();
    for _ in 0..2 {
        let pulling = peer(sender.path(), "pull-bind", at, 10);
        for _ in 0..10 {
            pulling.line(PATIENCE, |line| line.starts_with("{\"n\":").then_some(()));
        }
        drop(pulling);
    }
    drop(sending);

    // A subscriber that binds, so that it is there first.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let subscribing = peer(folder.path(), "sub-bind", at, 1);
    subscribing.line(PATIENCE, |line| (line == "subscribed").then_some(()));
    // Without a subscriber a publication is lost: the first lines may be.
    let config = format!("mode = 'pub'\ntopic = 'orders.new'\nconnect = ['tcp://{at}']");
    let sender = LinkedApp::sender(&all, &config);
    let _sending = sender.start();
    let line = subscribing.line(PATIENCE, |line| Some(line.to_owned()));
    assert!(line.starts_with("orders.new {\"n\":"), "{line}");
}

#[test]
fn foreign_messages_and_bytes_do_a_receiver_no_harm() {
    let at = free_address();
    let receiver = LinkedApp::receiver(&format!("bind = 'tcp://{at}'\nconnections = 2"));
    let mut receiving = receiver.start();
    receiver.logs("listening");
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend_from_slice(b"NULL");
    greeting.resize(64, 0);
    let mut ready = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER".to_vec();
    ready[1] = (ready.len() - 2) as u8;
    let shaken: Vec<u8> = [greeting.clone(), ready].concat();
    let claim = [&shaken[..], &[2], &(1_u64 << 62).to_be_bytes()].concat();
    let parts = [&shaken[..], &[1, 0].repeat(10_000)[..]].concat();
    let nonsense = [&shaken[..], b"\x00\x05hello"].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 10_000],
        greeting,
        claim,
        parts,
        nonsense,
    ] {
        let mut stream = TcpStream::connect(at).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        // The receiver may close the connection before all is written.
        let _closed = stream.write_all(&bytes);
        let _ended = stream.shutdown(std::net::Shutdown::Write);
        let _closed = stream.read_to_end(&mut Vec::new());
    }
    // Two connections are open; the third is closed without a greeting.
    let connect = || {
        let stream = TcpStream::connect(at).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
    };
    let mut open = [connect(), connect()];
    for stream in &mut open {
        stream.read_exact(&mut [0; 64]).expect("a greeting");
    }
    assert_eq!(connect().read(&mut [0]).unwrap_or(0), 0);
    drop(open);
    // Still there, and a program with libzmq that knows the protocol gets its acks.
    let dealing = peer(receiver.path(), "dealer", at, 3);
    for n in 0..3 {
        let line = dealing.line(PATIENCE, |line| Some(line.to_owned()));
        assert_eq!(line, format!("brickwork1 ack foreign-{n}"));
    }
    receiver.has_all(3);
    assert!(!receiving.has_ended());
}
