//! Looking for messages in the file, beside whoever writes it or after that one has ended.
//!
//! Reads heads of messages, one after the other, by a connection of its own, for a bounded
//! time; changes nothing. What was in hand is told by the file that notes it.

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

/// The clock is read every so many rows.
const ROWS: u64 = 256;
/// How the head of a message begins; what follows is its id.
const HEAD: &str = r#"{"id":""#;
/// What follows that, of a message that says nothing of itself.
const AFTER_ID: &str = r#"","type":"""#;
/// The length of an id that is a UUID.
const UUID_BYTES: usize = 36;

/// Looks in a folder, whether or not somebody uses it.
pub(super) async fn find(
    folder: PathBuf,
    wanted: &SearchQuery,
    bounds: SearchBounds,
) -> Result<SearchResult, TransportError> {
    let wanted = wanted.clone();
    let searching = tokio::task::spawn_blocking(move || {
        let lost = |error: SqliteError| TransportError::Lost(error.to_string());
        let sight = ReadOnlyFolder::of(&folder).map_err(lost)?;
        let path = file(&folder);
        let searched =
            sight.read(|connection| Search::over(connection, &folder, &wanted, bounds, &path));
        searched.map_err(lost)?.ok_or_else(|| {
            let text = format!("there are no queues in {}", folder.display());
            TransportError::Lost(text)
        })
    });
    let searched = searching.await;
    searched.unwrap_or_else(|_| Err(TransportError::Lost("there is no thread to look".into())))
}

struct Search<'a> {
    connection: &'a Connection,
    wanted: &'a SearchQuery,
    needles: Vec<String>,
    queues: HashMap<u32, QueueId>,
    in_flight: HashSet<Id>,
    bounds: SearchBounds,
    began: Instant,
    rows: u64,
    searched: SearchResult,
}

/// There is no more time, or no more room.
struct Enough;

impl Search<'_> {
    fn over(
        connection: &Connection,
        folder: &Path,
        wanted: &SearchQuery,
        bounds: SearchBounds,
        path: &Path,
    ) -> Result<SearchResult, SqliteError> {
        let generation: i64 =
            connection.query_row("SELECT generation FROM app", [], |row| row.get(0))?;
        // It isn't there after an orderly end.
        let noted = in_flight_log::read(folder, generation).unwrap_or_default();
        let mut search = Search {
            connection,
            wanted,
            needles: needles(wanted),
            queues: queues(connection)?,
            in_flight: noted.into_iter().map(|(id, _)| id).collect(),
            bounds,
            began: Instant::now(),
            rows: 0,
            searched: SearchResult::default(),
        };
        for what in ["suspects", "what waits for its time", "the queues"] {
            let looked = match what {
                "suspects" => search.suspects(),
                "the queues" => search.messages(),
                _ => search.delayed(),
            };
            let missed = match looked {
                Ok(Ok(())) => continue,
                Ok(Err(Enough)) => format!("only the first {} rows were read", search.rows),
                Err(error) => error.of(path).to_string(),
            };
            let text = format!("of {what} in {} not everything: {missed}", path.display());
            search.searched.missed.push(text);
        }
        Ok(search.searched)
    }

    fn suspects(&mut self) -> Result<Result<(), Enough>, SqliteError> {
        let sql = "SELECT head, attempt, id FROM suspect ORDER BY id";
        self.each(sql, |search, row| {
            let id = Id::of_row(row.get(2)?);
            let place = match search.in_flight.contains(&id) {
                true => QueueSection::InHand,
                false => QueueSection::Suspect,
            };
            search.look(row, id.queue(), place)
        })
    }

    fn delayed(&mut self) -> Result<Result<(), Enough>, SqliteError> {
        let sql = "SELECT head, attempt, queue, due_ms, retry FROM delayed ORDER BY due_ms";
        self.each(sql, |search, row| {
            let due_ms: i64 = row.get(3)?;
            let place = QueueSection::Delayed {
                due_ms: due_ms.max(0) as u64,
                retry: row.get(4)?,
            };
            search.look(row, row.get(2)?, place)
        })
    }

    fn messages(&mut self) -> Result<Result<(), Enough>, SqliteError> {
        let (mut queue, mut ahead) = (0, 0);
        self.each(
            "SELECT head, attempt, id FROM message ORDER BY id",
            |search, row| {
                let id = Id::of_row(row.get(2)?);
                if id.queue() != queue {
                    (queue, ahead) = (id.queue(), 0);
                }
                if search.in_flight.contains(&id) {
                    return search.look(row, queue, QueueSection::InHand);
                }
                search.look(row, queue, QueueSection::Ready { ahead: Some(ahead) })?;
                ahead += 1;
                Ok(())
            },
        )
    }

    fn each(
        &mut self,
        sql: &str,
        mut with: impl FnMut(&mut Self, &Row<'_>) -> Result<(), Error>,
    ) -> Result<Result<(), Enough>, SqliteError> {
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            self.rows += 1;
            let late = self.rows % ROWS == 1 && self.began.elapsed() >= self.bounds.within;
            if late || self.searched.messages.len() >= self.bounds.messages {
                self.rows -= 1;
                return Ok(Err(Enough));
            }
            with(self, row)?;
        }
        Ok(Ok(()))
    }

    /// Looks at a row, whose first columns are head and attempt.
    fn look(&mut self, row: &Row<'_>, queue: u32, place: QueueSection) -> Result<(), Error> {
        let Ok(head) = row.get_ref(0)?.as_str() else {
            // It can't be served either.
            return Ok(());
        };
        if !self.may_be(head) {
            return Ok(());
        }
        let (Ok(message), Some(queue)) = (read_head(head, Bytes::new()), self.queues.get(&queue))
        else {
            return Ok(());
        };
        if self.wanted.covers(&message) {
            self.searched.messages.push(FoundMessage {
                queue: queue.clone(),
                place,
                attempt: row.get(1)?,
                message,
            });
        }
        Ok(())
    }

    /// Whether it is worth reading. An id that is no UUID may stand for any trace.
    fn may_be(&self, head: &str) -> bool {
        let uuid = head.as_bytes().get(HEAD.len() + UUID_BYTES) == Some(&b'"');
        (!uuid && !head.contains("traceparent"))
            || self.needles.iter().any(|needle| head.contains(&**needle))
    }
}

/// Texts of which one is in the head of everything that is wanted.
fn needles(wanted: &SearchQuery) -> Vec<String> {
    let ids = wanted.ids.iter().map(|id| {
        // As it is written there.
        let mut envelope = Envelope::new("", "");
        envelope.id = id.clone();
        let head = write_head(&envelope.into());
        let written = head.strip_prefix(HEAD).unwrap_or_default();
        let end = written.find(AFTER_ID).unwrap_or_default();
        written[..end].to_owned()
    });
    let traces = wanted.traces.iter().flat_map(|trace| {
        let digits = format!("{trace:032x}");
        // What begins a trace doesn't name it: its id does.
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
    fn whatever_an_id_is_the_head_of_its_message_and_of_what_it_led_to_have_a_needle() {
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
            let wanted = SearchQuery::id(envelope.id.clone());
            let needles = needles(&wanted);
            for envelope in [envelope, child] {
                let head = write_head(&envelope.into());
                let found = needles.iter().any(|needle| head.contains(&**needle));
                assert!(found, "{needles:?} {head}");
            }
            assert!(needles.iter().all(|needle| !needle.is_empty()));
        }
    }
}
