//! Config of one route: the name of an output, or a table with output and answer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use brickwork::prelude::*;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, de};

use crate::expression::Expression;

/// A route: the output of its messages, and how it answers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// Output of the messages.
    pub out: String,
    /// Whether the caller waits for a service's reply; by default as `config.reply`.
    pub reply: Option<bool>,
    /// Parameters of the query that messages have as headers: `page` is
    /// `meta.headers['http-query-page']`. A repeated parameter has its first value.
    pub query: Vec<String>,
    /// Status of the answer: an expression over `msg`, the reply, and `meta`, the envelope of the
    /// request. By default 200.
    pub status: Option<Expression>,
    /// Headers of the answer, each with an expression as `status`. A header whose value is null
    /// is left out.
    pub headers: BTreeMap<String, Expression>,
    /// Body of the answer: an expression as `status`; by default the reply. Null means no body. A
    /// text is sent as it is if `headers` has a content type that is not JSON.
    pub body: Option<Expression>,
    /// Accepted content types; by default `config.content_types`.
    pub content_types: Option<Vec<String>>,
    /// Whether bodies go to files in the data folder, for bodies that are too large for a message.
    /// The payload is then an object of `path`, `size`, `sha256` and `content_type`. See
    /// `config.upload_max`.
    pub upload: bool,
    /// Purpose of the route in one line, for `brickwork export openapi`.
    pub summary: Option<String>,
}

/// The value of a route in a manifest: an output, or a table.
#[derive(Debug, Clone)]
pub struct RouteEntry(pub RouteConfig);

impl<'de> Deserialize<'de> for RouteEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RouteEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an output, or a table with out")
            }

            fn visit_str<E: de::Error>(self, out: &str) -> Result<RouteEntry, E> {
                Ok(RouteEntry(RouteConfig {
                    out: out.to_owned(),
                    ..RouteConfig::default()
                }))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RouteEntry, A::Error> {
                RouteConfig::deserialize(MapAccessDeserializer::new(map)).map(RouteEntry)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for RouteEntry {
    fn schema_name() -> Cow<'static, str> {
        "Route".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<RouteConfig>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}

impl RouteConfig {
    /// Whether something of the answer is made of the reply by an expression.
    pub(super) fn shapes_answer(&self) -> bool {
        self.status.is_some() || self.body.is_some() || !self.headers.is_empty()
    }
}
