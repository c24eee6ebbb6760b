//! What the stores of an app's services say: which messages they entered in their inboxes,
//! and what is still in their outboxes.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::findings::{Entry, Findings, Outboxed};
use super::port_graph::Wiring;
use crate::envelope_json::read_head;
use crate::id::MessageId;
use crate::lock::Lock;
use crate::names::QueueId;
use crate::sqlite::rusqlite::Connection;
use crate::sqlite::{ReadOnlyDatabase, SqliteError};
use crate::store;
use crate::transport::SearchQuery;

/// For reading all of them: whoever wants to use one waits as long.
const WITHIN: Duration = Duration::from_millis(1_500);
/// The clock is read every so many rows.
const ROWS: usize = 256;

/// The stores that could be opened.
pub(super) struct Stores {
    stores: Vec<Store>,
    deadline: Instant,
}

struct Store {
    service: Arc<str>,
    glimpse: ReadOnlyDatabase,
    /// Nobody begins to use it meanwhile, or somebody does all the time. Held to the last.
    _nobody_else: Option<Lock>,
}

impl Store {
    fn open(service: &Arc<str>, data: &Path) -> Result<Self, String> {
        let lock = store::lock_file(data, service);
        let (in_use, nobody_else) = match Lock::look(&lock, str::to_owned) {
            Ok(nobody_else) => (false, nobody_else),
            Err(error) if error.kind() == ErrorKind::AddrInUse => (true, None),
            Err(error) => return Err(format!("can't look at {}: {error}", lock.display())),
        };
        let glimpse = ReadOnlyDatabase::open(&store::file(data, service), in_use);
        Ok(Self {
            service: service.clone(),
            glimpse: glimpse.map_err(|error| error.to_string())?,
            _nobody_else: nobody_else,
        })
    }
}

impl Stores {
    /// Opens the stores that are there. Blocks its thread.
    pub(super) fn open(wiring: &Wiring, data: &Path, evidence: &mut Findings) -> Self {
        let deadline = Instant::now() + WITHIN;
        let mut stores = Vec::new();
        for service in wiring.services.iter().filter(|service| service.has_store) {
            let path = store::file(data, &service.label);
            if !path.exists() {
                // It has stored nothing, at least not here.
                let text = format!("no store of {} in {}", service.label, data.display());
                evidence.missed(text);
                continue;
            }
            match Store::open(&service.label, data) {
                Ok(store) => {
                    let text = format!("the inbox and the outbox of {}", service.label);
                    evidence.looked_at.push(text);
                    stores.push(store);
                }
                Err(error) => evidence.missed(error),
            }
        }
        Self { stores, deadline }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }

    /// What is in the outboxes.
    pub(super) fn outboxes(&self, wanted: &SearchQuery, evidence: &mut Findings) {
        for Store {
            service, glimpse, ..
        } in &self.stores
        {
            let deadline = self.deadline;
            let read =
                glimpse.read(|connection| outbox(connection, service, wanted, deadline, evidence));
            match read {
                Ok(true) => {}
                Ok(false) => evidence.missed(format!(
                    "of the outbox of {service} not everything: there is too much of it"
                )),
                Err(error) => evidence.missed(format!("the outbox of {service}: {error}")),
            }
        }
    }

    /// Which of some messages are in an inbox. Says which were found.
    pub(super) fn inboxes(&self, ids: &[MessageId], evidence: &mut Findings) -> Vec<MessageId> {
        let mut found = Vec::new();
        for Store {
            service, glimpse, ..
        } in &self.stores
        {
            let deadline = self.deadline;
            let read =
                glimpse.read(|connection| inbox(connection, service, ids, deadline, evidence));
            match read {
                Ok((entered, all)) => {
                    found.extend(entered);
                    if !all {
                        let text = format!("the inbox of {service}: there was no time for more");
                        evidence.missed(text);
                    }
                }
                Err(error) => evidence.missed(format!("the inbox of {service}: {error}")),
            }
        }
        found
    }
}

/// Whether everything was read.
fn outbox(
    connection: &Connection,
    service: &Arc<str>,
    wanted: &SearchQuery,
    deadline: Instant,
    evidence: &mut Findings,
) -> Result<bool, SqliteError> {
    let mut select = connection
        .prepare("SELECT output, head, due_ms, refused FROM brickwork_outbox ORDER BY n")?;
    let mut rows = select.query([])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        read += 1;
        if read % ROWS == 0 && Instant::now() >= deadline {
            return Ok(false);
        }
        let head: String = row.get(1)?;
        let Ok(message) = read_head(&head, Bytes::new()) else {
            continue;
        };
        if wanted.covers(&message) {
            let due_ms: Option<i64> = row.get(2)?;
            let outboxed = Outboxed {
                service: service.clone(),
                topic: message.topic.clone(),
                due_ms: due_ms.and_then(|ms| u64::try_from(ms).ok()),
                refused: row.get(3)?,
            };
            evidence.outboxed(&message, outboxed);
        }
    }
    Ok(true)
}

fn inbox(
    connection: &Connection,
    service: &str,
    ids: &[MessageId],
    deadline: Instant,
    evidence: &mut Findings,
) -> Result<(Vec<MessageId>, bool), SqliteError> {
    let mut select =
        connection.prepare("SELECT input, at_ms FROM brickwork_inbox WHERE id = ?1")?;
    let mut found = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        if number % ROWS == ROWS - 1 && Instant::now() >= deadline {
            return Ok((found, false));
        }
        let mut rows = select.query([id.to_string()])?;
        while let Some(row) = rows.next()? {
            let (input, at_ms): (String, i64) = (row.get(0)?, row.get(1)?);
            let entry = Entry {
                at: QueueId::new(service, &input),
                at_ms: at_ms.max(0) as u64,
            };
            evidence.entered(id, entry);
            found.push(id.clone());
        }
    }
    Ok((found, true))
}
