//! Reads `services.S.config`: gives it to the service type and reports each error at the
//! place of the wrong value.

use std::sync::Arc;

use serde_json::{Map, Number, Value as Json};

use super::codes;
use super::redaction::Redactions;
use super::report::Problems;
use super::schema::{ConfigSchema, Format};
use super::source::{SourceFile, Span};
use super::spanned_toml::{Entry, Node, Value};
use super::suggest;
use crate::service::{ConfigError, ConfiguredType, ServiceType};

/// Reads the config of one service.
pub(super) struct ConfigReader<'a> {
    pub(super) label: &'a str,
    /// Place for reports if there is no config.
    pub(super) place: Span,
    pub(super) files: &'a [SourceFile],
    /// Names of the limits of the app.
    pub(super) limits: &'a [&'a str],
    pub(super) masks: &'a mut Redactions,
    /// Receives the secrets of the config.
    pub(super) secrets: &'a mut Vec<String>,
    pub(super) out: &'a mut Problems,
}

impl ConfigReader<'_> {
    /// Configures a service type. Returns `None` if the config is wrong or a part was broken.
    pub(super) fn read(
        mut self,
        service_type: &ServiceType,
        entry: Option<&Entry>,
    ) -> Option<Arc<dyn ConfiguredType>> {
        let schema = ConfigSchema::new(&service_type.describe().config);
        let mut entry = entry.cloned();
        let mut secret_places = Vec::new();
        if let Some(entry) = &mut entry {
            match entry.node.value {
                Value::Table(_) => {}
                Value::Broken => return None,
                _ => {
                    let message = format!(
                        "`services.{}.config` must be a table, not {}",
                        self.label,
                        entry.node.kind()
                    );
                    self.out
                        .add(codes::WRONG_TYPE, entry.place(), message, None);
                    return None;
                }
            }
            add_default_paths(&schema, &mut entry.node);
            self.resolve(&schema, &mut entry.node, &mut secret_places);
        }
        let broken = entry.as_ref().is_some_and(|entry| entry.node.has_broken());
        let before = self.out.len();
        let json = match &entry {
            Some(entry) => self.json(&entry.node).unwrap_or_default(),
            None => Json::Object(Map::new()),
        };
        let unreadable = self.out.len() > before;
        match service_type.configure(json) {
            Ok(blueprint) => (!broken && !unreadable).then_some(blueprint),
            Err(errors) => {
                for error in errors {
                    // A broken value was removed, so serde reports it as missing, and the type
                    // checks a config without it.
                    let is_doubtful =
                        error.path.is_empty() || error.text.starts_with("missing field");
                    if !((broken || unreadable) && is_doubtful) {
                        self.report(error, entry.as_ref(), &schema, &secret_places);
                    }
                }
                None
            }
        }
    }

    /// Joins paths to the folder of their file and collects secrets.
    fn resolve(&mut self, schema: &ConfigSchema, node: &mut Node, places: &mut Vec<Span>) {
        let (files, masks, secrets) = (self.files, &mut *self.masks, &mut *self.secrets);
        let (out, limits) = (&mut *self.out, self.limits);
        schema.walk(node, &mut |format, node| match format {
            Format::Literal => node.read_variable(),
            Format::Limit => check_limit(node, limits, out),
            Format::Secret => {
                node.scalars(&mut |span, text| {
                    places.push(span);
                    masks.secret(&text);
                    secrets.push(text);
                });
                places.push(node.span);
            }
            Format::Path => {
                let Value::String(text) = &mut node.value else {
                    return;
                };
                // An empty path stays empty, so that the service type can refuse it.
                if !text.is_empty() {
                    let joined = files[node.span.file].folder.join(&*text);
                    match joined.into_os_string().into_string() {
                        Ok(joined) => *text = joined,
                        Err(_) => {
                            let message = "the manifest's folder has a name that is not UTF-8";
                            let help = "write an absolute path".to_owned();
                            out.add(codes::BAD_VALUE, node.span, message, Some(help));
                            node.value = Value::Broken;
                        }
                    }
                }
            }
        });
    }

    /// Converts a value to JSON, without broken parts.
    fn json(&mut self, node: &Node) -> Option<Json> {
        Some(match &node.value {
            Value::String(text) | Value::Datetime(text) => Json::String(text.clone()),
            Value::Bool(value) => Json::Bool(*value),
            Value::Integer(integer) => {
                let number = i64::try_from(*integer).map(Number::from);
                match number.or_else(|_| u64::try_from(*integer).map(Number::from)) {
                    Ok(number) => Json::Number(number),
                    Err(_) => return self.no_number(node),
                }
            }
            Value::Float(float) => match Number::from_f64(*float) {
                Some(number) => Json::Number(number),
                None => return self.no_number(node),
            },
            // A broken item becomes null, so that the other items keep their index.
            Value::Array(items) => items
                .iter()
                .map(|item| self.json(item).unwrap_or_default())
                .collect(),
            Value::Table(table) => Json::Object(
                table
                    .entries
                    .iter()
                    .filter_map(|entry| Some((entry.key.clone(), self.json(&entry.node)?)))
                    .collect(),
            ),
            Value::Broken => return None,
        })
    }

    fn no_number(&mut self, node: &Node) -> Option<Json> {
        let message = format!("config of `{}`: the number can't be used", self.label);
        let help = "integers have 64 bits, floats are finite".to_owned();
        self.out
            .add(codes::BAD_VALUE, node.span, message, Some(help));
        None
    }

    /// Reports an error of the service type at the place that the error names.
    fn report(
        &mut self,
        error: ConfigError,
        config: Option<&Entry>,
        schema: &ConfigSchema,
        secret_places: &[Span],
    ) {
        let segments: Vec<&str> = error.path.split('.').filter(|s| !s.is_empty()).collect();
        let place = config.map(|entry| locate(entry, &segments));
        let (span, key_span, value) = match &place {
            Some(place) => (place.span, place.key_span, Some(place.value)),
            None => (self.place, self.place, None),
        };
        // The value was reported. It is null only to keep the index of the others.
        if value.is_some_and(|node| matches!(node.value, Value::Broken)) {
            return;
        }
        let secret = secret_places.iter().any(|secret| {
            secret.file == span.file && secret.start <= span.start && span.end <= secret.end
        });
        let text = error.text;
        let unknown = text
            .strip_prefix("unknown field `")
            .and_then(|rest| rest.split_once('`'))
            .map(|(field, _)| field);
        let (span, text, help) = match unknown {
            Some(field) => {
                // The value may be a secret under a misspelt name.
                if let Some(value) = value {
                    self.out.hide(value);
                }
                let parent = match segments.split_last() {
                    Some((last, parent)) if *last == field => parent,
                    _ => &segments[..],
                };
                let fields = schema.fields(parent);
                let help = suggest::help(field, fields.iter().map(String::as_str), "its fields");
                (
                    key_span,
                    format!("unknown field {}", suggest::quote(field)),
                    help,
                )
            }
            None if secret => (span, in_plain_words(&without_value(&text)), None),
            None => (span, in_plain_words(&text), None),
        };
        let text = match secret {
            true => self.masks.clean_of_all(&text),
            false => text,
        };
        let place = match (unknown, error.path.as_str()) {
            (Some(_), _) | (None, "") => String::new(),
            (None, path) => format!(" {}:", suggest::quote(path)),
        };
        let message = format!("config of `{}`:{place} {text}", self.label);
        self.out.add(codes::BAD_CONFIG, span, message, help);
    }
}

/// Reports the name of a limit that the manifest does not define.
fn check_limit(node: &Node, limits: &[&str], out: &mut Problems) {
    let Value::String(name) = &node.value else {
        return;
    };
    if !limits.contains(&name.as_str()) {
        let message = format!("no limit is named {}", suggest::quote(name));
        let help = match limits {
            [] => Some(format!(
                "define it: `[limits.{name}]` with `rate` and `per`"
            )),
            _ => suggest::help(name, limits.iter().copied(), "the limits"),
        };
        out.add(codes::UNKNOWN_LIMIT, node.span, message, help);
    }
}

/// Adds default paths, so that they are relative to the manifest like written paths.
fn add_default_paths(schema: &ConfigSchema, config: &mut Node) {
    let span = config.span;
    let Value::Table(table) = &mut config.value else {
        return;
    };
    for (key, path) in schema.default_paths() {
        if table.get(&key).is_none() {
            let value = Value::String(path);
            table.entries.push(Entry {
                key,
                key_span: span,
                node: Node::new(span, value),
            });
        }
    }
}

/// Removes the value from a serde error.
fn without_value(text: &str) -> String {
    match (text.split_once(": "), text.rsplit_once(", expected ")) {
        (Some((problem @ ("invalid type" | "invalid value"), _)), Some((_, expected))) => {
            format!("{problem}, expected {expected}")
        }
        _ if text.starts_with("unknown variant") => "it is not one of the allowed values".into(),
        _ => text.to_owned(),
    }
}

/// Rewrites a serde error with the terms of TOML instead of those of Rust.
fn in_plain_words(text: &str) -> String {
    const GOT: [(&str, &str); 3] = [("sequence", "list"), ("map", "table"), ("null", "nothing")];
    const EXPECTED: [(&str, &str); 14] = [
        ("a sequence", "a list"),
        ("a map", "a table"),
        ("path string", "a path"),
        ("u8", "an integer from 0 to 255"),
        ("u16", "an integer from 0 to 65535"),
        ("u32", "an integer from 0 to 4294967295"),
        ("u64", "an integer, 0 or more"),
        ("usize", "an integer, 0 or more"),
        ("i32", "an integer of 32 bits"),
        ("i64", "an integer"),
        ("isize", "an integer"),
        ("f32", "a number"),
        ("f64", "a number"),
        ("unit", "nothing"),
    ];
    let Some((head, expected)) = text.rsplit_once(", expected ") else {
        return text.to_owned();
    };
    if !head.starts_with("invalid ") {
        return text.to_owned();
    }
    let expected = match EXPECTED.iter().find(|(rust, _)| *rust == expected) {
        Some((_, plain)) => plain,
        None if expected.starts_with("struct ") => "a table",
        None => expected,
    };
    let head = match head.strip_prefix("invalid type: ") {
        Some(got) => {
            let plain = GOT.iter().find(|(rust, _)| *rust == got);
            format!("invalid type: {}", plain.map_or(got, |(_, plain)| plain))
        }
        None => head.to_owned(),
    };
    format!("{head}, expected {expected}")
}

struct Place<'a> {
    span: Span,
    key_span: Span,
    value: &'a Node,
}

/// Returns the deepest existing part of a config along a path. Keys may contain dots.
fn locate<'a>(config: &'a Entry, path: &[&str]) -> Place<'a> {
    let mut place = Place {
        span: config.place(),
        key_span: config.key_span,
        value: &config.node,
    };
    let mut rest = path;
    while !rest.is_empty() {
        match &place.value.value {
            Value::Table(table) => {
                let found = (1..=rest.len())
                    .rev()
                    .find_map(|count| Some((count, table.get(&rest[..count].join("."))?)));
                let Some((count, entry)) = found else { break };
                place = Place {
                    span: entry.place(),
                    key_span: entry.key_span,
                    value: &entry.node,
                };
                rest = &rest[count..];
            }
            Value::Array(items) => {
                let Some(item) = rest[0].parse().ok().and_then(|i: usize| items.get(i)) else {
                    break;
                };
                place = Place {
                    span: item.span,
                    key_span: item.span,
                    value: item,
                };
                rest = &rest[1..];
            }
            _ => break,
        }
    }
    place
}
