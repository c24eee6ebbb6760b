//! The URL of a PostgreSQL, and connecting to it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::{Client, Config, NoTls};

use super::tls::Tls;
use crate::sql::error::{Class, SqlError, classify};
use crate::sql::work::line_and_column;

/// Idle time after which the system checks that the server is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time that the server waits for the next statement of a transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// A database, and how to connect to it.
#[derive(Clone)]
pub(in crate::sql) struct Settings {
    config: Config,
    is_encrypted: bool,
    ca: Option<PathBuf>,
    connect_timeout: Duration,
    statement_timeout: Duration,
}

/// An open connection. Its task ends with it.
pub(super) struct Connection {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Settings {
    /// Without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

impl Settings {
    /// Reads a URL such as `postgres://user:password@host:5432/database?sslmode=require`.
    ///
    /// # Errors
    /// The URL is wrong. The text has no part of the URL.
    pub(in crate::sql) fn new(
        url: &str,
        ca: Option<PathBuf>,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("it is postgres://USER:PASSWORD@HOST/DATABASE".to_owned());
        }
        let (url, mode) = take_ssl_mode(url)?;
        let mut config = Config::from_str(&url).map_err(|error| chain(&error))?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        let is_encrypted = match mode.as_deref() {
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            None => !config.get_hosts().iter().all(is_local),
            Some(_) => {
                return Err(
                    "sslmode is disable, require, verify-ca or verify-full: the others let an \
                     attacker switch TLS off"
                        .to_owned(),
                );
            }
        };
        config
            .ssl_mode(match is_encrypted {
                true => SslMode::Require,
                false => SslMode::Disable,
            })
            .connect_timeout(connect_timeout)
            .keepalives_idle(KEEPALIVE_IDLE);
        if config.get_application_name().is_none() {
            config.application_name("brickwork");
        }
        Ok(Self {
            config,
            is_encrypted,
            ca,
            connect_timeout,
            statement_timeout,
        })
    }

    /// Hosts and database, for logs.
    pub(in crate::sql) fn place(&self) -> String {
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host_text).collect();
        let database = self.config.get_dbname().unwrap_or_default();
        format!("{}/{database}", hosts.join(","))
    }

    /// Connects.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn connect(&self) -> Result<Connection, SqlError> {
        let connected = timeout(self.connect_timeout, self.connect_within()).await;
        let late = || SqlError::away(format!("no connection within {:?}", self.connect_timeout));
        connected.unwrap_or_else(|_| Err(late())).map_err(|error| {
            let text = format!("can't connect to {}: {}", self.place(), error.text);
            SqlError::away(text)
        })
    }

    async fn connect_within(&self) -> Result<Connection, SqlError> {
        let (client, task) = if self.is_encrypted {
            let ca = self.ca.clone();
            let tls = tokio::task::spawn_blocking(move || Tls::new(ca.as_deref())).await;
            let tls = tls
                .map_err(|error| SqlError::away(error.to_string()))?
                .map_err(SqlError::away)?;
            let (client, connection) = self.config.connect(tls).await.map_err(of_postgres)?;
            (client, tokio::spawn(async { drop(connection.await) }))
        } else {
            let (client, connection) = self.config.connect(NoTls).await.map_err(of_postgres)?;
            (client, tokio::spawn(async { drop(connection.await) }))
        };
        let connection = Connection { client, task };
        let settings = format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
             SET TimeZone = 'UTC'; SET client_min_messages = warning",
            self.statement_timeout.as_millis(),
            IDLE_IN_TRANSACTION.as_millis(),
        );
        connection
            .client
            .batch_execute(&settings)
            .await
            .map_err(of_postgres)?;
        Ok(connection)
    }
}

/// The URL without `sslmode`, and its value: tokio-postgres refuses `verify-full`.
fn take_ssl_mode(url: &str) -> Result<(String, Option<String>), String> {
    let Some((start, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let mut mode = None;
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert", _)) => {
                return Err("sslrootcert is set by config.ca".to_owned());
            }
            _ => kept.push(pair),
        }
    }
    let url = match kept.is_empty() {
        true => start.to_owned(),
        false => format!("{start}?{}", kept.join("&")),
    };
    Ok((url, mode))
}

/// Whether the traffic with this host stays on this machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            let is_loopback = |address: IpAddr| address.is_loopback();
            name == "localhost" || name.parse().is_ok_and(is_loopback)
        }
    }
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// The error of a statement, with PostgreSQL's own text and SQLSTATE.
pub(super) fn of_postgres(error: tokio_postgres::Error) -> SqlError {
    match error.as_db_error() {
        Some(db) => SqlError::new(classify(db.code().code()), db_text(db)),
        // The connection is broken: values are encoded before a statement is sent.
        None => SqlError::away(chain(&error)),
    }
}

/// The error of a statement of the config, with its place there.
pub(super) fn of_statement(error: tokio_postgres::Error, statement: &str) -> SqlError {
    let position = error.as_db_error().and_then(DbError::position).cloned();
    let error = of_postgres(error);
    match position {
        Some(ErrorPosition::Original(at)) => {
            let (line, column) = line_and_column(statement, at.saturating_sub(1) as usize);
            let text = format!(
                "{} at line {line}, column {column} of the statement",
                error.text
            );
            SqlError { text, ..error }
        }
        _ => error,
    }
}

fn db_text(error: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {}", error.message(), error.code().code());
    for (name, value) in [("table", error.table()), ("column", error.column())] {
        if let Some(value) = value {
            text += &format!(", {name} {value}");
        }
    }
    text + ")"
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

impl SqlError {
    /// The statement did not end in time, also not by the server's own limit.
    pub(super) fn without_answer(limit: Duration) -> Self {
        Self::new(
            Class::Away,
            format!("the database did not answer within {limit:?}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Result<Settings, String> {
        let second = Duration::from_secs(1);
        Settings::new(url, None, second, second)
    }

    #[test]
    fn traffic_that_leaves_the_machine_is_encrypted_and_verified() {
        for (url, is_encrypted) in [
            ("postgres://u:p@db.example.com/x", true),
            ("postgres://u:p@db.example.com/x?sslmode=require", true),
            (
                "postgresql://u:p@db.example.com/x?connect_timeout=5&sslmode=verify-full",
                true,
            ),
            ("postgres://u:p@db.example.com/x?sslmode=disable", false),
            ("postgres://u:p@localhost/x", false),
            ("postgres://u:p@127.0.0.1,db.example.com/x", true),
            ("postgres://u:p@localhost/x?sslmode=verify-ca", true),
            ("postgres://u@%2Fvar%2Frun/x", false),
        ] {
            assert_eq!(settings(url).unwrap().is_encrypted, is_encrypted, "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "mysql://u:hunter2@h/x",
            "postgres://u:hunter2@h/x?sslmode=prefer",
            "postgres://u:hunter2@h/x?sslrootcert=a.pem",
            "postgres://u:hunter2@h:port/x",
            "postgres://u:hunter2@h/x?hunter2=1",
        ] {
            let error = settings(url).unwrap_err();
            assert!(!error.contains("hunter2@"), "{error}");
        }
        let shown = format!("{:?}", settings("postgres://u:hunter2@h/x").unwrap());
        assert_eq!(shown, "h/x");
    }
}
