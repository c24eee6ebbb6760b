//! `encode`: makes payloads in other formats of JSON.

use std::sync::Arc;

use brickwork::config::ByteSize;
use brickwork::prelude::*;

use crate::codec::{CsvOptions, Format, Steps};
use crate::expression::{Expression, Scope};
use crate::ports::current_message;

/// Maximum of `max`.
const BYTES_MAX: u64 = 64 << 20;

/// Emits each message with its payload in another format.
#[derive(Debug)]
pub struct Encode {
    steps: Steps,
    value: Option<Expression>,
    bytes_max: usize,
    content_type: Arc<str>,
}

/// Config of `encode`.
#[config]
pub struct EncodeConfig {
    /// The formats of the new payload, in the order in which they are applied: `["csv"]`, or
    /// `["json", "gzip", "base64"]`. The first one takes JSON.
    pub to: Vec<Format>,
    /// An expression over `msg` and `meta` for the value to encode; by default the payload.
    pub value: Option<Expression>,
    /// Details of CSV.
    pub csv: CsvOptions,
    /// Maximum bytes after each step; at most 64MiB. The last one is also limited by
    /// `app.max_message`.
    #[default(ByteSize(8 << 20))]
    pub max: ByteSize,
    /// Content type of the emitted messages; by default that of the last format.
    pub content_type: Option<String>,
}

impl EncodeConfig {
    /// The formats from the bytes to the JSON.
    fn formats(&self) -> Vec<Format> {
        self.to.iter().rev().copied().collect()
    }
}

#[service(
    summary = "makes CSV, XML, forms, lines, gzip and base64 of JSON",
    example = r#"[services.export]
use = "encode"
in = "orders.bulk"
out = "exports"
config.to = ["csv", "gzip"]
"#,
    failures = [
        "dead-letters a message whose payload is not JSON",
        "dead-letters a message that the format can't represent; the error names the row, the field or the element",
        "dead-letters a message that is larger than `max` after a step, or larger than app.max_message",
    ]
)]
impl Encode {
    fn check(config: &EncodeConfig) -> Result<(), Vec<ConfigError>> {
        crate::codec::check(
            "to",
            &config.formats(),
            &config.csv,
            config.max.0,
            BYTES_MAX,
        )
    }

    fn start(config: &EncodeConfig) -> Result<Self> {
        let steps = Steps::new(&config.formats(), config.csv.clone());
        let steps = steps.map_err(Failure::reject)?;
        let content_type = match &config.content_type {
            Some(content_type) => content_type.as_str(),
            None => steps.outermost().content_type(),
        };
        Ok(Self {
            content_type: content_type.into(),
            steps,
            value: config.value.clone(),
            bytes_max: config.max.0 as usize,
        })
    }

    #[input("in")]
    fn encode(&mut self, mut raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, attempt) = current_message(cx);
        let json = match &self.value {
            Some(value) => value.json(&mut Scope::new(message, attempt))?,
            None => {
                let json = crate::json::JsonText::check_readable(&message.payload);
                let json = json.map_err(|text| Failure::reject(format!("the payload: {text}")))?;
                let mut line = Vec::new();
                json.compact_into(&mut line);
                String::from_utf8(line)?
            }
        };
        let bytes = self.steps.encode(&json, self.bytes_max);
        raw.payload = bytes.map_err(Failure::reject)?.into();
        raw.content_type = Some(self.content_type.clone());
        out.emit(raw)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;
    use serde_json::{Value, json};

    use super::*;

    const JSON: Input<Value> = Input::new("in");
    const BYTES: Output<Raw> = Output::new("out");

    fn app(config: Value) -> TestApp {
        TestApp::of::<Encode>(serde_json::from_value(config).unwrap())
    }

    #[test]
    fn json_becomes_bytes_with_their_content_type() {
        for (config, payload, content_type) in [
            (
                json!({"to": ["csv"], "value": "msg.rows"}),
                "a\n1\n",
                "text/csv",
            ),
            (
                json!({"to": ["json", "base64"]}),
                "eyJyb3dzIjpbeyJhIjoxfV19",
                "text/plain",
            ),
            (
                json!({"to": ["form"], "value": "msg.rows[0]", "content_type": "x/y"}),
                "a=1",
                "x/y",
            ),
        ] {
            let app = app(config);
            app.send(&JSON, json!({"rows": [{"a": 1}]}));
            let raw = app.expect(&BYTES);
            assert_eq!(raw.payload, payload);
            assert_eq!(raw.content_type.as_deref(), Some(content_type));
            app.stop();
        }
    }

    #[test]
    fn garbage_is_dead_lettered_with_its_place() {
        let app = app(json!({"to": ["csv"]}));
        app.send(&Input::<Raw>::new("in"), Raw::bytes("t", "nonsense"));
        app.send(&JSON, json!([{"a": 1}, {"a": {}}]));
        for expected in ["not JSON", "csv: row 1: a is an object or a list"] {
            let letter = app.expect_dead_letter();
            assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
        }
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for wrong in [json!({}), json!({"to": ["gzip", "csv"]})] {
            let config = serde_json::from_value(wrong).unwrap();
            assert_eq!(Encode::check(&config).unwrap_err()[0].path, "to");
        }
    }
}
