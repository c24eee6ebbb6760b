//! `validate`: passes on the messages that satisfy a JSON Schema.
//!
//! The payload passes unchanged: numbers, order of fields and whitespace stay. [`schema`] bounds
//! schemas and reasons.

mod schema;

use std::sync::Arc;

use brickwork::config::ManifestPath;
use brickwork::prelude::*;
use serde_json::Value;

use crate::json::cut;
use crate::ports::{IN, OUT};
use schema::{CompiledSchema, SCHEMA_BYTES_MAX};

/// Output of messages that don't satisfy the schema.
const INVALID: Output<Raw> = Output::new("invalid");
/// Header with the reason, on the output `invalid`.
const REASON: &str = "invalid-reason";
/// Maximum bytes of the reason in the header.
const REASON_BYTES_MAX: usize = 1024;

/// Passes on the messages that satisfy its schema, unchanged.
pub struct Validate {
    schema: Arc<CompiledSchema>,
}

/// Config of `validate`: either `schema` or `file`.
#[config]
pub struct ValidateConfig {
    /// The JSON Schema, as a table: drafts 4, 6, 7, 2019-09 and 2020-12, the last by default.
    /// References lead to places in the schema itself; other files and hosts are not read.
    pub schema: Option<Value>,
    /// A JSON file with the schema, instead of `schema`; at most 1 MiB.
    pub file: Option<ManifestPath>,
}

impl ValidateConfig {
    fn compile(&self) -> Result<CompiledSchema, ConfigError> {
        let wrong = |path: &str, text: String| ConfigError::new(path, text);
        match (&self.schema, &self.file) {
            (Some(_), Some(_)) => {
                let text = "schema and file exclude each other: leave one out";
                Err(wrong("", text.to_owned()))
            }
            (None, None) => {
                let text = "there is no schema: set schema, or file with the name of a JSON file";
                Err(wrong("", text.to_owned()))
            }
            (Some(schema), None) => {
                CompiledSchema::new(schema).map_err(|text| wrong("schema", text))
            }
            (None, Some(file)) => {
                let name = file.display();
                let text = std::fs::read(&**file)
                    .map_err(|error| wrong("file", format!("can't read {name}: {error}")))?;
                if text.len() > SCHEMA_BYTES_MAX {
                    let text = format!("{name} has {} bytes, 1 MiB is allowed", text.len());
                    return Err(wrong("file", text));
                }
                let schema: Value = serde_json::from_slice(&text)
                    .map_err(|error| wrong("file", format!("{name} is not JSON: {error}")))?;
                CompiledSchema::new(&schema)
                    .map_err(|text| wrong("file", format!("{name}: {text}")))
            }
        }
    }
}

impl Service for Validate {
    const NAME: &'static str = "validate";
    const SUMMARY: &'static str = "passes on the messages that satisfy a JSON Schema";
    const EXAMPLE: &'static str = r#"[services.proven]
use = "validate"
in = "orders"
out.out = "orders.valid"
out.invalid = "orders.invalid"
[services.proven.config.schema]
type = "object"
required = ["id", "total"]
properties.id.type = "string"
properties.total = { type = "number", minimum = 0 }
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message that does not satisfy the schema, or is not JSON, unless the output invalid is connected; the reason names place and rule of the first 5 errors, without values",
        "dead-letters a message that is nested too deep for the number of references in the schema",
        "blocks its thread while a schema takes long for a message; the supervisor replaces the thread",
    ];
    type Config = ValidateConfig;

    fn ports(_: &ValidateConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT).optional_output(&INVALID);
    }

    fn check(config: &ValidateConfig) -> Result<(), Vec<ConfigError>> {
        config.compile().map(drop).map_err(|error| vec![error])
    }

    async fn start(config: &ValidateConfig, cx: &mut Context) -> Result<Self, Failure> {
        let compile = async || {
            let schema = config.compile();
            schema.map_err(|error| Failure::retry(format!("{}: {}", error.path, error.text)))
        };
        Ok(Self {
            schema: cx.shared(compile).await?,
        })
    }
}

impl Validate {
    fn judge(&self, payload: &[u8]) -> Result<(), String> {
        if payload.is_empty() {
            return Err("the payload is empty, JSON was expected".to_owned());
        }
        let value: Value = serde_json::from_slice(payload)
            .map_err(|error| format!("the payload is not JSON: {error}"))?;
        self.schema.check(&value)
    }
}

impl Handle<Raw> for Validate {
    async fn handle(&mut self, mut raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let Err(mut reason) = self.judge(&raw.payload) else {
            return cx.emit(&OUT, raw);
        };
        if !cx.is_wired(&INVALID) {
            return Err(Failure::reject(reason));
        }
        reason.retain(|character| !character.is_control());
        cut(&mut reason, REASON_BYTES_MAX);
        raw.headers.insert(REASON.into(), reason.into());
        cx.emit(&INVALID, raw)
    }
}

impl std::fmt::Debug for Validate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::{Setup, TestApp};
    use serde_json::json;

    use super::*;

    fn config(config: Value) -> ValidateConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn a_valid_message_passes_with_its_bytes_and_an_invalid_one_goes_to_its_output() {
        let schema = json!({"required": ["n"], "properties": {"n": {"type": "number"}}});
        let app = TestApp::of::<Validate>(config(json!({"schema": schema})));
        let valid = " {\"n\": 12345678901234567890123.50, \"a\": 1}";
        app.send(&IN, Raw::bytes("t", valid));
        assert_eq!(app.expect(&OUT).payload, valid);
        for (payload, reason) in [
            ("{\"n\": \"x\"}", "/n: value is not of type \"number\""),
            ("{}", "\"n\" is a required property"),
            ("nonsense", "not JSON"),
            ("", "empty"),
        ] {
            app.send(&IN, Raw::bytes("t", payload));
            let raw = app.expect(&INVALID);
            assert_eq!(raw.payload, payload);
            assert!(raw.headers[REASON].contains(reason), "{:?}", raw.headers);
        }
        app.stop();
    }

    #[test]
    fn without_the_output_an_invalid_message_is_dead_lettered_with_place_and_rule() {
        let manifest = r#"
            [app]
            name = "orders"
            [services.proven]
            use = "validate"
            in = "orders"
            out = "valid"
            config.file = "schema.json"
            [topics]
            orders.external = "in"
            valid.external = "out"
        "#;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.toml");
        std::fs::write(&file, manifest).unwrap();
        std::fs::write(folder.path().join("schema.json"), r#"{"required": ["id"]}"#).unwrap();
        let app = Setup::of_file(&file, crate::catalog()).start();
        app.send("orders", json!({}));
        let letter = app.expect_dead_letter();
        let expected = "the payload: \"id\" is a required property (rule /required)";
        assert_eq!(letter.dead_letter.error, expected);
        app.send("orders", json!({"id": 1}));
        assert_eq!(app.expect("valid"), json!({"id": 1}));
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused_at_its_place() {
        for (wrong, path, text) in [
            (json!({}), "", "there is no schema"),
            (json!({"schema": {}, "file": "a"}), "", "exclude"),
            (json!({"schema": {"type": 1}}), "schema", "/type"),
            (json!({"file": "/nowhere.json"}), "file", "can't read"),
        ] {
            let errors = Validate::check(&config(wrong)).unwrap_err();
            assert_eq!(errors[0].path, path);
            assert!(errors[0].text.contains(text), "{errors:?}");
        }
    }
}
