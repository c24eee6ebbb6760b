//! `todos`: a list of things to do, in the store of the service. Each request of the API is a
//! message, and each answer the reply to it.

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{OptionalExtension, Row, params};

const TABLES: &[Migration] = &[Migration::new(
    "todos",
    "CREATE TABLE todo (
        id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, done INTEGER NOT NULL
    ) STRICT",
)];

/// Todos of one page.
const PAGE: i64 = 100;

/// The body of a request to create a todo, or to change one.
#[message]
pub(crate) struct Wanted {
    #[serde(default)]
    title: String,
    #[serde(default)]
    done: bool,
}

/// The query of a request for the list: its values are texts.
#[message]
pub(crate) struct Page {
    /// The last id of the page before.
    #[serde(default)]
    after: Option<String>,
}

/// A request without a body.
#[message]
pub(crate) struct Nothing {}

/// A thing to do.
#[message]
pub(crate) struct Todo {
    id: i64,
    title: String,
    done: bool,
}

/// The todo of a request, or the reason why there is none.
#[message]
#[derive(Default)]
pub(crate) struct Answer {
    todo: Option<Todo>,
    /// No todo has this id.
    missing: bool,
    error: Option<String>,
}

impl Answer {
    fn of(found: Option<Todo>) -> Self {
        let missing = found.is_none();
        let error = missing.then(|| "no such todo".to_owned());
        Self {
            todo: found,
            missing,
            error,
        }
    }

    fn invalid(text: &str) -> Self {
        Self {
            error: Some(text.to_owned()),
            ..Self::default()
        }
    }
}

/// One page of the list.
#[message]
pub(crate) struct List {
    todos: Vec<Todo>,
    /// For the next page, if there is one.
    after: Option<i64>,
}

/// Keeps things to do.
#[derive(Default)]
pub(crate) struct Todos;

#[service(store = TABLES)]
impl Todos {
    #[input]
    fn create(wanted: Wanted, tx: &mut Tx) -> Result<Answer> {
        if wanted.title.is_empty() {
            return Ok(Answer::invalid("the title is missing"));
        }
        let sql = "INSERT INTO todo (title, done) VALUES (?1, ?2) RETURNING id, title, done";
        let values = params![wanted.title, wanted.done];
        let made = tx.prepare_cached(sql)?.query_row(values, todo)?;
        Ok(Answer::of(Some(made)))
    }

    #[input]
    fn list(page: Page, tx: &mut Tx) -> Result<List> {
        let after = page.after.and_then(|id| id.parse().ok()).unwrap_or(0);
        let sql = "SELECT id, title, done FROM todo WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut select = tx.prepare_cached(sql)?;
        let rows = select.query_map([after, PAGE], todo)?;
        let todos = rows.collect::<std::result::Result<Vec<Todo>, _>>()?;
        let after = todos.last().map(|last| last.id);
        let after = after.filter(|_| todos.len() as i64 == PAGE);
        Ok(List { todos, after })
    }

    #[input]
    fn read(_: Nothing, meta: Meta, tx: &mut Tx) -> Result<Answer> {
        let sql = "SELECT id, title, done FROM todo WHERE id = ?1";
        let found = tx.prepare_cached(sql)?.query_row([id(&meta)], todo);
        Ok(Answer::of(found.optional()?))
    }

    #[input]
    fn change(wanted: Wanted, meta: Meta, tx: &mut Tx) -> Result<Answer> {
        if wanted.title.is_empty() {
            return Ok(Answer::invalid("the title is missing"));
        }
        let sql = "UPDATE todo SET title = ?2, done = ?3 WHERE id = ?1 RETURNING id, title, done";
        let values = params![id(&meta), wanted.title, wanted.done];
        let found = tx.prepare_cached(sql)?.query_row(values, todo);
        Ok(Answer::of(found.optional()?))
    }

    #[input]
    fn delete(_: Nothing, meta: Meta, tx: &mut Tx) -> Result<Answer> {
        let sql = "DELETE FROM todo WHERE id = ?1 RETURNING id, title, done";
        let found = tx.prepare_cached(sql)?.query_row([id(&meta)], todo);
        Ok(Answer::of(found.optional()?))
    }
}

/// Returns the parameter `id` of the request's path. Nothing has the id 0.
fn id(meta: &Meta) -> i64 {
    let id = meta.headers.get("http-param-id");
    id.and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn todo(row: &Row<'_>) -> std::result::Result<Todo, brickwork::sqlite::rusqlite::Error> {
    Ok(Todo {
        id: row.get(0)?,
        title: row.get(1)?,
        done: row.get(2)?,
    })
}
