//! Reads the stores of an app's services: inbox entries, and messages in outboxes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::findings::{Findings, time};
use super::port_graph::PortGraph;
use super::report::Outboxed;
use crate::envelope_json::read_head;
use crate::id::MessageId;
use crate::lock::Lock;
use crate::names::QueueId;
use crate::sqlite::rusqlite::Connection;
use crate::sqlite::{ReadOnlyDatabase, SqliteError};
use crate::store;
use crate::transport::SearchQuery;

/// Time for reading all stores. A process that opens one of them waits as long.
const READ_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Rows between two looks at the clock.
const ROWS_PER_CLOCK: usize = 256;

/// The stores that could be opened.
pub(super) struct Stores {
    stores: Vec<Store>,
    deadline: Instant,
}

struct Store {
    service: Arc<str>,
    database: ReadOnlyDatabase,
    /// Keeps other processes from opening the store, unless one has it open already. Dropped
    /// last.
    _lock: Option<Lock>,
}

impl Store {
    fn open(service: &Arc<str>, data: &Path) -> Result<Self, String> {
        let opened = store::open_read_only(data, service);
        let (database, lock) = opened.map_err(|error| error.to_string())?;
        Ok(Self {
            service: service.clone(),
            database,
            _lock: lock,
        })
    }

    fn read_outbox(
        &self,
        connection: &Connection,
        wanted: &SearchQuery,
        deadline: Instant,
        findings: &mut Findings,
    ) -> Result<(), SqliteError> {
        let mut select =
            connection.prepare("SELECT head, due_ms, refused FROM brickwork_outbox ORDER BY n")?;
        let mut rows = select.query([])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            if count % ROWS_PER_CLOCK == 0 && Instant::now() >= deadline {
                let service = &self.service;
                findings.miss(format!("part of the outbox of {service}: it is too large"));
                break;
            }
            let head: String = row.get(0)?;
            let Ok(message) = read_head(&head, Bytes::new()) else {
                continue;
            };
            if wanted.covers(&message) {
                let due_ms: Option<i64> = row.get(1)?;
                let due_ms = due_ms.and_then(|ms| u64::try_from(ms).ok());
                let outboxed = Outboxed {
                    service: self.service.to_string(),
                    topic: message.topic.to_string(),
                    until: due_ms.map(time),
                    refused: row.get(2)?,
                };
                findings.add_outboxed(&message, outboxed);
            }
        }
        Ok(())
    }

    fn read_inbox(
        &self,
        connection: &Connection,
        id: &MessageId,
        findings: &mut Findings,
    ) -> Result<(), SqliteError> {
        let sql = "SELECT input, at_ms FROM brickwork_inbox WHERE id = ?1";
        let mut select = connection.prepare_cached(sql)?;
        let mut rows = select.query([id.to_string()])?;
        while let Some(row) = rows.next()? {
            let (input, at_ms): (String, i64) = (row.get(0)?, row.get(1)?);
            let at = QueueId::new(&self.service, &input);
            findings.add_inbox_entry(id, at, at_ms.max(0) as u64);
        }
        Ok(())
    }
}

impl Stores {
    /// Opens the stores that are in the data folder.
    pub(super) fn open(graph: &PortGraph, data: &Path, findings: &mut Findings) -> Self {
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut stores = Vec::new();
        for service in graph.services.iter().filter(|service| service.has_store) {
            let label = &service.label;
            if !store::file(data, label).exists() {
                findings.miss(format!("the store of {label}: none in {}", data.display()));
                continue;
            }
            match Store::open(label, data) {
                Ok(store) => {
                    let text = format!("the inbox and the outbox of {label}");
                    findings.looked_at.push(text);
                    stores.push(store);
                }
                Err(error) => findings.miss(format!("the store of {label}: {error}")),
            }
        }
        Self { stores, deadline }
    }

    /// Adds the messages in outboxes.
    pub(super) fn read_outboxes(&self, wanted: &SearchQuery, findings: &mut Findings) {
        for store in &self.stores {
            let read = store
                .database
                .read(|connection| store.read_outbox(connection, wanted, self.deadline, findings));
            if let Err(error) = read {
                findings.miss(format!("the outbox of {}: {error}", store.service));
            }
        }
    }

    /// Adds the inbox entries of a message.
    pub(super) fn read_inboxes(&self, id: &MessageId, findings: &mut Findings) {
        for store in &self.stores {
            let service = &store.service;
            if Instant::now() >= self.deadline {
                findings.miss(format!("part of the inbox of {service}: it took too long"));
                continue;
            }
            let read = |connection: &Connection| store.read_inbox(connection, id, findings);
            if let Err(error) = store.database.read(read) {
                findings.miss(format!("the inbox of {service}: {error}"));
            }
        }
    }
}
