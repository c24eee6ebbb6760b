//! `examples/4-polyglot`: its app, its programs in other languages, and a spy on the app's
//! exchange.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::binary::workspace;
use crate::broker::Broker;
use crate::http;
use crate::process::{Process, free_address, until};

/// Time limit for an event that must happen; far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

const HINT: &str = "tests/run installs the packages of the other languages";

/// The example as a running app on the shared broker, under a name of its own.
#[derive(Debug)]
pub struct Polyglot {
    /// Name of the app and of its exchange.
    pub name: String,
    /// Address of the admin endpoint.
    pub admin: SocketAddr,
    /// Address for orders.
    pub door: SocketAddr,
    /// Address for questions.
    pub quote: SocketAddr,
    /// The app's working folder.
    pub folder: TempDir,
    _app: Process,
}

impl Polyglot {
    /// Runs the example with `program` (a `brickwork` with further service types) and `more` as
    /// an overlay, and waits until it is ready.
    ///
    /// # Panics
    /// If the app does not get ready.
    pub fn start(program: &Path, name: &str, more: &str) -> Self {
        Self::start_on(Broker::shared(), program, name, more)
    }

    /// Does the same on another broker.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_on(broker: &Broker, program: &Path, name: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let [admin, door, quote] = [(); 3].map(|()| free_address());
        let over = format!(
            r#"
            [app]
            name = "{name}"
            transport = "{url}"
            data = "data"
            [admin]
            listen = "{admin}"
            [services.door.config]
            listen = "{door}"
            [services.quote.config]
            listen = "{quote}"
            reply_timeout = "10s"
            [services.keep.config]
            path = "orders.jsonl"
            {more}
            "#,
            url = broker.url(),
        );
        let file = folder.path().join("over.toml");
        std::fs::write(&file, over).expect("it can be written");
        let mut command = Command::new(program);
        command
            .args(["run", "examples/4-polyglot/app.toml", "--with"])
            .arg(&file)
            .current_dir(workspace());
        let app = Process::start(command, folder.path(), "it is built by now");
        until("the app is ready", PATIENCE, || {
            match http::get(admin, "/health/ready") {
                Ok(answer) if answer.code == 200 => Ok(()),
                Ok(answer) => Err(answer.body),
                Err(error) => Err(error.to_string()),
            }
        });
        Self {
            name: name.to_owned(),
            admin,
            door,
            quote,
            folder,
            _app: app,
        }
    }

    /// Returns a command for one of the example's programs, set up for this app.
    pub fn command(&self, script: &str) -> Command {
        let script = workspace().join("examples/4-polyglot").join(script);
        let installed = installed();
        let mut command = match script.extension().and_then(|extension| extension.to_str()) {
            Some("py") => Command::new(installed.join("venv/bin/python")),
            _ => Command::new("node"),
        };
        command
            .arg(script)
            .env("NODE_PATH", installed.join("node_modules"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AMQP_URL", Broker::shared().url())
            .env("APP", &self.name);
        command
    }

    /// Starts one of the example's services with these variables and waits until it consumes.
    ///
    /// # Panics
    /// If it does not consume in time.
    pub fn service(&self, script: &str, variables: &[(&str, &str)]) -> Process {
        let mut command = self.command(script);
        // Each app has queues of its own.
        command.env("NAME", format!("{}-{script}", self.name));
        command.envs(variables.iter().copied());
        let service = Process::start(command, self.folder.path(), HINT);
        service.line(PATIENCE, |line| (line == "ready").then_some(()));
        service
    }

    /// Runs one of the example's programs to its end. Returns its exit code and its output.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn run(&self, script: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = self.command(script);
        let output = command.args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{script}: {error}; {HINT}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let said = match output.status.success() {
            true => text(&output.stdout),
            false => text(&output.stderr),
        };
        (output.status.code().expect("it ends by itself"), said)
    }

    /// Returns the JSON lines that the app has written so far.
    ///
    /// # Panics
    /// If a line isn't JSON.
    pub fn kept(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("orders.jsonl"));
        let text = text.unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("whole lines of JSON"))
            .collect()
    }

    /// Waits until the app has written `count` lines.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn keeps(&self, count: usize) -> Vec<Value> {
        until("the orders are kept", PATIENCE, || {
            let kept = self.kept();
            match kept.len() >= count {
                true => Ok(kept),
                false => Err(format!("{} of {count}", kept.len())),
            }
        })
    }

    /// Returns the value of a series in `/metrics`.
    ///
    /// # Panics
    /// If there is no such series.
    pub fn metric(&self, series: &str) -> f64 {
        let text = http::get(self.admin, "/metrics").expect("it answers").body;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
        line.trim().parse().expect("a number")
    }
}

/// Returns the Python with the packages that `tests/run` installs.
pub fn python() -> PathBuf {
    installed().join("venv/bin/python")
}

/// Returns the folder of the packages that `tests/run` installs.
fn installed() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    // TARGET/PROFILE/deps/TEST
    let target = test.ancestors().nth(3).expect("tests are in deps/");
    let installed = target.join("polyglot");
    assert!(installed.is_dir(), "{}: {HINT}", installed.display());
    installed
}

/// An AMQP client outside the app.
#[derive(Debug)]
pub struct Stranger {
    _connection: Connection,
    /// The channel, for further uses.
    pub channel: Channel,
}

impl Stranger {
    /// Connects to the shared broker.
    ///
    /// # Panics
    /// If it can't.
    pub async fn connect() -> Self {
        Self::connect_to(&Broker::shared().url()).await
    }

    /// Connects to a broker.
    ///
    /// # Panics
    /// If it can't.
    pub async fn connect_to(url: &str) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = connecting.await.expect("it connects");
        let channel = connection.create_channel().await.expect("a channel");
        Self {
            _connection: connection,
            channel,
        }
    }

    /// Publishes a message.
    ///
    /// # Panics
    /// If it can't.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        payload: &[u8],
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions::default();
        let published =
            self.channel
                .basic_publish(exchange.into(), key.into(), options, payload, properties);
        published.await.expect("it publishes");
    }

    /// Declares a durable queue of this type.
    ///
    /// # Panics
    /// If it can't.
    pub async fn queue(&self, name: &str, kind: &str) {
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let declared = self.channel.queue_declare(name.into(), options, arguments);
        declared.await.expect("it declares");
    }

    /// Binds a new queue to everything that the exchange carries from now on.
    ///
    /// # Panics
    /// If it can't.
    pub async fn spy(&self, exchange: &str) -> Spy {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let declared = self
            .channel
            .queue_declare("".into(), options, FieldTable::default());
        let queue = declared.await.expect("it declares").name().clone();
        let options = QueueBindOptions::default();
        let bound = self.channel.queue_bind(
            queue.clone(),
            exchange.into(),
            "#".into(),
            options,
            FieldTable::default(),
        );
        bound.await.expect("it binds");
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let arguments = FieldTable::default();
        let consuming = self
            .channel
            .basic_consume(queue, "".into(), options, arguments);
        Spy(consuming.await.expect("it consumes"))
    }
}

/// The messages of an exchange.
#[derive(Debug)]
pub struct Spy(lapin::Consumer);

/// A message as it is on the wire.
#[derive(Debug)]
pub struct Seen {
    /// The routing key.
    pub key: String,
    /// The AMQP property.
    pub message_id: Option<String>,
    /// As text.
    pub headers: std::collections::BTreeMap<String, String>,
    /// As JSON.
    pub payload: Value,
}

impl Seen {
    /// Returns the trace id and span id of the message's `traceparent`.
    ///
    /// # Panics
    /// If there is none.
    pub fn trace(&self) -> (String, String) {
        let parts: Vec<&str> = self.headers["traceparent"].split('-').collect();
        assert_eq!((parts.len(), parts[0]), (4, "00"), "{self:?}");
        (parts[1].to_owned(), parts[2].to_owned())
    }
}

impl Spy {
    /// Returns the next message.
    ///
    /// # Panics
    /// If no message comes in time.
    pub async fn next(&mut self) -> Seen {
        let delivery = timeout(PATIENCE, self.0.next()).await;
        let delivery = delivery.expect("it comes").expect("it goes on");
        let delivery = delivery.expect("a delivery");
        let headers = delivery.properties.headers().as_ref().into_iter().flatten();
        let headers = headers.map(|(name, value)| {
            let value = match value {
                AMQPValue::LongString(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            (name.to_string(), value)
        });
        let id = delivery.properties.message_id().as_ref();
        Seen {
            key: delivery.routing_key.to_string(),
            message_id: id.map(ToString::to_string),
            headers: headers.collect(),
            payload: serde_json::from_slice(&delivery.data).unwrap_or(Value::Null),
        }
    }
}
