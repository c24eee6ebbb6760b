//! The catalog: the service types that a program offers, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::descriptor::describe_ports;
use super::erased::{ConfiguredType, ServiceBlueprint, SourceBlueprint};
use super::{Config, Descriptor, Service, Source};

/// Service types by name.
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
pub struct Catalog(BTreeMap<&'static str, ServiceType>);

/// A service type in a catalog.
#[derive(Clone)]
pub struct ServiceType {
    name: &'static str,
    describe: Arc<dyn Fn() -> Descriptor + Send + Sync>,
    configure: Arc<Configure>,
    single: bool,
}

type Configure = dyn Fn(Value) -> Result<Arc<dyn ConfiguredType>, Vec<ConfigError>> + Send + Sync;

/// What is wrong in a service's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where: keys and indexes from the config's top, joined by dots; empty for all of
    /// it.
    pub path: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl ConfigError {
    /// An error at a path such as `rules.0.when`.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }
}

impl Catalog {
    /// A catalog with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service type.
    ///
    /// # Panics
    /// If there is one of this name already: a program's own mistake.
    #[must_use]
    pub fn with<S: Service>(self) -> Self {
        let facts = TypeMetadata {
            name: S::NAME,
            role: "service",
            summary: S::SUMMARY,
            failures: S::FAILURES,
            example: S::EXAMPLE,
            single: false,
        };
        let blueprint = |config| Arc::new(ServiceBlueprint::<S>::new(config)) as _;
        self.add(ServiceType::new(facts, S::check, blueprint))
    }

    /// Adds a source type.
    ///
    /// # Panics
    /// As [`with`](Catalog::with).
    #[must_use]
    pub fn with_source<S: Source>(self) -> Self {
        let facts = TypeMetadata {
            name: S::NAME,
            role: "source",
            summary: S::SUMMARY,
            failures: S::FAILURES,
            example: S::EXAMPLE,
            single: S::SINGLE,
        };
        let blueprint = |config| Arc::new(SourceBlueprint::<S>::new(config)) as _;
        self.add(ServiceType::new(facts, S::check, blueprint))
    }

    pub(crate) fn add(mut self, service_type: ServiceType) -> Self {
        let name = service_type.name;
        assert!(
            self.0.insert(name, service_type).is_none(),
            "the catalog has two service types named {name}"
        );
        self
    }

    /// The service type of this name.
    pub fn get(&self, name: &str) -> Option<&ServiceType> {
        self.0.get(name)
    }

    /// Every service type, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceType> {
        self.0.values()
    }
}

/// What a service type says of itself, apart from its types.
pub(crate) struct TypeMetadata {
    pub(crate) name: &'static str,
    pub(crate) role: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) failures: &'static [&'static str],
    pub(crate) example: &'static str,
    pub(crate) single: bool,
}

impl ServiceType {
    /// A service type with a config of type `C`, made to a blueprint by `blueprint`.
    pub(crate) fn new<C: Config>(
        facts: TypeMetadata,
        check: fn(&C) -> Result<(), Vec<ConfigError>>,
        blueprint: impl Fn(C) -> Arc<dyn ConfiguredType> + Clone + Send + Sync + 'static,
    ) -> Self {
        let (name, single) = (facts.name, facts.single);
        let of_config = blueprint.clone();
        Self {
            name,
            single,
            describe: Arc::new(move || {
                let (inputs, outputs) = describe_ports(blueprint(C::default()).ports());
                let settings = SchemaSettings::draft2020_12();
                Descriptor {
                    name,
                    role: facts.role,
                    summary: facts.summary,
                    config: settings.into_generator().into_root_schema_for::<C>(),
                    inputs,
                    outputs,
                    failures: facts.failures,
                    example: facts.example,
                }
            }),
            configure: Arc::new(move |value| {
                let config: C = parse(value)?;
                check(&config)?;
                Ok(of_config(config))
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it must run once in an app of many processes.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Everything that there is to know of it.
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

/// Reads a config, and goes on past what is wrong to find the rest: a part that can't
/// be read is left out, so that it takes its default, until nothing more is found.
fn parse<C: Config>(value: Value) -> Result<C, Vec<ConfigError>> {
    /// No config has more mistakes than anyone would read.
    const ERRORS_MAX: usize = 20;
    let mut value = value;
    let mut errors: Vec<ConfigError> = Vec::new();
    let mut left_out: Vec<Vec<String>> = Vec::new();
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
        // An unknown field is reported at its parent: name the field itself.
        if let Some(field) = text
            .strip_prefix("unknown field `")
            .and_then(|t| t.split('`').next())
            && path.last().map(String::as_str) != Some(field)
        {
            path.push(field.to_owned());
        }
        let new = ConfigError {
            path: as_written(&path, &left_out).join("."),
            text,
        };
        let repeated = errors.contains(&new);
        // What was left out for being wrong isn't missing.
        let of_ours = new.text.starts_with("missing field")
            && errors.iter().any(|error| error.path.starts_with(&new.path));
        if !repeated && !of_ours {
            errors.push(new);
        }
        if repeated || errors.len() >= ERRORS_MAX || !remove(&mut value, &path) {
            return Err(errors);
        }
        left_out.push(path);
    }
}

/// A path as it is in the config, before items of lists were left out.
fn as_written(path: &[String], left_out: &[Vec<String>]) -> Vec<String> {
    let mut path = path.to_vec();
    for removed in left_out.iter().rev() {
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

/// Leaves out the part at a path; false if there is none.
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
    fn every_mistake_in_a_config_is_found_at_once() {
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
