//! A private RabbitMQ for tests: its own ports, names and folder, on loopback only.
//!
//! A broker needs no service manager and no free standard port, so several can run at once. A
//! broker stops when its [`Broker`] is dropped, and also when the test process dies in any way: a
//! small shell between the two kills the broker as soon as its standard input closes.
//!
//! The broker is the one of this machine, or the one that `BRICKWORK_RABBITMQ` names: see
//! [`Installation`].

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

/// Maximum time for a start; about 8 seconds on an idle machine.
const START_MAX: Duration = Duration::from_secs(60);

/// Lines of the broker's log that a failed test prints.
const LOG_LINES_SHOWN: usize = 150;

/// Starts the port mapper, if this broker needs one, and the broker in a session of their own,
/// waits until standard input closes, and ends that session. The port mapper is our own process,
/// in the foreground: Erlang on its own starts one that outlives the test. After the broker has
/// ended, the script waits for the file `again` and then starts the broker with its old data.
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
    /// Returns the broker that the tests of this process share. Each test uses an app name of its
    /// own on it.
    ///
    /// # Panics
    /// As [`start`](Broker::start).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a broker and waits until it answers.
    ///
    /// # Panics
    /// If there is no RabbitMQ on this machine, or it does not start.
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// Starts a broker with these settings and waits until it answers.
    ///
    /// # Panics
    /// As [`start`](Broker::start).
    pub fn with(settings: &Settings) -> Self {
        let mut broker = Self::starting(settings, None);
        broker.wait_until_it_answers();
        broker
    }

    /// Starts a node that joins the cluster of `seed`, which must answer already. Does not wait
    /// until the node has joined; [`start_again`](Self::start_again) does.
    pub(crate) fn joining(seed: &Self) -> Self {
        Self::starting(&Settings::default(), Some(seed))
    }

    fn starting(settings: &Settings, seed: Option<&Self>) -> Self {
        let installation = Installation::find();
        let folder = tempfile::Builder::new()
            .prefix("brickwork-rabbitmq-")
            .tempdir_in(installation.temporary_folder())
            .expect("a temporary folder")
            // The shell that keeps the broker removes the folder.
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
        fs::write(folder.join("advanced.config"), settings::ADVANCED).expect("a file in it");
        // Nodes admit each peer that knows the cookie.
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
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("ERL_CRASH_DUMP", path("erl_crash.dump")),
            // Ignores the settings of the machine.
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
            // Ctrl-C in a terminal ends the tests; the shell must outlive them for a moment.
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

    /// Returns the port of the broker.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address of the broker.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the TLS port, which is open only if the settings ask for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Presents another certificate from now on.
    ///
    /// # Panics
    /// If the broker refuses it.
    pub fn show(&self, tls: &Tls) {
        tls.write(&self.folder);
        self.ctl(&["eval", "ssl:clear_pem_cache()."]);
    }

    /// Returns the name of the node in a cluster.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Runs `rabbitmqctl` on this broker and returns its output.
    ///
    /// # Panics
    /// If the command fails.
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

    /// Stops the broker gracefully. Durable data is there again after
    /// [`start_again`](Self::start_again).
    ///
    /// # Panics
    /// If the broker does not stop.
    pub fn stop(&self) {
        self.ctl(&["stop"]);
        self.wait_until_it_is_gone();
    }

    /// Makes the broker write its list of queues to the disk. RabbitMQ 3.10 does so late: a
    /// broker that is killed within seconds of declaring its first quorum queues starts without
    /// the content of the last of them, and that queue never works again.
    ///
    /// # Panics
    /// If the command fails.
    pub fn write_queues_down(&self) {
        self.ctl(&["eval", "ok = dets:sync(ra_directory_reverse)."]);
    }

    /// Kills the broker, as a crash does.
    ///
    /// # Panics
    /// If the process can't be killed.
    pub fn kill(&self) {
        signal("-KILL", &self.process());
        self.wait_until_it_is_gone();
    }

    /// Stops the broker's process until the returned guard is dropped. Connections stay open.
    ///
    /// # Panics
    /// If the process can't be stopped.
    pub fn freeze(&self) -> Frozen {
        let process = self.process();
        signal("-STOP", &process);
        Frozen(process)
    }

    /// Starts the broker again with the same port and folder, and waits until it answers.
    ///
    /// # Panics
    /// If the broker does not start.
    pub fn start_again(&mut self) {
        fs::write(self.folder.join("again"), "").expect("a file in it");
        self.wait_until_it_answers();
    }

    /// Returns the broker's process id, which the broker writes to a file early. Asking the
    /// broker for it would take a second, too long for a fault that has its moment.
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
            assert!(began.elapsed() < START_MAX, "RabbitMQ does not stop");
            sleep(Duration::from_millis(20));
        }
    }

    /// Returns the broker's log.
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

/// Guard of a broker that is stopped by SIGSTOP.
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
        // The shell ends: it waits for nothing else.
        let _status = self.keeper.wait();
    }
}

/// Whether an AMQP server listens on the port: it answers the protocol header with a method
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

/// Returns ports that are free now. Another process could take one before the broker does; that
/// is rare.
fn free_ports() -> [u16; 4] {
    let listeners = [0; 4]
        .map(|any: u16| TcpListener::bind(("127.0.0.1", any)).expect("loopback has free ports"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
