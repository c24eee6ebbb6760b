//! The catalog: the service types of a program, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::config::{Config, ConfigError};
use super::descriptor::{Descriptor, describe_ports};
use super::erased::{ConfiguredType, ServiceBlueprint, SourceBlueprint};
use super::source::Source;
use super::traits::Service;
use crate::key::CompileKey;

/// The service types that manifests may use, by name.
///
/// ```
/// # use brickwork::prelude::*;
/// # struct Stock;
/// # impl Service for Stock {
/// #     const NAME: &'static str = "stock";
/// #     type Config = NoConfig;
/// #     fn ports(_: &NoConfig, _: &mut Ports<Self>) {}
/// #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
/// # }
/// let catalog = Catalog::new().with::<Stock>();
/// assert_eq!(catalog.iter().count(), 1);
/// ```
#[derive(Clone, Default)]
pub struct Catalog {
    types: BTreeMap<&'static str, ServiceType>,
    key_expressions: Option<CompileKey>,
}

/// A service type in a catalog.
#[derive(Clone)]
pub struct ServiceType {
    name: &'static str,
    describe: Arc<dyn Fn() -> Descriptor + Send + Sync>,
    configure: Arc<Configure>,
    single: bool,
}

type Configure = dyn Fn(Value) -> Result<Arc<dyn ConfiguredType>, Vec<ConfigError>> + Send + Sync;

impl Catalog {
    /// Creates an empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service type.
    ///
    /// # Panics
    /// The catalog has a type of this name already, which is a bug of the program.
    #[must_use]
    pub fn with<S: Service>(self) -> Self {
        let metadata = TypeMetadata {
            name: S::NAME,
            role: "service",
            summary: S::SUMMARY,
            failures: S::FAILURES,
            example: S::EXAMPLE,
            single: false,
        };
        let configured = |config| Arc::new(ServiceBlueprint::<S>::new(config)) as _;
        self.add(ServiceType::new(metadata, S::check, configured))
    }

    /// Adds a source type.
    ///
    /// # Panics
    /// As [`with`](Catalog::with).
    #[must_use]
    pub fn with_source<S: Source>(self) -> Self {
        let metadata = TypeMetadata {
            name: S::NAME,
            role: "source",
            summary: S::SUMMARY,
            failures: S::FAILURES,
            example: S::EXAMPLE,
            single: S::SINGLE,
        };
        let configured = |config| Arc::new(SourceBlueprint::<S>::new(config)) as _;
        self.add(ServiceType::new(metadata, S::check, configured))
    }

    /// Sets the language of `services.S.key` in manifests. Without it a manifest with such a
    /// key is refused.
    #[must_use]
    pub fn with_key_expressions(self, compile: CompileKey) -> Self {
        Self {
            key_expressions: Some(compile),
            ..self
        }
    }

    /// Returns the compiler of expressions that read keys.
    pub(crate) fn key_expressions(&self) -> Option<CompileKey> {
        self.key_expressions
    }

    pub(crate) fn add(mut self, service_type: ServiceType) -> Self {
        let name = service_type.name;
        assert!(
            self.types.insert(name, service_type).is_none(),
            "the catalog has two service types named {name}"
        );
        self
    }

    /// Returns the service type of this name.
    pub fn get(&self, name: &str) -> Option<&ServiceType> {
        self.types.get(name)
    }

    /// Returns every service type, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceType> {
        self.types.values()
    }
}

/// The constants of a service type.
pub(crate) struct TypeMetadata {
    pub(crate) name: &'static str,
    pub(crate) role: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) failures: &'static [&'static str],
    pub(crate) example: &'static str,
    pub(crate) single: bool,
}

impl ServiceType {
    /// Creates a service type; `configured` combines it with a config of type `C`.
    pub(crate) fn new<C: Config>(
        metadata: TypeMetadata,
        check: fn(&C) -> Result<(), Vec<ConfigError>>,
        configured: impl Fn(C) -> Arc<dyn ConfiguredType> + Clone + Send + Sync + 'static,
    ) -> Self {
        let (name, single) = (metadata.name, metadata.single);
        let configure = configured.clone();
        Self {
            name,
            single,
            describe: Arc::new(move || {
                let (inputs, outputs) = describe_ports(configured(C::default()).ports());
                let settings = SchemaSettings::draft2020_12();
                Descriptor {
                    name,
                    role: metadata.role,
                    summary: metadata.summary,
                    config: settings.into_generator().into_root_schema_for::<C>(),
                    inputs,
                    outputs,
                    failures: metadata.failures,
                    example: metadata.example,
                }
            }),
            configure: Arc::new(move |value| {
                let config: C = parse(value)?;
                check(&config)?;
                Ok(configure(config))
            }),
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns whether it runs once in an app of several processes.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Returns the description: config, ports, failures and example.
    pub fn describe(&self) -> Descriptor {
        (self.describe)()
    }

    pub(crate) fn configure(
        &self,
        config: Value,
    ) -> Result<Arc<dyn ConfiguredType>, Vec<ConfigError>> {
        (self.configure)(config)
    }
}

/// Parses a config and collects every error: a part with an error is removed, so that it
/// takes its default, and the rest is parsed again.
fn parse<C: Config>(value: Value) -> Result<C, Vec<ConfigError>> {
    /// Maximum errors per config.
    const ERRORS_MAX: usize = 20;
    let mut value = value;
    let mut errors: Vec<ConfigError> = Vec::new();
    let mut removed: Vec<Vec<String>> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, C>(&value) {
            Ok(config) if errors.is_empty() => return Ok(config),
            Ok(_) => return Err(errors),
            Err(error) => error,
        };
        let mut path: Vec<String> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                serde_path_to_error::Segment::Enum { .. }
                | serde_path_to_error::Segment::Unknown => None,
            })
            .collect();
        let text = error.into_inner().to_string();
        // Serde reports an unknown field at its parent: add the name of the field.
        if let Some(field) = text
            .strip_prefix("unknown field `")
            .and_then(|t| t.split('`').next())
            && path.last().map(String::as_str) != Some(field)
        {
            path.push(field.to_owned());
        }
        let new = ConfigError {
            path: path_in_source(&path, &removed).join("."),
            text,
        };
        let repeated = errors.contains(&new);
        // A field that was removed because of its error is not missing in the source.
        let was_removed = new.text.starts_with("missing field")
            && errors.iter().any(|error| error.path.starts_with(&new.path));
        if !repeated && !was_removed {
            errors.push(new);
        }
        if repeated || errors.len() >= ERRORS_MAX || !remove(&mut value, &path) {
            return Err(errors);
        }
        removed.push(path);
    }
}

/// Returns a path as it is in the source, where no list items were removed yet.
fn path_in_source(path: &[String], removed: &[Vec<String>]) -> Vec<String> {
    let mut path = path.to_vec();
    for removed in removed.iter().rev() {
        let Some((index, list)) = removed.split_last() else {
            continue;
        };
        if path.len() > list.len()
            && path[..list.len()] == *list
            && let (Ok(removed), Ok(here)) =
                (index.parse::<usize>(), path[list.len()].parse::<usize>())
            && here >= removed
        {
            path[list.len()] = (here + 1).to_string();
        }
    }
    path
}

/// Removes the part at a path; returns `false` if there is none.
fn remove(value: &mut Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Object(map), [key]) => map.remove(key).is_some(),
        (Value::Object(map), [key, rest @ ..]) => {
            map.get_mut(key).is_some_and(|inner| remove(inner, rest))
        }
        (Value::Array(items), [index]) => match index.parse::<usize>() {
            Ok(index) if index < items.len() => {
                items.remove(index);
                true
            }
            _ => false,
        },
        (Value::Array(items), [index, rest @ ..]) => index
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get_mut(index))
            .is_some_and(|inner| remove(inner, rest)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    #[allow(dead_code, reason = "only parsed")]
    struct Example {
        path: String,
        rate: u32,
        rules: Vec<Rule>,
    }

    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Rule {
        when: String,
    }

    #[test]
    fn every_error_in_a_config_is_reported_at_once() {
        let wrong = json!({
            "path": 7,
            "rat": 1,
            "rate": "fast",
            "rules": [{"when": 1}, {"when": "a"}, {"when": 2}],
        });
        let errors = parse::<Example>(wrong).unwrap_err();
        let mut paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            ["path", "rat", "rate", "rules.0.when", "rules.2.when"]
        );
    }
}
