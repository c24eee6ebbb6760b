//! `entities`: lists, shows and evicts the entities of a service.
//!
//! Reads the store without changing it, whether the app runs or not. Evicting is done by the
//! running app, which has the store open.

use serde::Serialize;
use serde_json::Value;

use super::{
    DONE, FAILED, ManifestArgs, WRONG, block_on, one_line, print, print_json, print_report,
};
use crate::app::Plan;
use crate::clock::Rfc3339;
use crate::control::{self, Evict as EvictRequest};
use crate::manifest::suggest;
use crate::service::{Catalog, Kind};
use crate::sqlite::SqliteError;
use crate::sqlite::rusqlite::Connection;
use crate::stderr::error_line;
use crate::store::entities::{self, ENTITY_TABLES, ListedEntity};
use crate::store::{Stores, open_read_only};
use crate::transport::Transports;

/// Arguments of `entities`.
#[derive(clap::Args)]
pub(super) struct Entities {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List entities by key: messages handled, last message, size, reminders
    ///
    /// Example: brickwork entities list app.toml accounts --after ada --limit 20
    List(List),
    /// Show the saved state of an entity as JSON
    ///
    /// Example: brickwork entities show app.toml accounts ada
    Show(Show),
    /// Remove the state of an entity and its reminders, for good
    ///
    /// The next message of the key starts a new entity. Without --yes, shows the state and changes
    /// nothing.
    ///
    /// Example: brickwork entities evict app.toml accounts ada --yes
    Evict(Evict),
}

#[derive(clap::Args)]
struct ServiceArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Label of the service
    #[arg(value_name = "SERVICE")]
    service: String,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    of: ServiceArgs,
    /// Only keys after this one: the last one of the page before
    #[arg(long, value_name = "KEY", default_value = "")]
    after: String,
    /// Maximum entities
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Show {
    #[command(flatten)]
    of: ServiceArgs,
    /// Key of the entity
    #[arg(value_name = "KEY")]
    key: String,
}

#[derive(clap::Args)]
struct Evict {
    #[command(flatten)]
    show: Show,
    /// Remove it
    #[arg(long)]
    yes: bool,
}

/// A page of entities.
#[derive(Serialize)]
struct Listed {
    service: String,
    /// All entities, not only those of the page.
    entities: i64,
    page: Vec<ListedEntity>,
    /// `--after` of the next page.
    next: Option<String>,
}

impl Entities {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let of = match &self.verb {
            Verb::List(list) => &list.of,
            Verb::Show(show) => &show.of,
            Verb::Evict(evict) => &evict.show.of,
        };
        let plan = match of.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        if let Err(text) = check_service(&plan, &of.service) {
            error_line!("error: {text}");
            return WRONG;
        }
        let done = match &self.verb {
            Verb::List(list) => list.run(&plan),
            Verb::Show(show) => show.run(&plan),
            Verb::Evict(evict) => evict.run(&plan),
        };
        match done {
            Ok(code) => code,
            Err(text) => {
                error_line!("error: {}", one_line(&plan.redactor.clean(&text)));
                FAILED
            }
        }
    }
}

/// # Errors
/// The app has no such service, or it holds no entities.
fn check_service(plan: &Plan, service: &str) -> Result<(), String> {
    let holds = |label: &str| {
        let found = plan.services.iter().find(|it| *it.label == *label)?;
        Some(match found.blueprint.role() {
            Kind::Service(factory) => factory.holds_entities(),
            Kind::Source(_) => false,
        })
    };
    match holds(service) {
        Some(true) => Ok(()),
        Some(false) => Err(format!("the service {service} holds no entities")),
        None => {
            let labels = plan.services.iter().map(|it| &*it.label);
            let help = suggest::help(service, labels, "the services");
            let help = help.map(|help| format!("; {help}")).unwrap_or_default();
            Err(format!("the app has no service {service}{help}"))
        }
    }
}

/// Reads the store of a service. A service that has never run has no entities.
fn read<R: Default>(
    plan: &Plan,
    service: &str,
    work: impl FnOnce(&Connection) -> Result<R, SqliteError>,
) -> Result<R, String> {
    if !crate::store::file(plan.data(), service).exists() {
        return Ok(R::default());
    }
    let opened = open_read_only(plan.data(), service);
    let (database, _lock) = opened.map_err(|error| error.to_string())?;
    database.read(work).map_err(|error| error.to_string())
}

impl List {
    fn run(&self, plan: &Plan) -> Result<u8, String> {
        let limit = self.limit.max(1);
        let (entities, page) = read(plan, &self.of.service, |connection| {
            let page = entities::list(connection, &self.after, limit)?;
            Ok((entities::count(connection)?, page))
        })?;
        let is_full = page.len() == limit as usize;
        let listed = Listed {
            service: self.of.service.clone(),
            entities,
            next: page.last().filter(|_| is_full).map(|it| it.key.clone()),
            page,
        };
        match self.json {
            true => print_json(&listed),
            false => print(&plan.redactor.clean(&text_of(&listed))),
        }
        Ok(DONE)
    }
}

fn text_of(listed: &Listed) -> String {
    let keys = listed.page.iter().map(|it| it.key.chars().count());
    let width = keys.max().unwrap_or(0).max("key".len());
    let mut text = format!("{} entities of {}\n", listed.entities, listed.service);
    if !listed.page.is_empty() {
        text.push_str(&format!(
            "{:<width$}  {:>9}  {:<24}  {:>9}  {:>9}\n",
            "key", "messages", "last", "bytes", "reminders"
        ));
    }
    for entity in &listed.page {
        let last = Rfc3339 {
            unix_ms: u64::try_from(entity.at_ms).unwrap_or_default(),
        };
        let row = format!(
            "{:<width$}  {:>9}  {:<24}  {:>9}  {:>9}",
            entity.key,
            entity.version,
            last.to_string(),
            entity.bytes,
            entity.reminders
        );
        text.push_str(&one_line(&row));
        text.push('\n');
    }
    if let Some(next) = &listed.next {
        text.push_str(&one_line(&format!("next page: --after {next}")));
        text.push('\n');
    }
    text
}

impl Show {
    /// Prints the state. Returns false if there is none.
    fn print(&self, plan: &Plan) -> Result<bool, String> {
        let service = &self.of.service;
        let saved = read(plan, service, |connection| {
            entities::load(connection, &self.key)
        })?;
        let Some(saved) = saved else {
            return Ok(false);
        };
        let state: Value = serde_json::from_str(&saved.state)
            .map_err(|error| format!("the state of {} is no JSON: {error}", self.key))?;
        print(&plan.redactor.clean(&super::to_json(&state)));
        Ok(true)
    }

    fn run(&self, plan: &Plan) -> Result<u8, String> {
        match self.print(plan)? {
            true => Ok(DONE),
            false => Err(self.missing()),
        }
    }

    fn missing(&self) -> String {
        format!("{} has no entity {}", self.of.service, self.key)
    }
}

impl Evict {
    fn run(&self, plan: &Plan) -> Result<u8, String> {
        let Show { of, key } = &self.show;
        let service = &of.service;
        if !self.yes {
            if !self.show.print(plan)? {
                return Err(self.show.missing());
            }
            print("nothing was changed: --yes removes it\n");
            return Ok(DONE);
        }
        let evicted = block_on(evict(plan, service, key)).map_err(|error| error.to_string())??;
        match evicted {
            true => {
                print(&format!("{}\n", one_line(&format!("evicted {key}"))));
                Ok(DONE)
            }
            false => Err(self.show.missing()),
        }
    }
}

async fn evict(plan: &Plan, service: &str, key: &str) -> Result<bool, String> {
    let data = plan.data();
    let is_running = control::is_running(data).await;
    if is_running.map_err(|error| error.to_string())? {
        let request = EvictRequest {
            service: service.to_owned(),
            key: key.to_owned(),
        };
        let evicted = control::evict(data, request).await;
        return evicted.map_err(|error| error.to_string());
    }
    if !crate::store::file(data, service).exists() {
        return Ok(false);
    }
    let stores = Stores::new(plan.name.clone(), data);
    let opened = stores.open(service, ENTITY_TABLES).await;
    let opened = opened.map_err(|failure| failure.text().to_owned())?;
    let evicted = opened.evict_entity(service, key).await;
    opened.database.close().await;
    evicted.map_err(|error| error.to_string())
}
