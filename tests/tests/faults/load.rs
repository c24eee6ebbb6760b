//! An app under load that a test injures: the shipped binary moves messages of an outside
//! publisher over two hops into a file, while an observer polls its readiness. In the end no
//! message may be missing.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::checker::{Kept, dead_letters};
use brickwork_tests::feeder::{Feed, Feeder, plain};
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use brickwork_tests::watch::{Seen, Watch};
use tempfile::TempDir;

/// Time limit for an event that must happen; far longer than it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(360);
/// Maximum time from a working broker and network to the next written line. Half a second on an
/// idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// The readiness text for a lost connection.
pub(crate) const IS_LOST: &str = "the transport amqp is down: the connection to the broker is lost";

/// The services in the order of the flow.
const SERVICES: [&str; 3] = ["first", "second", "keep"];

/// Whether slow cases run, too.
pub(crate) fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// Parameters of the app.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    /// Name of the app.
    pub(crate) name: &'a str,
    /// Number of messages that it is fed.
    pub(crate) count: u64,
    /// Maximum rate.
    pub(crate) per_second: u64,
    /// Additional keys of its second service.
    pub(crate) second: &'a str,
    /// Additional tables of its manifest.
    pub(crate) more: &'a str,
}

/// An app under load.
pub(crate) struct Load {
    pub(crate) broker: Broker,
    pub(crate) feeder: Feeder,
    pub(crate) admin: SocketAddr,
    name: String,
    count: u64,
    /// The current process; `None` while the app is killed.
    app: Option<Process>,
    /// Dropped after the app, whose log is there.
    folder: TempDir,
    lives: usize,
    began: Instant,
    /// Logs of the earlier processes.
    logs: String,
    watch: Watch,
}

/// Result of a load that lost nothing.
pub(crate) struct Account {
    pub(crate) seen: Seen,
    pub(crate) log: String,
    pub(crate) attempted: u64,
    pub(crate) again: usize,
    pub(crate) lives: usize,
    /// Time from the start of the load to its end.
    pub(crate) took: Duration,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} accepted and handled in {:?}: lost 0, unexpected 0, dead-lettered 0, {} handled \
             again, {} lives",
            self.attempted, self.took, self.again, self.lives
        )
    }
}

impl Load {
    /// Starts the app over `url`, which leads to the broker directly or through a proxy, and
    /// waits until it is under load.
    pub(crate) fn start(broker: Broker, url: &str, shape: Shape<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let admin = free_address();
        prepare(folder.path(), url, admin, shape);
        let mut app = start_app(folder.path(), 1);
        let started = until_ready(&mut app, admin);
        assert!(started, "it ends at once:\n{}", app.stderr());
        broker.write_queues_down();
        let feeder = Feeder::start(Feed {
            url: broker.url(),
            app: shape.name.to_owned(),
            topic: "fed".to_owned(),
            count: shape.count,
            payload: plain,
            per_second: shape.per_second,
        });
        let load = Self {
            watch: Watch::start(admin, &folder.path().join("out.jsonl")),
            broker,
            feeder,
            admin,
            name: shape.name.to_owned(),
            count: shape.count,
            folder,
            app: Some(app),
            lives: 1,
            began: Instant::now(),
            logs: String::new(),
        };
        load.until_it_writes();
        load
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    /// Waits until the output grows. Returns the time that it took.
    pub(crate) fn until_it_writes(&self) -> Duration {
        self.until_file_grows("out.jsonl")
    }

    /// Waits until a file grows. Returns the time that it took.
    pub(crate) fn until_file_grows(&self, name: &str) -> Duration {
        let bytes = || self.bytes(name);
        let (began, before) = (Instant::now(), bytes());
        until("something is written", PATIENCE, || {
            match bytes() > before {
                true => Ok(()),
                false => Err(format!("{before} bytes")),
            }
        });
        began.elapsed()
    }

    /// Returns the size of a file that the app writes.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        std::fs::metadata(self.folder.path().join(name)).map_or(0, |file| file.len())
    }

    /// Waits for a readiness state and text.
    pub(crate) fn until_ready_says(&self, ready: bool, text: &str) {
        until_ready_says(self.admin, ready, text);
    }

    /// Kills the app.
    pub(crate) fn kill_app(&mut self) {
        if let Some(app) = self.app.take() {
            self.logs += &app.stderr();
        }
    }

    /// Starts the app again, and once more if it ends, as a process manager does.
    pub(crate) fn start_app_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.kill_app();
            self.lives += 1;
            let mut app = start_app(self.folder.path(), self.lives);
            let started = until_ready(&mut app, self.admin);
            self.app = Some(app);
            if started {
                return;
            }
            assert!(Instant::now() < deadline, "it ends again and again");
        }
    }

    /// Starts the app without waiting for it.
    pub(crate) fn start_app_anyhow(&mut self) {
        self.kill_app();
        self.lives += 1;
        self.app = Some(start_app(self.folder.path(), self.lives));
    }

    /// After the last fault: waits for the end and checks that nothing is lost.
    pub(crate) fn check(mut self) -> Account {
        let within = if is_full() { 5 * PATIENCE } else { PATIENCE };
        let out = self.out();
        let accepted = self.count;
        until("all is accepted and handled", within, || {
            let kept = Kept::count_so_far(&out) as u64;
            match self.feeder.is_done() && kept >= accepted {
                true => Ok(()),
                false => Err(format!(
                    "{} accepted, {kept} handled; {}\n{}",
                    self.feeder.accepted(),
                    self.depths(),
                    self.app.as_ref().map(Process::stderr).unwrap_or_default()
                )),
            }
        });
        self.until_ready_says(true, "");
        let seen = self.watch.stop();
        let mut app = self.app.take().expect("it runs");
        let told = Command::new("kill")
            .args(["-TERM", &app.id().to_string()])
            .status();
        assert!(told.expect("kill runs").success());
        let code = app.exit_code(PATIENCE);
        let log = self.logs + &app.stderr();
        assert_eq!(code, Some(0), "{log}");

        let kept = Kept::read(&out);
        let attempted = self.feeder.attempted();
        let nothing = Vec::<u64>::new();
        assert_eq!(kept.missing(0..accepted), nothing, "lost\n{log}");
        assert_eq!(
            kept.unexpected(&(0..attempted)),
            nothing,
            "unexpected numbers"
        );
        let again = kept.again(&["first", "second"]);
        let letters = dead_letters(&self.broker.url(), &self.name, &SERVICES);
        assert_eq!(letters, [], "innocents are dead-lettered\n{log}");
        for word in ["isolated", "given up"] {
            assert!(!log.contains(word), "{log}");
        }
        Account {
            seen,
            log,
            attempted,
            again,
            lives: self.lives,
            took: self.began.elapsed(),
        }
    }

    /// Returns the depths of the broker's queues, for error messages.
    fn depths(&self) -> String {
        self.broker
            .ctl(&["list_queues", "name", "messages", "consumers"])
    }
}

/// Waits until an app reports a readiness state and text.
pub(crate) fn until_ready_says(admin: SocketAddr, ready: bool, text: &str) {
    until("readiness", PATIENCE, || {
        let answer = http::get(admin, "/health/ready").map_err(|error| error.to_string())?;
        match (answer.code == 200) == ready && answer.body.contains(text) {
            true => Ok(()),
            false => Err(answer.body),
        }
    });
}

fn prepare(folder: &Path, url: &str, admin: SocketAddr, shape: Shape<'_>) {
    let Shape {
        name, second, more, ..
    } = shape;
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        transport = "{url}"
        [admin]
        listen = "{admin}"
        [topics.fed]
        external = "in"
        [services.first]
        use = "map"
        in = "fed"
        out = "marked.once"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "meta.id" }}
        [services.second]
        use = "map"
        in = "marked.once"
        out = "marked.twice"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "msg.first", second = "meta.id" }}
        {second}
        [services.keep]
        use = "file-out"
        in = "marked.twice"
        retry.backoff.min = "100ms"
        config.path = "out.jsonl"
        {more}
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn start_app(folder: &Path, life: usize) -> Process {
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}

/// Whether the app gets ready before it ends.
fn until_ready(app: &mut Process, admin: SocketAddr) -> bool {
    until("the app is ready or ends", PATIENCE, || {
        if app.has_ended() {
            return Ok(false);
        }
        match http::get(admin, "/health/ready") {
            Ok(answer) if answer.code == 200 => Ok(true),
            Ok(answer) => Err(answer.body),
            Err(error) => Err(error.to_string()),
        }
    })
}
