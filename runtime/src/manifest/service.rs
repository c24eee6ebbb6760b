//! Reads `[services.S]`: type, wiring, config and settings of each service.

use super::codes;
use super::config::ConfigReader;
use super::key::KeyReader;
use super::redaction::Redactions;
use super::report::Problems;
use super::required_guarantees::RequiredGuarantees;
use super::settings::{self, COMMON_KEYS, MAILBOX_KEYS};
use super::source::SourceFile;
use super::spanned_toml::{Entry, Table, Value};
use super::suggest::{self, quote};
use super::table_reader::Section;
use super::topics::TopicUsage;
use super::wiring::{self, Side};
use crate::app::ServicePlan;
use crate::names::check_name;
use crate::service::{Catalog, ConfiguredType, Kind, ServiceType};

/// The keys of `[services.S]` that are no settings.
const OWN_KEYS: [&str; 4] = ["use", "in", "out", "config"];

/// Inputs for reading services, and the topics and secrets found while reading.
pub(super) struct Services<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) files: &'a [SourceFile],
    pub(super) masks: &'a mut Redactions,
    pub(super) secrets: &'a mut Vec<String>,
    pub(super) uses: &'a mut TopicUsage,
    pub(super) needs: &'a RequiredGuarantees<'a>,
    /// Names of the limits of the app.
    pub(super) limits: &'a [&'a str],
}

/// Returns the labels of all services, in the order of the manifest.
pub(super) fn labels(merged: &Table) -> Vec<&str> {
    let Some(Value::Table(services)) = merged.get("services").map(|entry| &entry.node.value) else {
        return Vec::new();
    };
    let entries = services.entries.iter();
    entries.map(|entry| entry.key.as_str()).collect()
}

impl Services<'_> {
    pub(super) fn read(&mut self, top: &Section<'_>, out: &mut Problems) -> Vec<ServicePlan> {
        let services = top.section("services", out);
        if top.table.get("services").is_none() {
            let help = "add a service: `[services.LABEL]` with `use = \"...\"`";
            top.missing("services", help, out);
        } else if matches!(services_value(top), Some(Value::Table(t)) if t.entries.is_empty()) {
            let message = "the app has no services";
            let help = Some("add one: `[services.LABEL]` with `use = \"...\"`".to_owned());
            out.add(codes::MISSING_KEY, services.place, message, help);
        }
        let entries = services.table.entries.iter();
        entries
            .filter_map(|entry| self.service(&services, entry, out))
            .collect()
    }

    /// Reads one service. Reports its problems and returns `None` if it can't run.
    fn service(
        &mut self,
        services: &Section<'_>,
        entry: &Entry,
        out: &mut Problems,
    ) -> Option<ServicePlan> {
        let label = entry.key.as_str();
        check_label(entry, out);
        let service = services.section(label, out);
        if !matches!(entry.node.value, Value::Table(_)) {
            return None;
        }
        let keys = [&OWN_KEYS[..], &MAILBOX_KEYS, &COMMON_KEYS].concat();
        service.check_keys(&keys, &[], out);
        let (inputs, outputs) = (
            Side::read(&service, "in", out),
            Side::read(&service, "out", out),
        );
        self.uses.add(&inputs, &outputs);
        let service_type = service_type(self.catalog, &service, entry, out);
        let blueprint = service_type.and_then(|service_type| {
            let reader = ConfigReader {
                label,
                place: entry.key_span,
                files: self.files,
                limits: self.limits,
                masks: self.masks,
                secrets: self.secrets,
                out,
            };
            reader.read(service_type, service.table.get("config"))
        });
        let keys = KeyReader::new(self.catalog, blueprint.as_deref());
        let mut settings = settings::read(&service, self.needs, &keys, out);
        let (service_type, blueprint) = (service_type?, blueprint?);
        check_ports(&service, &*blueprint, entry, out);
        if matches!(blueprint.role(), Kind::Source(_)) {
            refuse_mailbox_keys(&service, label, out);
        }
        if holds_entities(&*blueprint) && service.table.get("store").is_none() {
            settings.store = true;
        }
        check_store(&service, label, &*blueprint, settings.store, out);
        Some(ServicePlan {
            label: label.into(),
            service_type: service_type.name(),
            inputs: inputs.connect(label, &wiring::inputs(&*blueprint), out),
            outputs: outputs.connect(label, &wiring::outputs(&*blueprint), out),
            blueprint,
            runs_here: true,
            settings,
        })
    }
}

fn service_type<'a>(
    catalog: &'a Catalog,
    service: &Section<'_>,
    entry: &Entry,
    out: &mut Problems,
) -> Option<&'a ServiceType> {
    let (name, span) = match (service.table.get("use"), service.text("use", out)) {
        (Some(_), None) => return None,
        (_, Some((name, entry))) => (name, entry.node.span),
        (None, None) => (entry.key.as_str(), entry.key_span),
    };
    let found = catalog.get(name);
    if found.is_none() {
        let message = format!("no service type is named {}", quote(name));
        let names: Vec<&str> = catalog.iter().map(ServiceType::name).collect();
        let help = suggest::help(name, names.iter().copied(), "the service types");
        let help = match service.table.get("use") {
            Some(_) => help,
            None => Some(format!(
                "without `use`, the label names the service type; {}",
                help.unwrap_or_else(|| "add `use`".into())
            )),
        };
        out.add(codes::UNKNOWN_TYPE, span, message, help);
    }
    found
}

fn services_value<'a>(top: &Section<'a>) -> Option<&'a Value> {
    top.table.get("services").map(|entry| &entry.node.value)
}

fn check_label(entry: &Entry, out: &mut Problems) {
    if let Err(why) = check_name(&entry.key) {
        let message = format!("{} can't be a service's label: {why}", quote(&entry.key));
        out.add(codes::BAD_NAME, entry.key_span, message, None);
    }
}

/// Reports keys of the mailbox on a source, which has no mailbox.
fn refuse_mailbox_keys(service: &Section<'_>, label: &str, out: &mut Problems) {
    for key in MAILBOX_KEYS {
        if let Some(entry) = service.table.get(key) {
            let message = format!(
                "`{}` has no effect: `{label}` is a source",
                service.name(key)
            );
            let help = Some("remove it: a source takes no messages".to_owned());
            out.add(codes::NOT_FOR_SOURCES, entry.key_span, message, help);
        }
    }
}

/// Returns whether the service type is an entity, whose state is in a store in any case.
fn holds_entities(blueprint: &dyn ConfiguredType) -> bool {
    match blueprint.role() {
        Kind::Service(factory) => factory.holds_entities(),
        Kind::Source(_) => false,
    }
}

/// Reports a service that has no store although its type needs one.
fn check_store(
    service: &Section<'_>,
    label: &str,
    blueprint: &dyn ConfiguredType,
    has: bool,
    out: &mut Problems,
) {
    let Kind::Service(factory) = blueprint.role() else {
        return;
    };
    let entry = service.table.get("store");
    let is_known = entry.is_none_or(|entry| !entry.node.has_broken());
    if !has && is_known && !factory.migrations().is_empty() {
        let place = entry.map_or(service.place, Entry::place);
        let message =
            format!("the service type of `{label}` needs a store, and `{label}` has none");
        let help = Some(match entry {
            Some(_) if factory.holds_entities() => {
                "remove `store`: the states of entities are in a store".to_owned()
            }
            _ => format!("add `store = true` to [services.{label}]"),
        });
        out.add(codes::NEEDS_STORE, place, message, help);
    }
}

/// Checks port names, which may come from the config.
fn check_ports(
    service: &Section<'_>,
    blueprint: &dyn ConfiguredType,
    entry: &Entry,
    out: &mut Problems,
) {
    let place = service
        .table
        .get("config")
        .map_or(entry.key_span, Entry::place);
    let table = blueprint.ports();
    let inputs: Vec<&str> = table.inputs.iter().map(|port| &*port.name).collect();
    let outputs: Vec<&str> = table.outputs.iter().map(|port| &*port.name).collect();
    for (word, names) in [("input", inputs), ("output", outputs)] {
        for (index, name) in names.iter().enumerate() {
            let why = match check_name(name) {
                Err(why) => why.to_string(),
                Ok(()) if names[..index].contains(name) => "another port has this name".into(),
                Ok(()) => continue,
            };
            let message = format!(
                "`{}` can't have an {word} {}: {why}",
                entry.key,
                quote(name)
            );
            let help = Some("the port names come from the config: change them there".to_owned());
            out.add(codes::BAD_NAME, place, message, help);
        }
    }
}
