//! A service that counts in its store how often it handled each message: the proof of
//! exactly-once effects.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OpenFlags};

/// A message to count.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Number {
    /// The message's number.
    pub n: u64,
}

/// Config of a [`Tally`].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TallyConfig {
    /// Reject every message and count none.
    pub rejects: bool,
    /// Use the inbox. Without it, a redelivered message counts again.
    pub inbox: bool,
    /// Emit each counted message.
    pub passes_on: bool,
    /// Create this file inside the transaction and block until it is removed.
    pub blocks: Option<PathBuf>,
}

impl Default for TallyConfig {
    fn default() -> Self {
        Self {
            rejects: false,
            inbox: true,
            passes_on: false,
            blocks: None,
        }
    }
}

const NUMBERS: Input<Number> = Input::new("in");
const COUNTED: Output<Number> = Output::new("out");

/// A service that counts in its store.
pub struct Tally {
    rejects: bool,
    inbox: bool,
    passes_on: bool,
    blocks: Option<PathBuf>,
}

impl Service for Tally {
    const NAME: &'static str = "tally";
    const STORE: &'static [Migration] = &[Migration::new(
        "tally",
        "CREATE TABLE tally (n INTEGER PRIMARY KEY, times INTEGER NOT NULL) STRICT",
    )];
    type Config = TallyConfig;

    fn ports(config: &TallyConfig, ports: &mut Ports<Self>) {
        ports.input(&NUMBERS);
        if config.passes_on {
            ports.output(&COUNTED);
        }
    }

    async fn start(config: &TallyConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            rejects: config.rejects,
            inbox: config.inbox,
            passes_on: config.passes_on,
            blocks: config.blocks.clone(),
        })
    }
}

impl Handle<Number> for Tally {
    async fn handle(&mut self, number: Number, cx: &mut Context) -> Result<(), Failure> {
        if self.rejects {
            return Err(Failure::reject("told to reject"));
        }
        let (passes_on, blocks) = (self.passes_on, self.blocks.clone());
        let count = move |tx: &mut Tx<'_>| {
            if let Some(file) = blocks {
                std::fs::write(&file, "")?;
                while file.exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            tx.prepare_cached(
                "INSERT INTO tally VALUES (?1, 1) ON CONFLICT DO UPDATE SET times = times + 1",
            )?
            .execute([number.n])?;
            match passes_on {
                true => tx.emit(&COUNTED, number),
                false => Ok(()),
            }
        };
        let store = cx.store()?;
        match self.inbox {
            true => store.transact(count).await,
            false => store.without_inbox().transact(count).await,
        }
    }
}

/// The counts of a service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct numbers.
    pub numbers: u64,
    /// Numbers that were counted more than once.
    pub again: u64,
    /// Messages in the outbox that are not confirmed yet.
    pub in_outbox: u64,
}

impl Counts {
    /// Reads the counts from the data folder of an app, without the service, which must not run.
    /// Returns zeros if it has never run.
    ///
    /// # Panics
    /// If the file is unreadable or damaged.
    pub fn read(data: &Path, service: &str) -> Self {
        let file = data.join("stores").join(format!("{service}.sqlite"));
        let Ok(store) = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE) else {
            return Self::default();
        };
        let count = |sql: &str| {
            let count = store.query_row(sql, [], |row| row.get(0));
            count.expect("it can be counted")
        };
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'tally'";
        if count(tables) == 0 {
            return Self::default();
        }
        let whole: String = store
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("it can be checked");
        assert_eq!(whole, "ok");
        Self {
            numbers: count("SELECT count(*) FROM tally"),
            again: count("SELECT count(*) FROM tally WHERE times > 1"),
            in_outbox: count("SELECT count(*) FROM brickwork_outbox"),
        }
    }

    /// Returns the counts of `numbers` messages that were each counted once, with an empty
    /// outbox.
    pub fn once(numbers: u64) -> Self {
        Self {
            numbers,
            ..Self::default()
        }
    }
}
