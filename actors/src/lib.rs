//! Ready-made service types, and the `brickwork` command with them.
//!
//! Each type has a module of its own, with its config, its failures and an example;
//! `brickwork describe NAME` prints them.

mod aggregate;
mod batch;
mod batches;
mod chaos;
mod codec;
mod config_errors;
mod decode;
mod dedup;
mod delay;
mod encode;
mod enrich;
mod expression;
mod file_in;
mod file_out;
mod filter;
mod http_call;
mod http_client;
mod http_in;
mod json;
mod json_reader;
mod key;
mod log;
#[cfg(feature = "mail")]
mod mail_out;
mod map;
#[cfg(any(feature = "mail", feature = "sql"))]
mod outage;
mod poll;
mod ports;
mod process;
mod route;
mod schedule;
mod split;
#[cfg(feature = "sql")]
mod sql;
mod standard_webhooks;
mod throttle;
#[cfg(feature = "json-schema")]
mod validate;
mod webhook_out;
mod zeromq;

use brickwork::Catalog;

pub use aggregate::{Aggregate, AggregateConfig, Form};
pub use batches::{BatchConfig, Batches};
pub use chaos::{Chaos, ChaosConfig};
pub use codec::{CsvOptions, Format};
pub use decode::{Decode, DecodeConfig};
pub use dedup::{Dedup, DedupConfig};
pub use delay::{Delay, DelayConfig};
pub use encode::{Encode, EncodeConfig};
pub use enrich::{Enrich, EnrichConfig, OnFailure};
pub use expression::{Condition, Expression, ResponseExpression, Scope};
pub use file_in::{FileIn, FileInConfig};
pub use file_out::{FileOut, FileOutConfig};
pub use filter::{Filter, FilterConfig};
pub use http_call::{BodyFormat, HostBreaker, HttpCall, HttpCallConfig};
pub use http_client::{AuthSettings, OAuth2Settings, TlsSettings};
pub use http_in::{HttpIn, HttpInConfig, HttpRouteConfig, HttpRouteEntry, SignatureScheme};
pub use json::JsonPointer;
pub use log::{Level, Log, LogConfig};
#[cfg(feature = "mail")]
pub use mail_out::{MailOut, MailOutConfig, MailTls};
pub use map::{Map, MapConfig};
pub use poll::{CursorConfig, CursorForm, PagesConfig, Poll, PollConfig, PollMethod};
pub use process::{Process, ProcessConfig, ProcessSource, ProcessSourceConfig};
pub use route::{Mode, Route, RouteConfig, Rule};
pub use schedule::{CronText, Overlap, Schedule, ScheduleConfig, ScheduleEntry, Zone};
pub use split::{EmptyList, PartForm, Split, SplitConfig};
#[cfg(feature = "sql")]
pub use sql::{Mode as SqlMode, PollFrom, Rows as SqlRows, Sql, SqlConfig, SqlPoll, SqlPollConfig};
pub use throttle::{Throttle, ThrottleConfig};
#[cfg(feature = "json-schema")]
pub use validate::{Validate, ValidateConfig};
pub use webhook_out::{EnableEndpoint, EndpointDisabled, WebhookOut, WebhookOutConfig};
pub use zeromq::{InMode, OutMode, ZeromqIn, ZeromqInConfig, ZeromqOut, ZeromqOutConfig};

/// Every service type of this crate.
pub fn catalog() -> Catalog {
    let catalog = Catalog::new()
        .with_key_expressions(key::key_reader)
        .with::<Aggregate>()
        .with::<Batches>()
        .with::<Chaos>()
        .with::<Decode>()
        .with::<Dedup>()
        .with::<Delay>()
        .with::<Encode>()
        .with::<Enrich>()
        .with_source::<FileIn>()
        .with::<FileOut>()
        .with::<Filter>()
        .with::<HttpCall>()
        .with_source::<HttpIn>()
        .with::<Log>()
        .with::<Map>()
        .with_source::<Poll>()
        .with::<Process>()
        .with_source::<ProcessSource>()
        .with::<Route>()
        .with_source::<Schedule>()
        .with::<Split>()
        .with::<Throttle>()
        .with::<WebhookOut>()
        .with_source::<ZeromqIn>()
        .with::<ZeromqOut>();
    #[cfg(feature = "json-schema")]
    let catalog = catalog.with::<Validate>();
    #[cfg(feature = "mail")]
    let catalog = catalog.with::<MailOut>();
    #[cfg(feature = "sql")]
    let catalog = catalog.with::<Sql>().with_source::<SqlPoll>();
    catalog
}

#[cfg(test)]
mod tests {
    use brickwork::{Config, ConfigError, Service, Source};

    use super::*;

    /// The configs of all services of a type in a manifest.
    fn configs<C: Config>(name: &str, manifest: &str) -> Vec<C> {
        let manifest: serde_json::Value = toml::from_str(manifest).unwrap();
        let services = manifest["services"].as_object().unwrap().values();
        services
            .filter(|service| service["use"] == name)
            .map(|service| serde_json::from_value(service["config"].clone()).unwrap())
            .collect()
    }

    /// Checks the configs in an example.
    fn check_example<C: Config>(
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
        check_example(S::NAME, S::EXAMPLE, S::check);
    }

    fn source<S: Source>() {
        check_example(S::NAME, S::EXAMPLE, S::check);
    }

    #[test]
    fn every_example_has_a_valid_config() {
        service::<Aggregate>();
        service::<Batches>();
        service::<Chaos>();
        service::<Decode>();
        service::<Dedup>();
        service::<Delay>();
        service::<Encode>();
        service::<Enrich>();
        source::<FileIn>();
        service::<FileOut>();
        service::<Filter>();
        service::<HttpCall>();
        source::<HttpIn>();
        service::<Log>();
        service::<Map>();
        source::<Poll>();
        service::<Process>();
        source::<ProcessSource>();
        service::<Route>();
        source::<Schedule>();
        service::<Split>();
        service::<Throttle>();
        source::<ZeromqIn>();
        service::<ZeromqOut>();
        #[cfg(feature = "json-schema")]
        service::<Validate>();
        #[cfg(feature = "mail")]
        service::<MailOut>();
        #[cfg(feature = "sql")]
        service::<Sql>();
        #[cfg(feature = "sql")]
        source::<SqlPoll>();
        service::<WebhookOut>();
    }

    #[test]
    fn every_type_and_every_field_is_described() {
        let names: Vec<&str> = catalog().iter().map(|known| known.name()).collect();
        assert_eq!(
            names,
            [
                "aggregate",
                "batch",
                "chaos",
                "decode",
                "dedup",
                "delay",
                "encode",
                "enrich",
                "file-in",
                "file-out",
                "filter",
                "http-call",
                "http-in",
                "log",
                #[cfg(feature = "mail")]
                "mail-out",
                "map",
                "poll",
                "process",
                "process-source",
                "route",
                "schedule",
                "split",
                #[cfg(feature = "sql")]
                "sql",
                #[cfg(feature = "sql")]
                "sql-poll",
                "throttle",
                #[cfg(feature = "json-schema")]
                "validate",
                "webhook-out",
                "zeromq-in",
                "zeromq-out",
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
