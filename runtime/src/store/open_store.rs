//! An open store: the database with its outbox and inbox.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::entities::{self, ENTITY_TABLES, RestoreReminders};
use super::inbox;
use super::outbox::{Outbox, Removal};
use crate::failure::Failure;
use crate::lock::Lock;
use crate::metrics::SharedCounter;
use crate::sqlite::{Database, Migration, Options, Part, Schema, SqliteError, WriterPool};

/// Migrations of the runtime's own tables, which every store has.
const RUNTIME_TABLES: &[Migration] = &[Migration::new(
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

/// Page cache per store: an app may have many stores.
const CACHE_KIB: u32 = 128;
/// Maximum time for the statements of one transaction.
const TRANSACTION_MAX: Duration = Duration::from_secs(5);

/// The owner of a store, and the migrations of the owner's tables.
pub(super) struct StoreOwner {
    pub(super) app: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) migrations: &'static [Migration],
}

/// An open store. Its lock is held until it is dropped.
pub(crate) struct OpenStore {
    pub(crate) database: Database,
    pub(crate) outbox: Arc<Outbox>,
    /// Redelivered messages that the inbox had.
    pub(crate) repeated: SharedCounter,
    /// Whether the service keeps entities.
    has_entities: bool,
    /// Set once the reminders are in the outbox.
    restored: AtomicBool,
    /// Time of the newest inbox entry when the store was opened.
    last_entry_ms: Option<u64>,
    /// Down-time of the service before it was opened, at most.
    down_ms: OnceLock<u64>,
    _lock: Lock,
}

impl OpenStore {
    /// Opens and migrates the file. Blocks the thread.
    pub(super) fn open(
        file: &Path,
        owner: &StoreOwner,
        writers: &WriterPool,
        lock: Lock,
    ) -> Result<Self, Failure> {
        let part = |name, steps: &[Migration]| Part {
            name,
            steps: steps.to_vec(),
        };
        let schema = Schema {
            owner: format!("the service {} of the app {}", owner.service, owner.app),
            parts: vec![
                part("brickwork", RUNTIME_TABLES),
                part("service", owner.migrations),
            ],
        };
        let options = Options {
            cache_kib: CACHE_KIB,
            job_max: TRANSACTION_MAX,
            ..Options::default()
        };
        let database = Database::open(file, &schema, options, writers)?;
        let (waiting, last) = database.read_now(|connection| {
            let sql =
                "SELECT count(*), coalesce(max(n), 0) FROM brickwork_outbox WHERE refused IS NULL";
            connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
        })?;
        let last_entry_ms = database.read_now(inbox::last_entry_ms)?;
        Ok(Self {
            database,
            outbox: Arc::new(Outbox::new(waiting as u64, last)),
            repeated: SharedCounter::default(),
            has_entities: owner.migrations == ENTITY_TABLES,
            restored: AtomicBool::new(false),
            last_entry_ms,
            down_ms: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Removes an entity with its reminders. Returns whether it was there. An entity in memory is
    /// dropped when it handles its next message, because its state is no longer the saved one.
    pub(crate) async fn evict_entity(&self, name: &str, key: &str) -> Result<bool, SqliteError> {
        if !self.has_entities {
            return Ok(false);
        }
        let key = key.to_owned();
        let evicting = self
            .database
            .write(name, move |tx| entities::evict(tx, &key));
        evicting.await
    }

    /// Publishes the reminders of entities again whose messages went with an earlier process.
    /// Call before anything is published, and only if the transport keeps no messages: the
    /// second call does nothing.
    pub(crate) async fn restore_reminders(&self, name: &str) -> Result<(), SqliteError> {
        if !self.has_entities || self.restored.load(Relaxed) {
            return Ok(());
        }
        let (job, restored) = RestoreReminders::new(self.outbox.clone(), name);
        self.database.submit(job);
        restored.await.unwrap_or(Err(SqliteError::Closed))?;
        self.restored.store(true, Relaxed);
        Ok(())
    }

    /// Deletes up to `at_most` inbox entries older than `older_ms`, and returns their number.
    ///
    /// The down-time of the service does not count: messages that were in flight when it
    /// stopped are redelivered only after it has started again.
    pub(crate) async fn clean_inbox(
        &self,
        name: &str,
        older_ms: u64,
        now_ms: u64,
        at_most: u32,
    ) -> Result<usize, SqliteError> {
        let last_ms = self.last_entry_ms.unwrap_or(now_ms);
        let down_ms = *self.down_ms.get_or_init(|| now_ms.saturating_sub(last_ms));
        let before_ms = now_ms.saturating_sub(older_ms).saturating_sub(down_ms);
        let deleting = self.database.write(name, move |tx| {
            inbox::delete_old(tx, before_ms, now_ms, at_most)
        });
        deleting.await
    }

    /// Deletes confirmed messages from the outbox.
    pub(crate) fn remove(
        &self,
        name: &str,
        confirmed: Vec<i64>,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        let removal = Removal::Confirmed(confirmed);
        self.outbox.remove(&self.database, name, removal)
    }

    /// Marks a message as refused, because the transport can never publish it. It stays in
    /// the file and no longer counts as waiting.
    pub(crate) fn refuse(
        &self,
        name: &str,
        n: i64,
        why: String,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        let removal = Removal::Refused(n, why);
        self.outbox.remove(&self.database, name, removal)
    }
}
