//! `map`: makes another payload of each message.

use std::collections::BTreeMap;
use std::sync::Arc;

use brickwork::prelude::*;
use brickwork::{JSON, Message};
use serde::Deserialize;
use serde_json::Value;

use crate::expression::{Expression, Scope};
use crate::ports::{IN, OUT, in_hand};

/// Emits, for each message, one whose payload expressions make; headers and subject stay.
#[derive(Debug)]
pub struct Map {
    form: Form,
    kind: Option<Arc<str>>,
}

/// Config of `map`: either `to` or `value`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MapConfig {
    /// The fields of the new payload, each with the expression over `msg` and `meta` that
    /// gives its value. A field that isn't there rejects the message, unless `has()`
    /// guards it: `has(msg.title) ? msg.title : ''`.
    pub to: BTreeMap<String, Expression>,
    /// One expression that gives the whole new payload, instead of `to`.
    pub value: Option<Expression>,
    /// The message type of what it emits; the same as before, if left out.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// How a payload is made.
#[derive(Debug)]
enum Form {
    Fields(Vec<(String, Expression)>),
    Whole(Expression),
}

impl Form {
    fn new(config: &MapConfig) -> Self {
        match &config.value {
            Some(value) => Self::Whole(value.clone()),
            None => Self::Fields(config.to.clone().into_iter().collect()),
        }
    }

    fn apply(&self, message: &Message, attempt: u32) -> Result<Value, Failure> {
        let scope = &mut Scope::new(message, attempt);
        match self {
            Self::Whole(expression) => expression.value(scope),
            Self::Fields(fields) => {
                let mut object = serde_json::Map::new();
                for (name, expression) in fields {
                    object.insert(name.clone(), expression.value(scope)?);
                }
                Ok(object.into())
            }
        }
    }
}

impl Service for Map {
    const NAME: &'static str = "map";
    const SUMMARY: &'static str = "makes another payload of each message, by expressions";
    const EXAMPLE: &'static str = r#"[services.shorten]
use = "map"
in = "issues.opened"
out = "alerts"
[services.shorten.config]
type = "alert"
to.title = "msg.issue.title"
to.labels = "has(msg.issue.labels) ? msg.issue.labels.map(l, l.name) : []"
"#;
    const FAILURES: &'static [&'static str] = &[
        "rejects a message whose payload is not JSON, if an expression looks at msg",
        "rejects a message that lacks a field that an expression needs and has() doesn't guard",
    ];
    type Config = MapConfig;

    fn ports(_: &MapConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    fn check(config: &MapConfig) -> Result<(), Vec<ConfigError>> {
        let text = match (config.to.is_empty(), &config.value) {
            (true, None) => "say what to make: fields in to, or the whole in value",
            (false, Some(_)) => "to and value exclude one another: leave one out",
            _ => return Ok(()),
        };
        Err(vec![ConfigError::new("", text)])
    }

    async fn start(config: &MapConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            form: Form::new(config),
            kind: config.kind.as_deref().map(Arc::from),
        })
    }
}

impl Handle<Raw> for Map {
    async fn handle(&mut self, mut raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = in_hand(cx);
        let value = self.form.apply(message, attempt)?;
        raw.payload = serde_json::to_vec(&value)?.into();
        // A form of JSON of its own, such as application/problem+json, may no longer be
        // what it is.
        raw.content_type = raw.content_type.and(Some(JSON.into()));
        if let Some(kind) = &self.kind {
            raw.kind = kind.clone();
        }
        cx.emit(&OUT, raw)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::{Envelope, FailureKind};
    use serde_json::json;

    use super::*;

    fn apply(config: Value, payload: &'static str) -> Result<Value, Failure> {
        let config: MapConfig = serde_json::from_value(config).unwrap();
        Map::check(&config).unwrap();
        Form::new(&config).apply(&Envelope::new("issues", payload).into(), 1)
    }

    #[test]
    fn fields_are_made_of_payload_and_envelope() {
        let config = json!({"to": {
            "kind": "meta.type",
            "title": "msg.issue.title",
            "first": "has(msg.issue.body) ? msg.issue.body : 'none'",
        }});
        assert_eq!(
            apply(config, r#"{"issue":{"title":"Broken"}}"#).unwrap(),
            json!({"kind": "issues", "title": "Broken", "first": "none"})
        );
    }

    #[test]
    fn one_expression_makes_the_whole() {
        let config = json!({"value": "msg.items.map(i, i.id)"});
        let value = apply(config, r#"{"items":[{"id":1},{"id":2}]}"#);
        assert_eq!(value.unwrap(), json!([1, 2]));
    }

    #[test]
    fn a_missing_field_rejects_the_message() {
        let failure = apply(json!({"to": {"t": "msg.title"}}), "{}").unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert!(failure.text().contains("\"title\" is missing"), "{failure}");
    }

    #[test]
    fn a_map_makes_fields_or_a_whole() {
        for config in [json!({}), json!({"to": {"a": "1"}, "value": "1"})] {
            let config: MapConfig = serde_json::from_value(config).unwrap();
            assert_eq!(Map::check(&config).unwrap_err().len(), 1);
        }
    }
}
