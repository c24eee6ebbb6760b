//! `map`: replaces the payload of each message.

use std::collections::BTreeMap;
use std::sync::Arc;

use brickwork::prelude::*;
use brickwork::{Headers, JSON, Message};
use serde_json::Value;

use crate::expression::{Expression, Reads, Scope};
use crate::ports::current_message;

/// Emits each message with a payload made by expressions; headers and subject stay. A caller
/// that asked gets the new payload.
#[derive(Debug)]
pub struct Map {
    form: Form,
    kind: Option<Arc<str>>,
}

/// Config of `map`: either `to` or `value`.
#[config]
pub struct MapConfig {
    /// Fields of the new payload, each with the expression over `msg` and `meta` for its
    /// value. A missing field dead-letters the message, unless `has()` guards it:
    /// `has(msg.title) ? msg.title : ''`.
    pub to: BTreeMap<String, Expression>,
    /// One expression for the whole new payload, instead of `to`.
    pub value: Option<Expression>,
    /// Message type of the emitted messages; by default the type of the incoming message.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// How the payload is made.
#[derive(Debug)]
pub(crate) enum Form {
    Fields {
        fields: Vec<(String, Expression)>,
        reads: Arc<Reads>,
    },
    Whole(Expression),
}

impl Form {
    /// The payload of these fields, or of one expression.
    pub(crate) fn new(to: &BTreeMap<String, Expression>, value: Option<&Expression>) -> Self {
        match value {
            Some(value) => Self::Whole(value.clone()),
            None => Self::Fields {
                fields: to.clone().into_iter().collect(),
                reads: Expression::reads(to.values()),
            },
        }
    }

    /// The new payload, as JSON.
    pub(crate) fn apply(&self, message: &Message, attempt: u32) -> Result<String, Failure> {
        let mut scope = Scope::new(message, attempt);
        match self {
            Self::Whole(expression) => expression.json(&mut scope),
            Self::Fields { fields, reads } => {
                let mut scope = scope.planned(reads);
                let mut object = "{".to_owned();
                for (nth, (name, expression)) in fields.iter().enumerate() {
                    if nth > 0 {
                        object.push(',');
                    }
                    object.push_str(&Value::from(name.as_str()).to_string());
                    object.push(':');
                    object.push_str(&expression.json(&mut scope)?);
                }
                object.push('}');
                Ok(object)
            }
        }
    }
}

#[service(
    summary = "replaces the payload of each message, by expressions",
    example = r#"[services.shorten]
use = "map"
in = "issues.opened"
out = "alerts"
[services.shorten.config]
type = "alert"
to.title = "msg.issue.title"
to.labels = "has(msg.issue.labels) ? msg.issue.labels.map(l, l.name) : []"
"#,
    failures = [
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if an expression uses msg",
        "dead-letters a message without a field that an expression needs and has() doesn't guard",
    ]
)]
impl Map {
    fn check(config: &MapConfig) -> Result<(), Vec<ConfigError>> {
        let text = match (config.to.is_empty(), &config.value) {
            (true, None) => "it makes no payload: set fields in to, or the whole payload in value",
            (false, Some(_)) => "to and value exclude each other: leave one out",
            _ => return Ok(()),
        };
        Err(vec![ConfigError::new("", text)])
    }

    fn start(config: &MapConfig) -> Result<Self> {
        Ok(Self {
            form: Form::new(&config.to, config.value.as_ref()),
            kind: config.kind.as_deref().map(Arc::from),
        })
    }

    #[input("in")]
    fn replace(&mut self, mut raw: Raw, cx: &Context, out: Out<Raw>) -> Result<Raw> {
        let (message, attempt) = current_message(cx);
        let value = self.form.apply(message, attempt)?;
        raw.payload = value.into();
        // The new payload is plain JSON, not a special form such as application/problem+json.
        raw.content_type = raw.content_type.and(Some(JSON.into()));
        if let Some(kind) = &self.kind {
            raw.kind = kind.clone();
        }
        let reply = Raw {
            kind: raw.kind.clone(),
            content_type: None,
            headers: Headers::new(),
            subject: None,
            payload: raw.payload.clone(),
        };
        out.emit(raw)?;
        Ok(reply)
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
        let json = Form::new(&config.to, config.value.as_ref())
            .apply(&Envelope::new("issues", payload).into(), 1)?;
        Ok(serde_json::from_str(&json)?)
    }

    #[test]
    fn fields_are_made_from_payload_and_envelope() {
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
    fn one_expression_makes_the_whole_payload() {
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
    fn a_map_needs_fields_or_a_whole_payload_but_not_both() {
        for config in [json!({}), json!({"to": {"a": "1"}, "value": "1"})] {
            let config: MapConfig = serde_json::from_value(config).unwrap();
            assert_eq!(Map::check(&config).unwrap_err().len(), 1);
        }
    }
}
