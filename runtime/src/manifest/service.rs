//! `[services.S]`.

use std::time::Duration;

use super::codes;
use super::config::ConfigReader;
use super::mask::Masks;
use super::report::Problems;
use super::section::Section;
use super::source::SourceFile;
use super::suggest::{self, quote};
use super::topics::Uses;
use super::tree::{Entry, Value};
use super::wiring::{self, Side};
use crate::app::ServicePlan;
use crate::config::HumanDuration;
use crate::name::check_name;
use crate::service::{Blueprint, Catalog, Role, ServiceType};
use crate::supervision::{Backoff, RestartPolicy, RetryPolicy};

const INSTANCES_MAX: u64 = 100_000;
const MAILBOX: u64 = 64;
/// The prefetch of a queue follows the mailbox; AMQP counts it in 16 bits.
const MAILBOX_MAX: u64 = 65_535;
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u64 = 5;
const ATTEMPTS_MAX: u64 = 1_000_000;
const HIGH_WATER: u64 = 10_000;
const JITTER: f64 = 0.2;
const RETRY_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(300),
    jitter: JITTER,
};
const RESTART_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    jitter: JITTER,
};
const RESET_AFTER: Duration = Duration::from_secs(60);
/// A wait of nothing would let a service that can't start burn a core.
const TICK: Duration = Duration::from_millis(1);

const KEYS: [&str; 10] = [
    "use",
    "in",
    "out",
    "config",
    "instances",
    "mailbox",
    "handler_timeout",
    "retry",
    "restart",
    "queue",
];
/// Also `isolation`, but for its default.
const LATER: [&str; 1] = ["store"];
/// What only services with a mailbox have.
const OF_MAILBOX: [&str; 5] = ["instances", "mailbox", "handler_timeout", "retry", "queue"];

/// What reading services needs and gathers.
pub(super) struct Services<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) files: &'a [SourceFile],
    pub(super) masks: &'a mut Masks,
    pub(super) secrets: &'a mut Vec<String>,
    pub(super) uses: &'a mut Uses,
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

    /// `None` if it can't be run; why was reported.
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
        check_service_keys(&service, out);
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
                masks: self.masks,
                secrets: self.secrets,
                out,
            };
            reader.read(service_type, service.table.get("config"))
        });
        let settings = Settings::read(&service, out);
        let (service_type, blueprint) = (service_type?, blueprint?);
        check_ports(&service, &*blueprint, entry, out);
        if matches!(blueprint.role(), Role::Source(_)) {
            refuse_mailbox(&service, label, out);
        }
        Some(ServicePlan {
            label: label.into(),
            service_type: service_type.name(),
            inputs: inputs.connect(label, &wiring::inputs(&*blueprint), out),
            outputs: outputs.connect(label, &wiring::outputs(&*blueprint), out),
            blueprint,
            instances: settings.instances,
            mailbox: settings.mailbox,
            handler_timeout: settings.handler_timeout,
            retry: settings.retry,
            restart: settings.restart,
            high_water: settings.high_water,
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

fn check_service_keys(service: &Section<'_>, out: &mut Problems) {
    let known: Vec<&str> = KEYS.into_iter().chain(["isolation"]).collect();
    service.check_keys(&known, &LATER, out);
    let Some(entry) = service.table.get("isolation") else {
        return;
    };
    if service.one_of("isolation", &["shared", "process"], out) == Some(1) {
        service.unsupported(entry, out);
    }
}

/// A source has no mailbox: what sets one would be ignored.
fn refuse_mailbox(service: &Section<'_>, label: &str, out: &mut Problems) {
    for key in OF_MAILBOX {
        if let Some(entry) = service.table.get(key) {
            let message = format!(
                "`{}` means nothing: `{label}` is a source",
                service.name(key)
            );
            let help = Some("leave it out: a source takes no messages".to_owned());
            out.add(codes::NOT_FOR_SOURCES, entry.key_span, message, help);
        }
    }
}

/// Ports whose names come from the config may have wrong ones.
fn check_ports(
    service: &Section<'_>,
    blueprint: &dyn Blueprint,
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
                Ok(()) if names[..index].contains(name) => "there are two of this name".into(),
                Ok(()) => continue,
            };
            let message = format!(
                "`{}` can't have an {word} {}: {why}",
                entry.key,
                quote(name)
            );
            let help = Some("its ports come from its config".to_owned());
            out.add(codes::BAD_NAME, place, message, help);
        }
    }
}

/// What is set by numbers.
struct Settings {
    instances: usize,
    mailbox: usize,
    handler_timeout: Duration,
    retry: RetryPolicy,
    restart: RestartPolicy,
    high_water: u64,
}

impl Settings {
    fn read(service: &Section<'_>, out: &mut Problems) -> Self {
        let retry = service.section("retry", out);
        retry.check_keys(&["attempts", "backoff"], &[], out);
        let restart = service.section("restart", out);
        let later = ["policy", "max_restarts", "within", "on_give_up"];
        restart.check_keys(&["backoff"], &later, out);
        let queue = service.section("queue", out);
        queue.check_keys(&["high_water"], &["limit", "overflow"], out);
        Self {
            instances: instances(service, out),
            mailbox: service
                .integer("mailbox", 1..=MAILBOX_MAX, out)
                .unwrap_or(MAILBOX) as usize,
            handler_timeout: service
                .duration("handler_timeout", TICK, out)
                .unwrap_or(HANDLER_TIMEOUT),
            retry: RetryPolicy {
                attempts: retry
                    .integer("attempts", 1..=ATTEMPTS_MAX, out)
                    .unwrap_or(ATTEMPTS) as u32,
                backoff: {
                    let section = retry.section("backoff", out);
                    section.check_keys(&["min", "max", "jitter"], &[], out);
                    backoff(&section, RETRY_BACKOFF, Duration::ZERO, out)
                },
            },
            restart: {
                let section = restart.section("backoff", out);
                section.check_keys(&["min", "max", "jitter", "reset_after"], &[], out);
                RestartPolicy {
                    backoff: backoff(&section, RESTART_BACKOFF, TICK, out),
                    reset_after: section
                        .duration("reset_after", TICK, out)
                        .unwrap_or(RESET_AFTER),
                }
            },
            high_water: queue
                .integer("high_water", 1..=u64::MAX, out)
                .unwrap_or(HIGH_WATER),
        }
    }
}

fn instances(service: &Section<'_>, out: &mut Problems) -> usize {
    match service.table.get("instances") {
        // `{ min, max }` is known, but not built.
        Some(entry) if matches!(entry.node.value, Value::Table(_)) => {
            let message = format!(
                "`{}` as a table is not supported yet by this version",
                service.name("instances")
            );
            let help = Some("give the number of instances".to_owned());
            out.add(codes::UNSUPPORTED, entry.key_span, message, help);
            1
        }
        _ => service
            .integer("instances", 1..=INSTANCES_MAX, out)
            .unwrap_or(1) as usize,
    }
}

fn backoff(
    section: &Section<'_>,
    default: Backoff,
    least: Duration,
    out: &mut Problems,
) -> Backoff {
    let (min, max) = (
        section.duration("min", least, out),
        section.duration("max", least, out),
    );
    let backoff = Backoff {
        min: min.unwrap_or(default.min),
        max: max.unwrap_or(default.max),
        jitter: section.share("jitter", out).unwrap_or(default.jitter),
    };
    // Of what is wrong by itself nothing more is said.
    let wrong = |key, read: Option<Duration>| section.table.get(key).is_some() && read.is_none();
    if backoff.min > backoff.max && !wrong("min", min) && !wrong("max", max) {
        let of = |read: Option<Duration>| if read.is_none() { " (the default)" } else { "" };
        let message = format!(
            "`{}`: {}{} is longer than `max`, {}{}",
            section.name("min"),
            HumanDuration(backoff.min),
            of(min),
            HumanDuration(backoff.max),
            of(max),
        );
        let key = if min.is_some() { "min" } else { "max" };
        let span = section.table.get(key).map_or(section.place, Entry::place);
        out.add(codes::BAD_VALUE, span, message, None);
    }
    backoff
}
