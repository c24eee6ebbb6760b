//! The transaction that the jobs of one commit share, and the limits on their statements.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::error::SqliteError;

/// Prefix of the tables that belong to the runtime.
const RUNTIME_PREFIX: &str = "brickwork_";

/// An open transaction, shared by the jobs of one commit.
///
/// It derefs to the connection: statements on it are part of the transaction.
pub struct Transaction<'a> {
    connection: &'a Connection,
    guard: &'a StatementGuard,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(connection: &'a Connection, guard: &'a StatementGuard) -> Self {
        Self { connection, guard }
    }

    /// Runs statements of a service. SQLite refuses those that end the transaction, open
    /// another file or touch the runtime's tables.
    pub fn restricted<R>(&self, work: impl FnOnce(&Connection) -> R) -> R {
        struct Unrestrict<'a>(&'a AtomicBool);
        impl Drop for Unrestrict<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        self.guard.restricted.store(true, Relaxed);
        let _unrestrict = Unrestrict(&self.guard.restricted);
        work(self.connection)
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// Restricts statements of a service, and allows a commit only to the owner of the transaction.
///
/// The second rule covers a rollback by SQLite itself: each later statement would otherwise
/// commit as a transaction of its own.
#[derive(Debug, Default)]
pub(super) struct StatementGuard {
    restricted: Arc<AtomicBool>,
    may_commit: Arc<AtomicBool>,
}

impl StatementGuard {
    pub(super) fn install(connection: &mut Connection) -> Result<Self, SqliteError> {
        let guard = Self::default();
        let may_commit = guard.may_commit.clone();
        connection.commit_hook(Some(move || !may_commit.load(Relaxed)))?;
        let restricted = guard.restricted.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            if restricted.load(Relaxed) && !is_allowed(&context.action) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        Ok(guard)
    }

    /// Runs the statement that commits.
    pub(super) fn allow_commit<R>(&self, committing: impl FnOnce() -> R) -> R {
        self.may_commit.store(true, Relaxed);
        let outcome = committing();
        self.may_commit.store(false, Relaxed);
        outcome
    }
}

/// Returns whether a service may run a statement with this action.
fn is_allowed(action: &AuthAction<'_>) -> bool {
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
        | A::CreateTrigger { table_name, .. } => !table_name.starts_with(RUNTIME_PREFIX),
        _ => true,
    }
}
