//! A node of a three-node cluster dies under load: the app reconnects to another node by itself
//! and loses nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::checker::Kept;
use brickwork_tests::cluster::{Cluster, NODES};
use brickwork_tests::parts::{self, LINES, MARKED_TWICE};
use brickwork_tests::process::{Process, until};

const PATIENCE: Duration = Duration::from_secs(120);
/// Maximum time from a node's death to the next line; a new leader is elected in seconds.
const SOON: Duration = Duration::from_secs(20);

fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// An app under load on a cluster.
struct Load {
    // Dropped before the cluster that it uses.
    app: Process,
    cluster: Cluster,
    folder: tempfile::TempDir,
    lines: u64,
    /// Time that the source needs at its rate.
    takes: Duration,
}

impl Load {
    /// Starts an app that reads `lines` lines at a maximum rate of `rate` per second.
    fn start(lines: u64, rate: u64) -> Self {
        let cluster = Cluster::start();
        let folder = tempfile::tempdir().expect("a folder can be made");
        prepare(folder.path(), &cluster.url(), lines, rate);
        let app = start(folder.path());
        let load = Self {
            app,
            cluster,
            folder,
            lines,
            takes: Duration::from_secs(lines / rate),
        };
        load.until_written(100);
        load
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    fn until_written(&self, count: u64) {
        until_written(&self.out(), count, &self.app);
    }

    /// Returns the node that the app is connected to, as reported by the running node `asked`.
    fn connected(&self, asked: usize) -> usize {
        assert!(written(&self.out()) < self.lines, "the load is over");
        self.cluster.connected(asked)
    }

    /// Kills a node and waits until the app continues with the others. Returns the time that it
    /// took.
    fn survives(&self, place: usize) -> Duration {
        self.cluster.kill(place);
        let (died, before) = (Instant::now(), written(&self.out()));
        assert!(before < self.lines, "the fault came after the load");
        // More lines than can be in flight and in mailboxes.
        self.until_written(before + 1000);
        let deaf = died.elapsed();
        assert!(deaf < SOON, "deaf for {deaf:?}: {}", self.app.stderr());
        deaf
    }

    /// Waits for the end and checks that no line is lost.
    fn check(mut self, deaf: &[Duration]) {
        let code = self.app.exit_code(self.takes + PATIENCE);
        let log = self.app.stderr();
        assert_eq!(code, Some(0), "{log}");
        let kept = Kept::read(&self.out());
        assert_eq!(kept.missing(0..self.lines), [] as [u64; 0], "lost");
        assert_eq!(kept.unexpected(&(0..self.lines)), [] as [u64; 0]);
        let again = kept.again(&["first", "second"]);
        for text in ["isolated", "given up", " ERROR "] {
            assert!(!log.contains(text), "{log}");
        }
        let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        let (complaints, reconnects) = (said(" WARN "), said("connected to the broker again"));
        assert!(complaints < 30, "{log}");
        println!(
            "deaf for {deaf:?}; of {} lines {again} handled again; connected again \
             {reconnects} times; {complaints} lines of complaint",
            self.lines
        );
    }
}

fn start(folder: &Path) -> Process {
    parts::run(folder, folder, &["--until-idle", "--fail-on-dlq", "--json"])
}

fn written(out: &Path) -> u64 {
    let text = std::fs::read(out).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn until_written(out: &Path, count: u64, app: &Process) {
    until("lines are written", PATIENCE, || match written(out) {
        written if written >= count => Ok(()),
        written => Err(format!("{written} of {count}: {}", app.stderr())),
    });
}

fn prepare(folder: &Path, url: &str, lines: u64, rate: u64) {
    let manifest = format!(
        r#"
        [app]
        name = "cluster"
        transport = "{url}"
        [admin]
        listen = "off"
        {LINES}
        config.rate = {rate}
        {MARKED_TWICE}
        "#
    );
    parts::write(folder, &manifest, parts::numbers(lines));
}

#[test]
fn an_app_survives_the_death_of_the_node_that_it_is_connected_to() {
    let mut load = Load::start(if is_full() { 20_000 } else { 14_000 }, 500);
    // The queue was declared on that node.
    let place = load.connected(0);
    assert_eq!(load.cluster.leader(place, "cluster.first.in"), place);
    let deaf = load.survives(place);
    load.cluster.start_again(place);
    load.check(&[deaf]);
}

/// After a node's death, a stale record sometimes still names the dead node as leader, and
/// channels have read it. The broker corrects the record within seconds; before 3.12 such a
/// channel never learns of it and refuses everything.
#[test]
fn a_channel_that_refuses_every_publication_is_replaced() {
    let broker = Broker::start();
    let version = broker.ctl(&["version"]);
    if !version.starts_with("3.") {
        eprintln!("RabbitMQ {} has no such channels", version.trim());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let lines = 7_000;
    prepare(folder.path(), &broker.url(), lines, 500);
    let mut app = start(folder.path());
    let out = folder.path().join("out.jsonl");
    until_written(&out, 100, &app);
    let is_replaced = |app: &Process| app.stderr().contains("replacing the channel");
    // The broker repairs the record of the leader every 5 s, perhaps before the channel reads it.
    for _ in 0..4 {
        if is_replaced(&app) {
            break;
        }
        broker.ctl(&[
            "eval",
            "begin
                {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"cluster.second.in\">>)),
                {Name, _} = amqqueue:get_pid(Q),
                Dead = fun(R) -> amqqueue:set_pid(R, {Name, 'dead@localhost'}) end,
                rabbit_misc:execute_mnesia_transaction(
                    fun() -> rabbit_amqqueue:update(amqqueue:get_name(Q), Dead) end),
                [rabbit_networking:close_connection(C, <<\"t\">>) || C <- rabbit_networking:connections()]
            end.",
        ]);
        let until = Instant::now() + Duration::from_secs(2);
        while !is_replaced(&app) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let code = app.exit_code(PATIENCE);
    let log = app.stderr();
    assert_eq!(code, Some(0), "{log}");
    let kept = Kept::read(&out);
    assert_eq!(kept.missing(0..lines), [] as [u64; 0], "lost");
    assert_eq!(kept.unexpected(&(0..lines)), [] as [u64; 0]);
    kept.again(&["first", "second"]);
    assert!(log.contains("replacing the channel"), "{log}");
}

#[test]
fn an_app_survives_the_restart_of_one_node_after_the_other() {
    if !is_full() {
        eprintln!("takes long: run with BRICKWORK_FULL=1");
        return;
    }
    // Long enough for three restarts of a node, also on a busy machine.
    let mut load = Load::start(40_000, 250);
    let mut deaf = Vec::new();
    // A leader that the app isn't connected to, the node that it is connected to, and the third
    // one if there is one.
    let connected = load.connected(0);
    let leader = load.cluster.leader(connected, "cluster.second.in");
    deaf.push(load.survives(leader));
    load.cluster.start_again(leader);
    let connected = load.connected(0);
    deaf.push(load.survives(connected));
    load.cluster.start_again(connected);
    let connected = load.connected(0);
    let leader = load.cluster.leader(connected, "cluster.second.in");
    let neither = (0..NODES).find(|place| ![connected, leader].contains(place));
    let neither = neither.expect("there are three");
    deaf.push(load.survives(neither));
    load.cluster.start_again(neither);
    load.check(&deaf);
}
