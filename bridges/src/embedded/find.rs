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
use brickwork::{Envelope, QueueId, read_head, write_head};
use bytes::Bytes;

use super::in_flight_log;
use super::open::file;
use super::read_only::ReadOnlyFolder;
use super::schema::Id;

/// Rows between two looks at the clock.
const ROWS: u64 = 256;
/// Beginning of a head. The id of the message follows.
const HEAD: &str = r#"{"id":""#;
/// Text that follows the id of an empty message.
const AFTER_ID: &str = r#"","type":"""#;
/// Length of an id that is a UUID.
const UUID_BYTES: usize = 36;

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
        let path = file(&folder);
        let searched =
            view.read(|connection| Search::run(connection, &folder, &query, bounds, &path));
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
    connection: &'a Connection,
    query: &'a SearchQuery,
    needles: Vec<String>,
    queues: HashMap<u32, QueueId>,
    in_flight: HashSet<Id>,
    bounds: SearchBounds,
    began: Instant,
    rows: u64,
    searched: SearchResult,
}

/// A bound of the search is reached.
struct BoundReached;

impl Search<'_> {
    fn run(
        connection: &Connection,
        folder: &Path,
        query: &SearchQuery,
        bounds: SearchBounds,
        path: &Path,
    ) -> Result<SearchResult, SqliteError> {
        let generation: i64 =
            connection.query_row("SELECT generation FROM app", [], |row| row.get(0))?;
        // The log is missing after an orderly end.
        let in_flight = in_flight_log::read(folder, generation).unwrap_or_default();
        let mut search = Search {
            connection,
            query,
            needles: needles(query),
            queues: queues(connection)?,
            in_flight: in_flight.into_iter().map(|(id, _)| id).collect(),
            bounds,
            began: Instant::now(),
            rows: 0,
            searched: SearchResult::default(),
        };
        for section in ["suspects", "delayed messages", "queues"] {
            let searched = match section {
                "suspects" => search.suspects(),
                "queues" => search.messages(),
                _ => search.delayed(),
            };
            let missed = match searched {
                Ok(Ok(())) => continue,
                Ok(Err(BoundReached)) => format!("only the first {} rows were read", search.rows),
                Err(error) => error.of(path).to_string(),
            };
            let text = format!(
                "not all {section} in {} were searched: {missed}",
                path.display()
            );
            search.searched.missed.push(text);
        }
        Ok(search.searched)
    }

    fn suspects(&mut self) -> Result<Result<(), BoundReached>, SqliteError> {
        let sql = "SELECT head, attempt, id FROM suspect ORDER BY id";
        self.each(sql, |search, row| {
            let id = Id::from_row(row.get(2)?);
            let place = match search.in_flight.contains(&id) {
                true => QueueSection::InHand,
                false => QueueSection::Suspect,
            };
            search.check(row, id.queue(), place)
        })
    }

    fn delayed(&mut self) -> Result<Result<(), BoundReached>, SqliteError> {
        let sql = "SELECT head, attempt, queue, due_ms, retry FROM delayed ORDER BY due_ms";
        self.each(sql, |search, row| {
            let due_ms: i64 = row.get(3)?;
            let place = QueueSection::Delayed {
                due_ms: due_ms.max(0) as u64,
                retry: row.get(4)?,
            };
            search.check(row, row.get(2)?, place)
        })
    }

    fn messages(&mut self) -> Result<Result<(), BoundReached>, SqliteError> {
        let (mut queue, mut ahead) = (0, 0);
        self.each(
            "SELECT head, attempt, id FROM message ORDER BY id",
            |search, row| {
                let id = Id::from_row(row.get(2)?);
                if id.queue() != queue {
                    (queue, ahead) = (id.queue(), 0);
                }
                if search.in_flight.contains(&id) {
                    return search.check(row, queue, QueueSection::InHand);
                }
                search.check(row, queue, QueueSection::Ready { ahead: Some(ahead) })?;
                ahead += 1;
                Ok(())
            },
        )
    }

    fn each(
        &mut self,
        sql: &str,
        mut with: impl FnMut(&mut Self, &Row<'_>) -> Result<(), Error>,
    ) -> Result<Result<(), BoundReached>, SqliteError> {
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            self.rows += 1;
            let late = self.rows % ROWS == 1 && self.began.elapsed() >= self.bounds.within;
            if late || self.searched.messages.len() >= self.bounds.messages {
                self.rows -= 1;
                return Ok(Err(BoundReached));
            }
            with(self, row)?;
        }
        Ok(Ok(()))
    }

    /// Adds the message of a row to the result, if the query covers it. The first columns of
    /// the row are head and attempt.
    fn check(&mut self, row: &Row<'_>, queue: u32, place: QueueSection) -> Result<(), Error> {
        let Ok(head) = row.get_ref(0)?.as_str() else {
            // The row is unreadable.
            return Ok(());
        };
        if !self.may_match(head) {
            return Ok(());
        }
        let (Ok(message), Some(queue)) = (read_head(head, Bytes::new()), self.queues.get(&queue))
        else {
            return Ok(());
        };
        if self.query.covers(&message) {
            self.searched.messages.push(FoundMessage {
                queue: queue.clone(),
                place,
                attempt: row.get(1)?,
                message,
            });
        }
        Ok(())
    }

    /// Whether a head is worth decoding. An id that is no UUID may belong to any trace.
    fn may_match(&self, head: &str) -> bool {
        let uuid = head.as_bytes().get(HEAD.len() + UUID_BYTES) == Some(&b'"');
        (!uuid && !head.contains("traceparent"))
            || self.needles.iter().any(|needle| head.contains(&**needle))
    }
}

/// Returns texts: the head of each message that the query covers has at least one of them.
fn needles(query: &SearchQuery) -> Vec<String> {
    let ids = query.ids.iter().map(|id| {
        // The encoded form of the id.
        let mut envelope = Envelope::new("", "");
        envelope.id = id.clone();
        let head = write_head(&envelope.into());
        let written = head.strip_prefix(HEAD).unwrap_or_default();
        let end = written.find(AFTER_ID).unwrap_or_default();
        written[..end].to_owned()
    });
    let traces = query.traces.iter().flat_map(|trace| {
        let digits = format!("{trace:032x}");
        // The first message of a trace has no trace field: its id is the trace id.
        let (a, b, c) = (&digits[..8], &digits[8..12], &digits[12..16]);
        let uuid = format!("{a}-{b}-{c}-{}-{}", &digits[16..20], &digits[20..]);
        [digits, uuid]
    });
    ids.chain(traces).collect()
}

fn queues(connection: &Connection) -> Result<HashMap<u32, QueueId>, Error> {
    let mut select = connection.prepare("SELECT number, service, input FROM queue")?;
    let rows = select.query_map([], |row| {
        let (service, input): (String, String) = (row.get(1)?, row.get(2)?);
        Ok((row.get(0)?, QueueId::new(&service, &input)))
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heads_of_a_message_and_of_its_children_have_a_needle_for_any_id() {
        let ids = [
            "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b",
            "order 17",
            r#"a"b\\c"#,
            r#"x","type":"","topic":"#,
            "ümlaut\u{202e}",
        ];
        for id in ids {
            let mut envelope = Envelope::new("order", "{}");
            envelope.id = id.parse().unwrap();
            let mut child = Envelope::new("reserved", "{}");
            child.id = envelope.id.child("stock", "reserved", 0);
            child.trace = Some(envelope.trace().child(&child.id));
            let query = SearchQuery::id(envelope.id.clone());
            let needles = needles(&query);
            for envelope in [envelope, child] {
                let head = write_head(&envelope.into());
                let found = needles.iter().any(|needle| head.contains(&**needle));
                assert!(found, "{needles:?} {head}");
            }
            assert!(needles.iter().all(|needle| !needle.is_empty()));
        }
    }
}
