//! Inspection of a folder before an app runs on it: access, free space, the process that uses
//! it, its queues and their contents.
//!
//! The inspection changes nothing, and does not even make the folder.

use std::collections::HashSet;
use std::path::Path;

use brickwork::QueueId;
use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::{self, Connection};
use brickwork::transport::{Inspection, InspectionProblem, StaleResource, Topology};
use rustix::fs::{Access, access, statvfs};

use super::catalog::{QueueIndex, remedy, required_queues};
use super::disk_space::{RESERVE_BYTES, ReserveFile, size_text};
use super::open::file;
use super::prune::{self, QueueContents};
use super::read_only::{ReadOnlyFolder, user};

/// Maximum size of a file whose pages are all checked, in bytes.
const CHECKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Free space that the first messages need beside the reserve, in bytes.
const FREE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Inspects a folder. Blocks its thread.
pub(super) fn inspect(folder: &Path, topology: &Topology) -> Inspection {
    let mut found = Inspection {
        product: Some("SQLite".into()),
        version: Some(rusqlite::version().into()),
        ..Inspection::default()
    };
    found.problems.extend(access_problem(folder));
    if !nearest(folder).is_dir() {
        return found;
    }
    found.problems.extend(space_problem(folder));
    let read =
        ReadOnlyFolder::open(folder).and_then(|view| read(&view, folder, topology, &mut found));
    if let Err(error) = read {
        found.problems.push(read_problem(folder, &error));
    }
    found
}

fn read(
    view: &ReadOnlyFolder,
    folder: &Path,
    topology: &Topology,
    found: &mut Inspection,
) -> Result<(), SqliteError> {
    let owner = view.owner()?;
    if let Some(process) = &view.owner_process {
        let user = user(process, owner.as_deref());
        found.notes.push(format!(
            "{user} uses the queues: one process at a time can, so another one does not start"
        ));
    }
    if !view.is_up_to_date {
        let note = "the tables are those of an earlier version: the app migrates them when it \
                    starts; their contents are unknown before";
        found.notes.push(note.into());
        return Ok(());
    }
    if let Some(owner) = owner
        && owner != *topology.app
    {
        let why = format!("its queues belong to the app {owner}");
        let help = remedy(&owner, &topology.app);
        found.problems.push(folder_problem(folder, why, help));
        return Ok(());
    }
    let path = file(folder);
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    let check_pages = bytes <= CHECKED_BYTES_MAX;
    let contents = view.read(|connection| Contents::read(connection, topology, check_pages))?;
    let made = match contents {
        None => {
            let path = path.display();
            let note = format!("there is no {path} yet: the app makes it when it starts");
            found.notes.push(note);
            HashSet::new()
        }
        Some(contents) => {
            let size = size_text(bytes);
            found.notes.push(format!("{} has {size}", path.display()));
            found.notes.extend(contents.lines);
            found.problems.extend(contents.damage.map(|why| {
                let help = "unreadable messages stay in the file, and the others are served: to \
                            get all of them, put a copy of the file back";
                InspectionProblem::new(path.display().to_string(), why, help)
            }));
            found.leftovers = contents.stale;
            contents.made
        }
    };
    for id in unique(topology) {
        let list = match made.contains(&id) {
            true => &mut found.there,
            false => &mut found.missing,
        };
        list.push(format!("queue {id}"));
    }
    Ok(())
}

/// Contents of a file, as an inspection reports them.
struct Contents {
    /// The queues in the file.
    made: HashSet<QueueId>,
    /// Texts on the queues of the topology.
    lines: Vec<String>,
    damage: Option<String>,
    /// Queues that the topology does not have.
    stale: Vec<StaleResource>,
}

impl Contents {
    fn read(
        connection: &Connection,
        topology: &Topology,
        check_pages: bool,
    ) -> Result<Self, SqliteError> {
        let index = QueueIndex::load(connection)?;
        let mut lines = Vec::new();
        for id in unique(topology) {
            if let Some(number) = index.numbers.get(&id) {
                let stats = index.stats(*number);
                let contents = QueueContents::count(connection, *number, &stats)?;
                lines.extend(contents.text().map(|text| format!("queue {id}: {text}")));
            }
        }
        Ok(Self {
            made: index.numbers.into_keys().collect(),
            lines,
            damage: damage(connection, check_pages)?,
            stale: prune::find(connection, topology, false)?,
        })
    }
}

fn folder_problem(folder: &Path, why: String, help: impl Into<String>) -> InspectionProblem {
    InspectionProblem::new(format!("folder {}", folder.display()), why, help)
}

/// Returns the queues of a topology, each once.
fn unique(topology: &Topology) -> impl Iterator<Item = QueueId> {
    let mut seen = HashSet::new();
    required_queues(topology).filter(move |id| seen.insert(id.clone()))
}

/// Describes unreadable rows that were found before. Checks all pages if `check_pages` is set.
fn damage(connection: &Connection, check_pages: bool) -> Result<Option<String>, SqliteError> {
    let recorded: u64 =
        connection.query_row("SELECT count(*) FROM damaged", [], |row| row.get(0))?;
    if recorded > 0 {
        let first = "SELECT place || ': ' || why FROM damaged ORDER BY found_ms, place LIMIT 1";
        let first: String = connection.query_row(first, [], |row| row.get(0))?;
        return Ok(Some(format!(
            "{recorded} places in it could not be read, the first: {first} (its table damaged lists \
             them: empty that after a repair)"
        )));
    }
    if !check_pages {
        return Ok(None);
    }
    let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((answer != "ok").then(|| format!("it is damaged: {}", answer.replace('\n', " "))))
}

/// Finds out whether the app may write to the folder.
fn access_problem(folder: &Path) -> Option<InspectionProblem> {
    let problem = |why: String, help: &str| Some(folder_problem(folder, why, help));
    let writable = Access::WRITE_OK | Access::EXEC_OK;
    let grant = "let the user of the app write there, or name another folder in app.transport";
    let nearest = nearest(folder);
    if !nearest.is_dir() {
        let why = format!("{} is no folder", nearest.display());
        return problem(why, "name another folder in app.transport");
    }
    if let Err(error) = access(nearest, writable) {
        let why = match nearest == folder {
            true => format!("it can't be written: {error}"),
            false => format!(
                "it isn't there, and {} can't be written: {error}",
                nearest.display()
            ),
        };
        return problem(why, grant);
    }
    let path = file(folder);
    match access(&path, Access::READ_OK | Access::WRITE_OK) {
        Err(error) if path.exists() => {
            let why = format!("{} can't be written: {error}", path.display());
            problem(why, grant)
        }
        _ => None,
    }
}

/// Finds out whether the disk has the space that a start needs.
fn space_problem(folder: &Path) -> Option<InspectionProblem> {
    let reserve = match ReserveFile::new(folder).is_whole() {
        true => 0,
        false => RESERVE_BYTES as u64,
    };
    let disk = statvfs(nearest(folder)).ok()?;
    let (free, needed) = (
        disk.f_bavail.saturating_mul(disk.f_frsize),
        reserve + FREE_BYTES_MIN,
    );
    (free < needed).then(|| {
        let why = format!(
            "its disk has {} left, and {} are needed: messages in the queues can be handled, and \
             new ones are refused",
            size_text(free),
            size_text(needed)
        );
        let help = "free some space, or move the folder to a larger disk";
        folder_problem(folder, why, help)
    })
}

/// Returns the folder, or its nearest parent that exists.
fn nearest(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|path| path.exists());
    match there {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => Path::new("."),
    }
}

fn read_problem(folder: &Path, error: &SqliteError) -> InspectionProblem {
    let help = match error {
        SqliteError::Damaged { .. } => {
            "nothing in it was reset: put a copy back, or move it away to start without it"
        }
        SqliteError::OwnedByAnother { .. } => "give the app a folder of its own, in app.transport",
        SqliteError::Migration { .. } => {
            "run the version that wrote it, or a later one, or give this one a folder of its own"
        }
        SqliteError::Unusable { .. } => "check its permissions as the user of the app",
        _ => "the app would fail in the same way: find out why the file can't be read",
    };
    folder_problem(folder, error.to_string(), help)
}
