//! Looking at a folder before an app runs on it: whether the app may use it and has room
//! there, who uses it now, and which queues are there with how much in them.
//!
//! Changes nothing: doesn't even make the folder.

use std::collections::HashSet;
use std::path::Path;

use brickwork::QueueId;
use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::{self, Connection};
use brickwork::transport::{Inspection, InspectionProblem, Topology};
use rustix::fs::{Access, access, statvfs};

use super::catalog::{needed, read_books, way_out};
use super::disk_space::{RESERVE_BYTES, ReserveFile};
use super::open::file;
use super::prune::{self, QueueContents};
use super::read_only::{ReadOnlyFolder, user};

/// A file that isn't larger is read through, in bytes.
const READ_THROUGH_MAX: u64 = 64 * 1024 * 1024;
/// Beside the reserve, for what the first messages need, in bytes.
const ROOM_MIN: u64 = 4 * 1024 * 1024;

/// Looks at a folder. Blocks its thread.
pub(super) fn inspect(folder: &Path, topology: &Topology) -> Inspection {
    let mut found = Inspection {
        product: Some("SQLite".into()),
        version: Some(rusqlite::version().into()),
        ..Inspection::default()
    };
    found.problems.extend(ground(folder));
    if !nearest(folder).is_dir() {
        return found;
    }
    found.problems.extend(room(folder));
    let looked =
        ReadOnlyFolder::of(folder).and_then(|sight| look(&sight, folder, topology, &mut found));
    if let Err(error) = looked {
        found.problems.push(obstacle(folder, &error));
    }
    found
}

fn look(
    sight: &ReadOnlyFolder,
    folder: &Path,
    topology: &Topology,
    found: &mut Inspection,
) -> Result<(), SqliteError> {
    let owner = sight.owner()?;
    if let Some(holder) = &sight.holder {
        let user = user(holder, owner.as_deref());
        found.notes.push(format!(
            "{user} uses the queues: one process at a time can, and starting another one on \
             them fails"
        ));
    }
    if !sight.is_up_to_date {
        let note = "the tables are those of an earlier version: they are brought up to date when \
                    the app starts, and what is in them isn't known before";
        found.notes.push(note.into());
        return Ok(());
    }
    if let Some(owner) = owner
        && owner != *topology.app
    {
        found.problems.push(InspectionProblem {
            what: format!("folder {}", folder.display()),
            why: format!("the queues in it are those of the app {owner}"),
            help: way_out(&owner, &topology.app),
            theirs: None,
            ours: None,
        });
        return Ok(());
    }
    let path = file(folder);
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    let read = sight.read(|connection| {
        let books = read_books(connection)?;
        let there: HashSet<QueueId> = books.numbers.keys().cloned().collect();
        let mut lines = Vec::new();
        for id in unique(topology) {
            if let Some(number) = books.numbers.get(&id) {
                let page = books.pages.get(number).copied().unwrap_or_default();
                let held = QueueContents::of(connection, *number, &page)?;
                lines.extend(held.in_words().map(|words| format!("queue {id}: {words}")));
            }
        }
        let damage = damage(connection, bytes <= READ_THROUGH_MAX)?;
        let left = prune::find(connection, topology, false)?;
        Ok((there, lines, damage, left))
    })?;
    let there = match read {
        None => {
            let note = format!(
                "there is no {} yet: it is made at the start",
                path.display()
            );
            found.notes.push(note);
            HashSet::new()
        }
        Some((there, lines, damage, left)) => {
            let size = in_words(bytes);
            found.notes.push(format!("{} has {size}", path.display()));
            found.notes.extend(lines);
            found.problems.extend(damage.map(|why| {
                InspectionProblem {
                    what: path.display().to_string(),
                    why,
                    help:
                        "what can't be read is left where it is, and the rest is served: to have \
                       all of it, put a copy of the file back"
                            .into(),
                    theirs: None,
                    ours: None,
                }
            }));
            found.leftovers = left;
            there
        }
    };
    for id in unique(topology) {
        let known = there.contains(&id);
        let list = if known {
            &mut found.there
        } else {
            &mut found.missing
        };
        list.push(format!("queue {id}"));
    }
    Ok(())
}

/// The queues that a topology needs, each once.
fn unique(topology: &Topology) -> impl Iterator<Item = QueueId> {
    let mut seen = HashSet::new();
    needed(topology).filter(move |id| seen.insert(id.clone()))
}

/// What is known not to be readable.
fn damage(connection: &Connection, through: bool) -> Result<Option<String>, SqliteError> {
    let noted: u64 = connection.query_row("SELECT count(*) FROM damaged", [], |row| row.get(0))?;
    if noted > 0 {
        let first = "SELECT place || ': ' || why FROM damaged ORDER BY found_ms, place LIMIT 1";
        let first: String = connection.query_row(first, [], |row| row.get(0))?;
        return Ok(Some(format!(
            "{noted} places in it could not be read, the first: {first} (they are in its table \
             damaged: once it is repaired, empty that)"
        )));
    }
    if !through {
        return Ok(None);
    }
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((said != "ok").then(|| format!("it is damaged: {}", said.replace('\n', " "))))
}

/// Whether there may be written there at all.
fn ground(folder: &Path) -> Option<InspectionProblem> {
    let obstacle = |why: String, help: &str| {
        Some(InspectionProblem {
            what: format!("folder {}", folder.display()),
            why,
            help: help.into(),
            theirs: None,
            ours: None,
        })
    };
    let writable = Access::WRITE_OK | Access::EXEC_OK;
    let grant =
        "let the user who runs the app write there, or name another folder in app.transport";
    let nearest = nearest(folder);
    if !nearest.is_dir() {
        let why = format!("{} is no folder", nearest.display());
        return obstacle(why, "name another folder in app.transport");
    }
    if let Err(error) = access(nearest, writable) {
        let why = match nearest == folder {
            true => format!("it can't be written: {error}"),
            false => format!(
                "it isn't there, and {} can't be written: {error}",
                nearest.display()
            ),
        };
        return obstacle(why, grant);
    }
    let path = file(folder);
    match access(&path, Access::READ_OK | Access::WRITE_OK) {
        Err(error) if path.exists() => {
            let why = format!("{} can't be written: {error}", path.display());
            obstacle(why, grant)
        }
        _ => None,
    }
}

/// Whether the disk has what a start needs.
fn room(folder: &Path) -> Option<InspectionProblem> {
    let reserve = match ReserveFile::of(folder).is_whole() {
        true => 0,
        false => RESERVE_BYTES as u64,
    };
    let disk = statvfs(nearest(folder)).ok()?;
    let (free, needed) = (
        disk.f_bavail.saturating_mul(disk.f_frsize),
        reserve + ROOM_MIN,
    );
    (free < needed).then(|| InspectionProblem {
        what: format!("folder {}", folder.display()),
        why: format!(
            "its disk has {} left, and {} are needed: what is there can be worked off, and \
             nothing more is taken over",
            in_words(free),
            in_words(needed)
        ),
        help: "free some, or move the folder to a larger disk".into(),
        theirs: None,
        ours: None,
    })
}

/// The folder, or what is there of the way to it.
fn nearest(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|path| path.exists());
    match there {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => Path::new("."),
    }
}

fn obstacle(folder: &Path, error: &SqliteError) -> InspectionProblem {
    let help = match error {
        SqliteError::Damaged { .. } => {
            "nothing in it was reset: put a copy back, or move it away to begin without it"
        }
        SqliteError::OwnedByAnother { .. } => "give the app a folder of its own, in app.transport",
        SqliteError::Migration { .. } => {
            "run the version that wrote it, or a later one, or give this one a folder of its own"
        }
        SqliteError::Unusable { .. } => "look at it as the user who runs the app",
        _ => "the app would fail in the same way: see why it can't be read",
    };
    InspectionProblem {
        what: format!("folder {}", folder.display()),
        why: error.to_string(),
        help: help.into(),
        theirs: None,
        ours: None,
    }
}

/// So many bytes, for people.
pub(super) fn in_words(bytes: u64) -> String {
    const KIB: u64 = 1024;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
