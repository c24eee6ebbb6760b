//! A service that counts in its store how often it has done what each message asks: the proof
//! that it was done once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OpenFlags};

/// What is counted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Number {
    /// Which one.
    pub n: u64,
}

/// How it counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TallyConfig {
    /// It counts none, and rejects them all.
    pub rejects: bool,
    /// It knows again what it has done: without, a message that comes again is a new one.
    pub inbox: bool,
    /// It emits what it has counted.
    pub passes_on: bool,
    /// In its transaction it makes this file, and blocks until that is gone.
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

/// See the module.
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

/// What such a service has counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many numbers, once or more.
    pub numbers: u64,
    /// How many of them more than once.
    pub again: u64,
    /// How many of its messages nobody has taken over yet.
    pub in_outbox: u64,
}

impl Counts {
    /// Reads it in the data folder of an app, past the service, which mustn't run; nothing
    /// if it has never run.
    ///
    /// # Panics
    /// It can't be read, or isn't whole.
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

    /// So many numbers, each once, and nothing left to say.
    pub fn once(numbers: u64) -> Self {
        Self {
            numbers,
            ..Self::default()
        }
    }
}
