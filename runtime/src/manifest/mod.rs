//! The manifest: turns TOML files into a checked [`Plan`], or into a [`Report`] of all
//! problems.
//!
//! Nothing is started, connected or created here. The steps:
//!
//! 1. Each file is parsed into a tree with source positions (`spanned_toml`).
//! 2. Overlays are merged into the manifest; variables are filled in (`variables`).
//! 3. Secrets are found (`secrets`), so that no report shows them (`redaction`).
//! 4. Each section is read and checked. Reading continues after a problem (`app`, `service`,
//!    `settings`, `config`, `wiring`, `supervision`).
//! 5. Rules over the whole app are checked (`topics`, `external_feeds`, `cycles`,
//!    `selection`, `listeners`, `requests`, `position_owner`).
//! 6. A manifest without problems may get warnings (`no_effect`, `cycles`).
//!
//! ```
//! use brickwork::{Catalog, manifest, transport::Transports};
//!
//! let folder = std::env::temp_dir();
//! let options = manifest::Options::default();
//! let missing = folder.join("there-is-no-such-manifest.toml");
//! let report = manifest::load(&missing, &options, &Catalog::new(), &Transports::new())
//!     .err()
//!     .unwrap();
//! assert_eq!(report.problems()[0].code, "E001");
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use crate::app::Plan;
use crate::redact::Redactor;
use crate::service::Catalog;
use crate::transport::Transports;

mod app;
mod codes;
mod config;
mod cycles;
mod external_feeds;
mod key;
mod limits;
mod listeners;
mod no_effect;
mod position_owner;
mod redaction;
mod renewal;
mod report;
mod requests;
mod required_guarantees;
mod schema;
mod secrets;
mod selection;
mod service;
mod settings;
mod source;
mod spanned_toml;
pub(crate) mod suggest;
mod supervision;
mod table_reader;
#[cfg(test)]
mod tests;
mod topics;
mod variables;
mod wiring;

pub use codes::{CODES, WARNINGS};
pub use report::{Problem, Report};

use redaction::Redactions;
use report::Problems;
use required_guarantees::RequiredGuarantees;
use source::{SourceFile, Span};
use spanned_toml::{Entry, Node, Table, Value};
use table_reader::Section;

/// Name of the transport's URL in a report if the URL does not come from a file.
const TRANSPORT_OPTION: &str = "--transport or BRICKWORK_TRANSPORT";

/// Returns the value of a variable, or `None` if it is not set.
pub type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Inputs besides the manifest file.
pub struct Options {
    /// Overlay files, merged into the manifest in this order.
    pub overlays: Vec<PathBuf>,
    /// Transport URL that replaces the manifest's. Variables in it stay as they are.
    pub transport: Option<String>,
    /// Labels of the services that this process runs; empty means all.
    pub only: Vec<String>,
    /// Whether the plan will be started. If so, the data folder must not hold positions of
    /// another app. True by default.
    pub starts: bool,
    /// Value of `${NAME}`. By default, the environment of the process.
    pub env: Lookup,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            overlays: Vec::new(),
            transport: None,
            only: Vec::new(),
            starts: true,
            env: Box::new(|name| std::env::var(name).ok()),
        }
    }
}

/// Reads a manifest and checks all that can be checked without running it.
///
/// # Errors
/// Returns all problems of the manifest. If a file can't be read or is not TOML, only
/// those problems.
pub fn load(
    path: &Path,
    options: &Options,
    catalog: &Catalog,
    transports: &Transports,
) -> Result<Plan, Report> {
    load_with_warnings(path, options, catalog, transports).map(|(plan, _)| plan)
}

/// Like [`load`], and also returns the warnings: settings that can't act, groups that are split
/// over processes, requests in a ring.
///
/// # Errors
/// As [`load`].
pub fn load_with_warnings(
    path: &Path,
    options: &Options,
    catalog: &Catalog,
    transports: &Transports,
) -> Result<(Plan, Report), Report> {
    let mut loader = Loader::default();
    let mut merged = loader.read(path, options);
    secrets::find(&loader.trees, &merged, catalog, &mut loader.masks);
    if !loader.problems.is_empty() {
        return Err(loader
            .problems
            .into_report(&loader.files, &mut loader.masks));
    }
    if let Some(url) = &options.transport {
        loader.override_transport(&mut merged, url);
    }
    let template = renewal::UrlTemplate::find(&merged, &loader.files);
    for entry in &mut merged.entries {
        variables::fill(
            &mut entry.node,
            &options.env,
            &loader.files,
            &mut loader.named,
            &mut loader.problems,
        );
    }
    if let Some(url) = &options.transport {
        set_transport(&mut merged, url, loader.files.len() - 1);
    }
    let mut plan = loader.plan(&merged, options, catalog, transports);
    let redactor = plan.redactor.clone();
    plan.renew_transport = template.map(|template| template.renew(transports, redactor));
    if loader.problems.is_empty() {
        let (top, mut warnings) = (Section::top(&merged), Problems::default());
        no_effect::check(&top, &plan, &mut warnings);
        cycles::warn_of_asks(&top, &plan.services, &mut warnings);
        let warnings = warnings.into_warnings(&loader.files, &mut loader.masks);
        Ok((plan, warnings))
    } else {
        Err(loader
            .problems
            .into_report(&loader.files, &mut loader.masks))
    }
}

#[derive(Default)]
struct Loader {
    files: Vec<SourceFile>,
    trees: Vec<Table>,
    masks: Redactions,
    /// Files that `${file:PATH}` names.
    named: Vec<PathBuf>,
    problems: Problems,
}

impl Loader {
    /// Reads every file and merges the overlays into the manifest.
    fn read(&mut self, path: &Path, options: &Options) -> Table {
        let paths = std::iter::once(path).chain(options.overlays.iter().map(PathBuf::as_path));
        for (index, path) in paths.enumerate() {
            let (file, error) = SourceFile::read(path);
            if let Some(error) = error {
                let message = format!("can't read the manifest: {error}");
                self.problems
                    .add(codes::UNREADABLE, Span::top(index), message, None);
            }
            let (table, errors) = DeTable::parse_recoverable(&file.text);
            self.masks.broken |= !errors.is_empty();
            for error in errors {
                let range = error.span().unwrap_or(0..0);
                let span = Span {
                    file: index,
                    start: range.start.min(file.text.len()),
                    end: range.end.min(file.text.len()),
                };
                self.problems
                    .add(codes::SYNTAX, span, error.message(), None);
            }
            self.trees.push(Table::from_toml(index, table.get_ref()));
            self.files.push(file);
        }
        let mut merged = Table::default();
        for tree in &self.trees {
            drop_configs_of_replaced_types(&mut merged, tree);
            merged.merge(tree.clone());
        }
        merged
    }

    /// Adds the transport URL of the options as a source of its own, and removes the
    /// manifest's URL, which is not checked.
    fn override_transport(&mut self, merged: &mut Table, url: &str) {
        set_transport(merged, "", self.files.len());
        self.files.push(SourceFile {
            name: TRANSPORT_OPTION.into(),
            folder: PathBuf::new(),
            text: url.to_owned(),
        });
    }

    /// Reads the whole tree. The plan is valid only if there are no problems.
    fn plan(
        &mut self,
        merged: &Table,
        options: &Options,
        catalog: &Catalog,
        transports: &Transports,
    ) -> Plan {
        let out = &mut self.problems;
        let top = Section::top(merged);
        let known = [
            "app",
            "admin",
            "supervision",
            "groups",
            "limits",
            "services",
            "topics",
        ];
        top.check_keys(&known, &[], out);
        let app = app::read_app(&top, &self.files, transports, out);
        let mut secrets = secrets::of_transport(&app.transport);
        for secret in &secrets {
            self.masks.secret(secret);
        }
        let mut uses = topics::TopicUsage::default();
        let needs = RequiredGuarantees::new(&app.transport, transports);
        let mut services = service::Services {
            catalog,
            files: &self.files,
            masks: &mut self.masks,
            secrets: &mut secrets,
            uses: &mut uses,
            needs: &needs,
            limits: &limits::names(&top),
        }
        .read(&top, out);
        cycles::check(&top, &services, out);
        let outside = uses.check(&top, &app.name, out);
        external_feeds::check(&outside.feeds, &services, out);
        let labels = service::labels(merged);
        let groups = supervision::read_groups(&top, &labels, &mut services, out);
        let mut plan = Plan {
            name: app.name,
            transport: app.transport.clone(),
            renew_transport: None,
            data: app.data,
            workers: app.workers,
            shutdown_timeout: app.shutdown_timeout,
            message_bytes_max: app.message_bytes_max,
            log: app.log,
            admin: app::read_admin(&top, out),
            external: outside.external,
            feeds: outside.feeds.into_iter().map(|it| it.feed).collect(),
            redactor: Arc::new(Redactor::new(secrets)),
            supervision: supervision::read_root(&top, out),
            groups,
            services,
            limits: limits::read(&top, catalog, out),
            named: std::mem::take(&mut self.named),
            is_supervised: false,
        };
        selection::apply(
            &options.only,
            &labels,
            &mut plan,
            &needs,
            &mut self.files,
            out,
        );
        listeners::check(&top, &plan, out);
        requests::check(&top, &plan, out);
        if options.starts {
            position_owner::check(&top, &plan, &needs, out);
        }
        plan
    }
}

/// Removes the config of each service whose type an overlay replaces: it belongs to the
/// former type.
fn drop_configs_of_replaced_types(merged: &mut Table, over: &Table) {
    fn type_of(service: &Table) -> Option<&str> {
        match &service.get("use")?.node.value {
            Value::String(name) => Some(name),
            _ => None,
        }
    }
    let services = merged.entries.iter_mut().find(|e| e.key == "services");
    let (Some(Value::Table(services)), Some(Value::Table(over))) = (
        services.map(|entry| &mut entry.node.value),
        over.get("services").map(|entry| &entry.node.value),
    ) else {
        return;
    };
    for Entry { key, node, .. } in &mut services.entries {
        let (Value::Table(service), Some(Value::Table(over))) = (
            &mut node.value,
            over.get(key).map(|entry| &entry.node.value),
        ) else {
            continue;
        };
        let before = type_of(service).unwrap_or(key);
        if type_of(over).is_some_and(|after| after != before) {
            service.entries.retain(|entry| entry.key != "config");
        }
    }
}

/// Sets `app.transport` if there is a table `app`.
fn set_transport(merged: &mut Table, url: &str, file: usize) {
    let app = merged.entries.iter_mut().find(|entry| entry.key == "app");
    let Some(Value::Table(app)) = app.map(|entry| &mut entry.node.value) else {
        return;
    };
    let span = Span {
        file,
        start: 0,
        end: url.len(),
    };
    app.entries.retain(|entry| entry.key != "transport");
    app.entries.push(Entry {
        key: "transport".into(),
        key_span: span,
        node: Node::new(span, Value::String(url.to_owned())),
    });
}
