//! Ready-made service types, and the `brickwork` command over them.
//!
//! A file each; what a type's config holds, what can go wrong and how it looks in a
//! manifest stand in its file, and `brickwork describe NAME` prints them.

mod aggregate;
mod chaos;
mod dedup;
mod expression;
mod file_in;
mod file_out;
mod filter;
mod http_in;
mod json;
mod key;
mod log;
mod map;
mod ports;
mod process;
mod route;

use brickwork::Catalog;

pub use aggregate::{Aggregate, AggregateConfig, Form};
pub use chaos::{Chaos, ChaosConfig};
pub use dedup::{Dedup, DedupConfig};
pub use expression::{Condition, Expression, Scope};
pub use file_in::{FileIn, FileInConfig};
pub use file_out::{FileOut, FileOutConfig};
pub use filter::{Filter, FilterConfig};
pub use http_in::{HttpIn, HttpInConfig};
pub use json::JsonPointer;
pub use log::{Level, Log, LogConfig};
pub use map::{Map, MapConfig};
pub use process::{Process, ProcessConfig};
pub use route::{Mode, Route, RouteConfig, Rule};

/// Every service type of this crate.
pub fn catalog() -> Catalog {
    Catalog::new()
        .with::<Aggregate>()
        .with::<Chaos>()
        .with::<Dedup>()
        .with_source::<FileIn>()
        .with::<FileOut>()
        .with::<Filter>()
        .with_source::<HttpIn>()
        .with::<Log>()
        .with::<Map>()
        .with::<Process>()
        .with::<Route>()
}

#[cfg(test)]
mod tests {
    use brickwork::{Config, ConfigError, Service, Source};

    use super::*;

    /// The configs of the services of a type in a piece of manifest.
    fn configs<C: Config>(name: &str, manifest: &str) -> Vec<C> {
        let manifest: serde_json::Value = toml::from_str(manifest).unwrap();
        let services = manifest["services"].as_object().unwrap().values();
        services
            .filter(|service| service["use"] == name)
            .map(|service| serde_json::from_value(service["config"].clone()).unwrap())
            .collect()
    }

    fn shows<C: Config>(
        name: &str,
        example: &str,
        check: impl Fn(&C) -> Result<(), Vec<ConfigError>>,
    ) {
        let configs = configs::<C>(name, example);
        assert!(!configs.is_empty(), "{name}");
        for config in configs {
            check(&config).unwrap();
        }
    }

    fn service<S: Service>() {
        shows(S::NAME, S::EXAMPLE, S::check);
    }

    fn source<S: Source>() {
        shows(S::NAME, S::EXAMPLE, S::check);
    }

    #[test]
    fn every_example_is_a_right_piece_of_manifest() {
        service::<Aggregate>();
        service::<Chaos>();
        service::<Dedup>();
        source::<FileIn>();
        service::<FileOut>();
        service::<Filter>();
        source::<HttpIn>();
        service::<Log>();
        service::<Map>();
        service::<Process>();
        service::<Route>();
    }

    #[test]
    fn everything_that_describe_prints_is_there() {
        let names: Vec<&str> = catalog().iter().map(|known| known.name()).collect();
        assert_eq!(
            names,
            [
                "aggregate",
                "chaos",
                "dedup",
                "file-in",
                "file-out",
                "filter",
                "http-in",
                "log",
                "map",
                "process",
                "route"
            ]
        );
        for known in catalog().iter() {
            let descriptor = known.describe();
            let name = descriptor.name;
            assert!(!descriptor.summary.is_empty(), "{name}");
            assert!(!descriptor.failures.is_empty(), "{name}");
            let schema = descriptor.config.as_value();
            let fields = schema["properties"].as_object().unwrap();
            for (field, schema) in fields {
                assert!(schema["description"].is_string(), "{name}: {field}");
            }
        }
    }
}
