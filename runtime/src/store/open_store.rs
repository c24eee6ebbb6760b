//! An open store: the database, and what waits in its outbox.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::inbox;
use super::outbox::{Leave, Outbox};
use crate::failure::Failure;
use crate::lock::Lock;
use crate::metrics::SharedCounter;
use crate::sqlite::{Database, Migration, Options, Part, Schema, SqliteError, WriterPool};

/// What the runtime keeps in every store.
const OURS: &[Migration] = &[Migration::new(
    "inbox and outbox",
    "CREATE TABLE brickwork_inbox (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        input TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        reply BLOB,
        UNIQUE (id, input)
    ) STRICT;
    CREATE TABLE brickwork_outbox (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        output TEXT NOT NULL,
        head TEXT NOT NULL,
        payload BLOB NOT NULL,
        due_ms INTEGER,
        refused TEXT
    ) STRICT;",
)];

/// A store is small, and there may be many.
const CACHE_KIB: u32 = 128;
/// How long the statements of one transaction may take.
const TRANSACTION_MAX: Duration = Duration::from_secs(5);

/// Whose a store is, and what the service wants in it.
pub(super) struct StoreOwner {
    pub(super) app: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) migrations: &'static [Migration],
}

/// An open store. Others can't open it until it is dropped.
pub(crate) struct OpenStore {
    pub(crate) database: Database,
    pub(crate) outbox: Arc<Outbox>,
    /// Messages that came again after they were done.
    pub(crate) repeated: SharedCounter,
    /// When the inbox was last written to before.
    last_entry_ms: Option<u64>,
    /// How long nobody ran the service before, at most.
    away_ms: OnceLock<u64>,
    _lock: Lock,
}

impl OpenStore {
    /// Blocks its thread.
    pub(super) fn open(
        file: &Path,
        own: &StoreOwner,
        writers: &WriterPool,
        lock: Lock,
    ) -> Result<Self, Failure> {
        let part = |name, steps: &[Migration]| Part {
            name,
            steps: steps.to_vec(),
        };
        let schema = Schema {
            owner: format!("the service {} of the app {}", own.service, own.app),
            parts: vec![part("brickwork", OURS), part("service", own.migrations)],
        };
        let options = Options {
            cache_kib: CACHE_KIB,
            job_max: TRANSACTION_MAX,
            ..Options::default()
        };
        let database = Database::open(file, &schema, options, writers)?;
        let (waiting, last) = database.look(|connection| {
            let sql =
                "SELECT count(*), coalesce(max(n), 0) FROM brickwork_outbox WHERE refused IS NULL";
            connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
        })?;
        let last_entry_ms = database.look(inbox::last_entry_ms)?;
        Ok(Self {
            database,
            outbox: Arc::new(Outbox::new(waiting as u64, last)),
            repeated: SharedCounter::default(),
            last_entry_ms,
            away_ms: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Forgets some of the inbox's entries that are older; says how many.
    ///
    /// Time in which nobody ran the service doesn't count: what it had in hand when it ended
    /// comes again only when it is back.
    pub(crate) async fn forget(
        &self,
        name: &str,
        older_ms: u64,
        now_ms: u64,
        at_most: u32,
    ) -> Result<usize, SqliteError> {
        let last_ms = self.last_entry_ms.unwrap_or(now_ms);
        let away_ms = *self.away_ms.get_or_init(|| now_ms.saturating_sub(last_ms));
        let before_ms = now_ms.saturating_sub(older_ms).saturating_sub(away_ms);
        let forgetting = self.database.write(name, move |tx| {
            inbox::forget(tx, before_ms, now_ms, at_most)
        });
        forgetting.await
    }

    /// The transport has taken these of the outbox over: removes them.
    pub(crate) fn remove(
        &self,
        name: &str,
        taken: Vec<i64>,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        self.outbox.leave(&self.database, name, Leave::Taken(taken))
    }

    /// A message of the outbox can't be published, ever: it stays, and holds up no other.
    pub(crate) fn refuse(
        &self,
        name: &str,
        n: i64,
        why: String,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        self.outbox
            .leave(&self.database, name, Leave::Refused(n, why))
    }
}
