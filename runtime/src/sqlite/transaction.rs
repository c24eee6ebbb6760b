//! What a job sees of the database: the transaction that it shares with others.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::SqliteError;

/// Tables with this prefix are the runtime's.
const OURS: &str = "brickwork_";

/// An open transaction, shared by the jobs of one commit. It derefs to the connection: what
/// is executed there is part of it.
pub struct Transaction<'a> {
    connection: &'a Connection,
    fence: &'a Fence,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(connection: &'a Connection, fence: &'a Fence) -> Self {
        Self { connection, fence }
    }

    /// Runs statements of others: they may neither end the transaction nor touch the
    /// runtime's tables.
    pub fn restricted<R>(&self, theirs: impl FnOnce(&Connection) -> R) -> R {
        struct Down<'a>(&'a AtomicBool);
        impl Drop for Down<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        self.fence.up.store(true, Relaxed);
        let _down = Down(&self.fence.up);
        theirs(self.connection)
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// Keeps statements of others from what isn't theirs, while it is up; and everybody from a
/// commit but the one who has the transaction. Once SQLite has rolled that back by itself, each
/// further statement would be a transaction of its own.
#[derive(Debug, Default)]
pub(super) struct Fence {
    up: Arc<AtomicBool>,
    commits: Arc<AtomicBool>,
}

impl Fence {
    pub(super) fn around(connection: &mut Connection) -> Result<Self, SqliteError> {
        let fence = Self::default();
        let commits = fence.commits.clone();
        connection.commit_hook(Some(move || !commits.load(Relaxed)))?;
        let up = fence.up.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            if up.load(Relaxed) && !is_theirs(&context.action) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        Ok(fence)
    }

    /// Lets through what commits.
    pub(super) fn open<R>(&self, committing: impl FnOnce() -> R) -> R {
        self.commits.store(true, Relaxed);
        let outcome = committing();
        self.commits.store(false, Relaxed);
        outcome
    }
}

fn is_theirs(action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    match *action {
        A::Transaction { .. } | A::Savepoint { .. } | A::Attach { .. } | A::Detach { .. } => false,
        A::Pragma { pragma_value, .. } => pragma_value.is_none(),
        A::Read { table_name, .. }
        | A::Insert { table_name }
        | A::Update { table_name, .. }
        | A::Delete { table_name }
        | A::DropTable { table_name }
        | A::CreateTable { table_name }
        | A::AlterTable { table_name, .. }
        | A::CreateIndex { table_name, .. }
        | A::CreateTrigger { table_name, .. } => !table_name.starts_with(OURS),
        _ => true,
    }
}
