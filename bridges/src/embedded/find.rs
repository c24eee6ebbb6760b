//! Search for messages in the file, whether or not a process uses it.
//!
//! The search reads the heads of messages one by one, on a connection of its own, for a
//! bounded time. It changes nothing. The in-flight log tells which messages are in flight.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::{Connection, Error, Row};
use brickwork::transport::{
    FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult, TransportError,
};
use brickwork::{QueueId, read_head};
use bytes::Bytes;

use super::in_flight_log;
use super::open::file;
use super::read_only::ReadOnlyFolder;
use super::schema::Id;

/// Rows between two looks at the clock.
const ROWS: u64 = 256;

/// Searches a folder.
pub(super) async fn find(
    folder: PathBuf,
    query: &SearchQuery,
    bounds: SearchBounds,
) -> Result<SearchResult, TransportError> {
    let query = query.clone();
    let searching = tokio::task::spawn_blocking(move || {
        let lost = |error: SqliteError| TransportError::Lost(error.to_string());
        let view = ReadOnlyFolder::open(&folder).map_err(lost)?;
        let searched = view.read(|connection| Search::run(connection, &folder, &query, bounds));
        searched.map_err(lost)?.ok_or_else(|| {
            let text = format!("there are no queues in {}", folder.display());
            TransportError::Lost(text)
        })
    });
    let searched = searching.await;
    searched.unwrap_or_else(|_| {
        Err(TransportError::Lost(
            "no thread is available to search".into(),
        ))
    })
}

struct Search<'a> {
    query: &'a SearchQuery,
    queues: HashMap<u32, QueueId>,
    in_flight: HashSet<Id>,
    bounds: SearchBounds,
    began: Instant,
    rows: u64,
    result: SearchResult,
}

/// A table with messages. The columns of its rows are head, attempt, id or queue, due time, and
/// whether the message is retried.
#[derive(Debug, Clone, Copy)]
enum Section {
    Suspects,
    Delayed,
    Queues,
}

impl Section {
    fn sql(self) -> &'static str {
        match self {
            Self::Suspects => "SELECT head, attempt, id FROM suspect ORDER BY id",
            Self::Delayed => {
                "SELECT head, attempt, queue, due_ms, retry FROM delayed ORDER BY due_ms"
            }
            Self::Queues => "SELECT head, attempt, id FROM message ORDER BY id",
        }
    }
}

impl Search<'_> {
    fn run(
        connection: &Connection,
        folder: &Path,
        query: &SearchQuery,
        bounds: SearchBounds,
    ) -> Result<SearchResult, SqliteError> {
        let generation: i64 =
            connection.query_row("SELECT generation FROM app", [], |row| row.get(0))?;
        // The log is missing after an orderly end.
        let in_flight = in_flight_log::read(folder, generation).unwrap_or_default();
        let mut search = Search {
            query,
            queues: queues(connection)?,
            in_flight: in_flight.into_iter().map(|(id, _)| id).collect(),
            bounds,
            began: Instant::now(),
            rows: 0,
            result: SearchResult::default(),
        };
        for section in [Section::Suspects, Section::Delayed, Section::Queues] {
            let missed = match search.section(connection, section) {
                Ok(true) => continue,
                Ok(false) => format!("only the first {} rows were read", search.rows),
                Err(error) => error.of(&file(folder)).to_string(),
            };
            let path = folder.display();
            let text = format!("not all messages in {path} were searched ({section:?}): {missed}");
            search.result.missed.push(text);
        }
        Ok(search.result)
    }

    /// Searches a table. Returns `false` if a bound of the search is reached.
    fn section(&mut self, connection: &Connection, section: Section) -> Result<bool, SqliteError> {
        let mut select = connection.prepare(section.sql())?;
        let mut rows = select.query([])?;
        let (mut before, mut ahead) = (0, 0);
        while let Some(row) = rows.next()? {
            let late = self.rows.is_multiple_of(ROWS) && self.began.elapsed() >= self.bounds.within;
            if late || self.result.messages.len() >= self.bounds.messages {
                return Ok(false);
            }
            self.rows += 1;
            if let Section::Delayed = section {
                let due_ms: i64 = row.get(3)?;
                let place = QueueSection::Delayed {
                    due_ms: due_ms.max(0) as u64,
                    retry: row.get(4)?,
                };
                self.check(row, row.get(2)?, place)?;
                continue;
            }
            let id = Id::from_row(row.get(2)?);
            if id.queue() != before {
                (before, ahead) = (id.queue(), 0);
            }
            let place = match section {
                _ if self.in_flight.contains(&id) => QueueSection::InHand,
                Section::Suspects => QueueSection::Suspect,
                _ => {
                    ahead += 1;
                    let ahead = Some(ahead - 1);
                    QueueSection::Ready { ahead }
                }
            };
            self.check(row, id.queue(), place)?;
        }
        Ok(true)
    }

    /// Adds the message of a row to the result, if the query covers it.
    fn check(&mut self, row: &Row<'_>, queue: u32, place: QueueSection) -> Result<(), Error> {
        let Ok(head) = row.get_ref(0)?.as_str() else {
            // The row is unreadable.
            return Ok(());
        };
        if let (Ok(message), Some(queue)) = (read_head(head, Bytes::new()), self.queues.get(&queue))
            && self.query.covers(&message)
        {
            self.result.messages.push(FoundMessage {
                queue: queue.clone(),
                place,
                attempt: row.get(1)?,
                message,
            });
        }
        Ok(())
    }
}

fn queues(connection: &Connection) -> Result<HashMap<u32, QueueId>, Error> {
    let mut select = connection.prepare("SELECT number, service, input FROM queue")?;
    let rows = select.query_map([], |row| {
        let (service, input): (String, String) = (row.get(1)?, row.get(2)?);
        Ok((row.get(0)?, QueueId::new(&service, &input)))
    })?;
    rows.collect()
}
