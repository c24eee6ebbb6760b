//! A private PostgreSQL for tests: its own port and folder, on loopback only.
//!
//! PostgreSQL refuses to run as root, so it then runs as Debian's user `postgres`. It ends when
//! its [`Postgres`] is dropped, and also when the test process dies: a small shell between the two
//! kills it as soon as its standard input closes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::Identity;
use crate::process::{free_address, until};

/// Maximum time for a start.
const START_MAX: Duration = Duration::from_secs(60);
/// The password of the only user.
pub const PASSWORD: &str = "pg-password-of-tests";
/// Debian's folder of versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Runs a command until standard input closes, and tells its process id.
const KEEPER: &str = r#"
"$@" >>"$LOG" 2>&1 &
server=$!
echo $server
cat >/dev/null
kill -9 $server 2>/dev/null
wait
"#;

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: u16,
    server: Option<Server>,
    settings: Vec<String>,
}

#[derive(Debug)]
struct Server {
    keeper: Child,
    id: String,
}

impl Postgres {
    /// Starts a PostgreSQL and waits until it answers.
    ///
    /// # Panics
    /// If there is no PostgreSQL on this machine, or it does not start.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Starts a PostgreSQL that offers TLS with this certificate.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn with_tls(identity: &Identity) -> Self {
        Self::with(Some(identity))
    }

    fn with(identity: Option<&Identity>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("brickwork-postgres-")
            .tempdir()
            .expect("a temporary folder");
        give_away(folder.path());
        let secret = folder.path().join("password");
        fs::write(&secret, PASSWORD).expect("a file in it");
        let made = as_user(&program("initdb"))
            .args(["--no-sync", "--no-locale", "--encoding=UTF8"])
            .args(["--username=tester", "--auth=scram-sha-256"])
            .arg(format!("--pwfile={}", secret.display()))
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut postgres = Self {
            port: free_address().port(),
            server: None,
            settings: Vec::new(),
            folder,
        };
        if let Some(identity) = identity {
            let certificate = postgres.write("server.crt", &identity.certificate);
            let key = postgres.write("server.key", &identity.key);
            postgres.settings = vec![
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", certificate.display()),
                format!("ssl_key_file={}", key.display()),
            ];
        }
        postgres.start_again();
        postgres
    }

    /// Writes a file that the server alone can read.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file in it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        give_away(&path);
        path
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://…`
    pub fn url(&self) -> String {
        self.url_by("127.0.0.1")
    }

    /// Returns the URL with another name of this machine.
    pub fn url_by(&self, host: &str) -> String {
        format!("postgres://tester:{PASSWORD}@{host}:{}/postgres", self.port)
    }

    /// Runs SQL and returns its output: rows as lines, columns separated by `|`.
    ///
    /// # Panics
    /// If the SQL fails.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs SQL, as [`sql`](Self::sql).
    ///
    /// # Errors
    /// The SQL fails, or the server is away.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let ran = Command::new(program("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--command", sql])
            .arg(self.url())
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .expect("psql runs");
        match ran.status.success() {
            true => Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
        }
    }

    /// Runs the SQL of a file.
    ///
    /// # Panics
    /// If the SQL fails.
    pub fn run_file(&self, file: &Path) {
        let ran = Command::new(program("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set",
                "ON_ERROR_STOP=1",
                "--file",
            ])
            .arg(file)
            .arg(self.url())
            .output()
            .expect("psql runs");
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{}: {errors}", file.display());
    }

    /// Opens a session, for transactions that stay open.
    ///
    /// # Panics
    /// If `psql` can't be started.
    pub fn session(&self) -> Session {
        let mut psql = Command::new(program("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .arg(self.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        Session {
            input: psql.stdin.take().expect("stdin is piped"),
            output: BufReader::new(psql.stdout.take().expect("stdout is piped")),
            psql,
        }
    }

    /// Kills the server, as a crash does.
    ///
    /// # Panics
    /// If the process can't be killed.
    pub fn kill(&mut self) {
        let server = self.server.take().expect("the server runs");
        assert!(send("-KILL", &server.id), "PostgreSQL has ended before");
        server.end();
    }

    /// Stops the server's processes until the returned guard is dropped. Connections stay open.
    ///
    /// # Panics
    /// If a process can't be stopped.
    pub fn freeze(&self) -> Frozen {
        let server = self.server.as_ref().expect("the server runs");
        let children = format!("/proc/{0}/task/{0}/children", server.id);
        let children = fs::read_to_string(children).expect("Linux lists children");
        let mut frozen = vec![server.id.clone()];
        frozen.extend(children.split_whitespace().map(str::to_owned));
        // A child may have ended since.
        frozen.retain(|process| send("-STOP", process));
        Frozen(frozen)
    }

    /// Starts the server again with its old data, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        // Processes of a killed server may hold its memory for a moment.
        until("PostgreSQL answers", START_MAX, || {
            if self.server.as_ref().is_none_or(Server::has_ended) {
                self.server = Some(self.spawn());
            }
            self.try_sql("SELECT 1")
                .map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    fn spawn(&self) -> Server {
        let mut command = as_user(&program("postgres"));
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1"])
            .args(["-c", "unix_socket_directories="]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("LOG", self.folder.path().join("log"))
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal ends the tests; the shell must outlive them for a moment.
            .process_group(0);
        let mut keeper = keeper.spawn().expect("sh runs");
        let mut id = String::new();
        BufReader::new(keeper.stdout.take().expect("stdout is piped"))
            .read_line(&mut id)
            .expect("the shell tells the process id");
        Server {
            keeper,
            id: id.trim().to_owned(),
        }
    }

    /// Returns the server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// An open session. Its transaction ends with it.
#[derive(Debug)]
pub struct Session {
    psql: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs a statement and waits until it is done.
    ///
    /// # Panics
    /// If the session is over.
    pub fn run(&mut self, sql: &str) {
        const DONE: &str = "statement done";
        writeln!(self.input, "{sql};\n\\echo {DONE}").expect("psql reads");
        let mut line = String::new();
        while line.trim() != DONE {
            line.clear();
            let read = self.output.read_line(&mut line).expect("psql writes");
            assert!(read > 0, "psql has ended");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A process that has ended by itself can't be killed.
        let _ended = self.psql.kill();
        let _ended = self.psql.wait();
    }
}

impl Server {
    fn has_ended(&self) -> bool {
        !Path::new("/proc").join(&self.id).join("fd").exists()
    }

    fn end(mut self) {
        drop(self.keeper.stdin.take());
        // The shell ends: it waits for nothing else.
        let _status = self.keeper.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(50)..];
            eprintln!("--- PostgreSQL ---\n{}", last.join("\n"));
        }
        if let Some(server) = self.server.take() {
            server.end();
        }
    }
}

/// Guard of a server that is stopped by SIGSTOP.
#[derive(Debug)]
pub struct Frozen(Vec<String>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            // A process that was killed can't go on.
            let _ended = send("-CONT", process);
        }
    }
}

/// Sends a signal. Returns whether the process was there.
fn send(name: &str, process: &str) -> bool {
    let sent = Command::new("kill")
        .args([name, process])
        .stderr(Stdio::null())
        .status();
    sent.expect("kill runs").success()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout == b"0\n"
}

/// A command as a user that PostgreSQL accepts.
fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program)
        .current_dir("/");
    command
}

/// Lets the user that PostgreSQL runs as own a folder or a file.
fn give_away(folder: &Path) {
    if is_root() {
        let given = Command::new("chown")
            .arg("postgres:postgres")
            .arg(folder)
            .status();
        assert!(
            given.expect("chown runs").success(),
            "there is no user postgres"
        );
    }
}

/// A program of PostgreSQL, of the newest version on this machine. Debian has them outside of
/// the path.
///
/// # Panics
/// If there is none.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            let program = version.path().join("bin").join(name);
            program.exists().then_some((number, program))
        })
        .collect();
    found.sort();
    if let Some((_, program)) = found.pop() {
        return program;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("there is no {name}: apt-get install postgresql"))
}
