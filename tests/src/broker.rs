//! A private RabbitMQ for tests: its own ports, names and folder, on loopback only.
//!
//! It needs no service manager and no free standard port, and several can run. It goes
//! when it is dropped, and also when the test process dies in whatever way: a small
//! shell between them kills everything that it started as soon as its standard input
//! closes.
//!
//! It is the machine's, or the one that `BRICKWORK_RABBITMQ` names: see [`Installation`].

mod installation;
mod settings;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use installation::Installation;
pub use settings::{Settings, Tls};

/// It takes about 8 seconds on an idle machine.
const START_MAX: Duration = Duration::from_secs(60);

/// When a test fails.
const LOG_LINES_SHOWN: usize = 150;

/// Starts the port mapper, if it is to have one, and the broker in a session of their own,
/// waits until its standard input closes, and ends that session. The port mapper is one of
/// our own, in the foreground: left to itself, Erlang starts one that outlives everything.
/// A broker that has ended is started again, with what it has kept, when somebody asks for
/// it by a file.
const KEEPER: &str = r#"
setsid sh -c 'inside() {
        if [ -z "$ROOT" ]; then "$@"; return; fi
        unshare --mount --propagation private sh -c "$ENTER" "$ROOT" "$@"
    }
    [ -z "$MAPPER" ] || inside epmd -address 127.0.0.1 &
    until inside epmd -names >/dev/null 2>&1; do sleep 0.05; done
    while :; do
        inside "$SERVER"
        until [ -e "$FOLDER/again" ]; do sleep 0.05; done
        rm "$FOLDER/again"
    done' >"$FOLDER/output" 2>&1 &
session=$!
cat >/dev/null
kill -9 -$session
wait
rm -rf "$FOLDER"
"#;

/// A running RabbitMQ.
#[derive(Debug)]
pub struct Broker {
    keeper: Child,
    folder: PathBuf,
    installation: Installation,
    node: String,
    port: u16,
    tls_port: u16,
    mapper: u16,
    cookie: String,
    environment: Vec<(&'static str, String)>,
}

impl Broker {
    /// The one that the tests of this process share; use an app name of your own on it.
    ///
    /// # Panics
    /// As [`start`](Broker::start).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// There is no RabbitMQ on this machine, or it doesn't start.
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// Starts one that is set up in another way, and waits until it answers.
    ///
    /// # Panics
    /// As [`start`](Broker::start).
    pub fn with(settings: &Settings) -> Self {
        let mut broker = Self::starting(settings, None);
        broker.wait_until_it_answers();
        broker
    }

    /// A node of the cluster of `seed`, which answers already. It joins when it starts, and
    /// doesn't answer yet; [`start_again`](Self::start_again) waits also for that.
    pub(crate) fn joining(seed: &Self) -> Self {
        Self::starting(&Settings::default(), Some(seed))
    }

    fn starting(settings: &Settings, seed: Option<&Self>) -> Self {
        let installation = Installation::find();
        let folder = tempfile::Builder::new()
            .prefix("brickwork-rabbitmq-")
            .tempdir_in(installation.temporary_folder())
            .expect("a temporary folder")
            // The keeper removes it.
            .keep();
        let [port, between_nodes, mapper, tls_port] = free_ports();
        let mapper = seed.map_or(mapper, |seed| seed.mapper);
        let cookie = seed.map_or_else(|| format!("brickwork{port}"), |seed| seed.cookie.clone());
        let node = format!("test{port}@localhost");
        let inside = installation.inside(&folder);
        let mut configuration = settings.configuration(port, tls_port, &folder, &inside);
        if let Some(seed) = seed {
            configuration += &format!(
                "cluster_formation.peer_discovery_backend = classic_config\n\
                 cluster_formation.classic_config.nodes.1 = {}\n",
                seed.node
            );
        }
        fs::write(folder.join("rabbitmq.conf"), configuration).expect("a file in it");
        fs::write(folder.join("plugins"), settings.plugins()).expect("a file in it");
        // Nodes let in who knows it.
        let mut cookie_file = fs::OpenOptions::new();
        cookie_file.write(true).create_new(true).mode(0o400);
        let cookie_file = cookie_file.open(folder.join(".erlang.cookie"));
        let mut cookie_file = cookie_file.expect("a file in it");
        write!(cookie_file, "{cookie}").expect("it can be written");
        let path = |name: &str| inside.join(name).display().to_string();
        let environment = vec![
            ("HOME", inside.display().to_string()),
            ("ERL_EPMD_PORT", mapper.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODENAME", node.clone()),
            ("RABBITMQ_DIST_PORT", between_nodes.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_PID_FILE", path("pid")),
            // Not the machine's own settings.
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
        ];
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("FOLDER", &folder)
            .env("SERVER", installation.script("rabbitmq-server"))
            .env("ROOT", installation.root().unwrap_or("".as_ref()))
            .env("ENTER", installation::ENTER)
            .env("MAPPER", if seed.is_none() { "yes" } else { "" })
            .stdin(Stdio::piped())
            // Ctrl-C in a terminal ends the tests; the keeper must outlive them a little.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        Self {
            keeper,
            folder,
            installation,
            node,
            port,
            tls_port,
            mapper,
            cookie,
            environment,
        }
    }

    /// `amqp://…`
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The port that it listens on with TLS, if it is set up for that.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Shows another certificate from now on.
    ///
    /// # Panics
    /// It can't.
    pub fn show(&self, tls: &Tls) {
        tls.write(&self.folder);
        self.ctl(&["eval", "ssl:clear_pem_cache()."]);
    }

    /// Its name as a node of a cluster.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Runs `rabbitmqctl` on it.
    ///
    /// # Panics
    /// It fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .installation
            .command("rabbitmqctl")
            .arg("-q")
            .args(arguments)
            .envs(environment)
            .output()
            .expect("rabbitmqctl runs");
        assert!(
            status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&stderr)
        );
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Stops it in order. What it holds durably is there again after
    /// [`start_again`](Self::start_again).
    ///
    /// # Panics
    /// It doesn't stop.
    pub fn stop(&self) {
        self.ctl(&["stop"]);
        self.wait_until_it_is_gone();
    }

    /// Makes it write down which queues it has. RabbitMQ 3.10 does that late: one that is
    /// killed within seconds of declaring its first quorum queues starts again without
    /// what the last of them held, and that queue never works again.
    ///
    /// # Panics
    /// It doesn't.
    pub fn write_queues_down(&self) {
        self.ctl(&["eval", "ok = dets:sync(ra_directory_reverse)."]);
    }

    /// Ends it without a warning, as a crash does.
    ///
    /// # Panics
    /// It can't be ended.
    pub fn kill(&self) {
        signal("-KILL", &self.process());
        self.wait_until_it_is_gone();
    }

    /// Stops its process from doing anything until what is returned is dropped; its
    /// connections stay open.
    ///
    /// # Panics
    /// It can't be stopped.
    pub fn freeze(&self) -> Frozen {
        let process = self.process();
        signal("-STOP", &process);
        Frozen(process)
    }

    /// Starts it again on the same port and folder, and waits until it answers.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start_again(&mut self) {
        fs::write(self.folder.join("again"), "").expect("a file in it");
        self.wait_until_it_answers();
    }

    /// Its process id, which it writes to a file early in its start. Asking the broker
    /// for it would take a second, and a fault comes at its moment.
    fn process(&self) -> String {
        let written = fs::read_to_string(self.folder.join("pid"));
        written
            .expect("a broker writes its process id")
            .trim()
            .to_owned()
    }

    fn wait_until_it_is_gone(&self) {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(began.elapsed() < START_MAX, "RabbitMQ does not go");
            sleep(Duration::from_millis(20));
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }

    pub(crate) fn wait_until_it_answers(&mut self) {
        let began = Instant::now();
        while !answers(self.port) {
            let ended = self.keeper.try_wait().expect("the keeper can be asked");
            assert!(
                ended.is_none() && began.elapsed() < START_MAX,
                "RabbitMQ does not answer after {:?}; its log:\n{}",
                began.elapsed(),
                self.log()
            );
            sleep(Duration::from_millis(50));
        }
    }
}

/// A broker that does nothing.
#[derive(Debug)]
pub struct Frozen(String);

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(name: &str, process: &str) {
    let sent = Command::new("kill").args([name, process]).status();
    assert!(sent.expect("kill runs").success(), "kill {name} {process}");
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- RabbitMQ ---\n{}", last.join("\n"));
        }
        drop(self.keeper.stdin.take());
        // It ends: it has nothing else to wait for.
        let _status = self.keeper.wait();
    }
}

/// Whether somebody speaks AMQP there: to its greeting a broker answers with a method
/// frame.
fn answers(port: u16) -> bool {
    let greet = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind[0])
    };
    greet().is_ok_and(|kind| kind == 1)
}

/// Free until somebody else takes them: a short time later we do.
fn free_ports() -> [u16; 4] {
    let listeners = [0; 4]
        .map(|any: u16| TcpListener::bind(("127.0.0.1", any)).expect("loopback has free ports"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
