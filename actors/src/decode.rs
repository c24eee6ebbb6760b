//! `decode`: makes JSON of payloads in other formats.

use brickwork::config::ByteSize;
use brickwork::prelude::*;

use crate::codec::{CsvOptions, Format, Steps};
use crate::expression::{Expression, Scope};
use crate::ports::current_message;

/// Maximum of `max`.
const BYTES_MAX: u64 = 64 << 20;

/// Emits each message with its payload as JSON.
#[derive(Debug)]
pub struct Decode {
    steps: Steps,
    of: Option<Expression>,
    bytes_max: usize,
}

/// Config of `decode`.
#[config]
pub struct DecodeConfig {
    /// The formats of the payload, the outermost first: `["csv"]`, or `["base64", "gzip", "json"]`.
    /// The last one gives JSON.
    pub from: Vec<Format>,
    /// An expression over `msg` and `meta` for a text to decode, such as a field with base64; by
    /// default the payload.
    pub of: Option<Expression>,
    /// Details of CSV.
    pub csv: CsvOptions,
    /// Maximum bytes after each step; at most 64MiB. The JSON is also limited by
    /// `app.max_message`.
    #[default(ByteSize(8 << 20))]
    pub max: ByteSize,
}

#[service(
    summary = "makes JSON of CSV, XML, forms, lines, gzip and base64",
    example = r#"[services.rows]
use = "decode"
in = "exports"
out = "rows"
config.from = ["gzip", "csv"]
config.csv.delimiter = ";"
"#,
    failures = [
        "dead-letters a message whose payload has another format; the error names the line or the byte",
        "dead-letters a message that is larger than `max` after a step, or whose JSON is larger than app.max_message",
        "dead-letters a message for which `of` has no text",
        "dead-letters XML with a document type, or nested deeper than 60",
    ]
)]
impl Decode {
    fn check(config: &DecodeConfig) -> Result<(), Vec<ConfigError>> {
        crate::codec::check("from", &config.from, &config.csv, config.max.0, BYTES_MAX)
    }

    fn start(config: &DecodeConfig) -> Result<Self> {
        let steps = Steps::new(&config.from, config.csv.clone());
        Ok(Self {
            steps: steps.map_err(Failure::reject)?,
            of: config.of.clone(),
            bytes_max: config.max.0 as usize,
        })
    }

    #[input("in")]
    fn decode(&mut self, mut raw: Raw, cx: &Context, out: Out<Raw>) -> Result<Raw> {
        let json = match &self.of {
            None => self.steps.decode(&raw.payload, self.bytes_max),
            Some(of) => {
                let (message, attempt) = current_message(cx);
                let value = of.json(&mut Scope::new(message, attempt))?;
                let text: String = serde_json::from_str(&value).map_err(|_| {
                    let kind = crate::json::kind_of(&value);
                    let source = of.source();
                    Failure::reject(format!(
                        "the value of {source:?} is {kind}, a text was expected"
                    ))
                })?;
                self.steps.decode(text.as_bytes(), self.bytes_max)
            }
        };
        raw.payload = json.map_err(Failure::reject)?.into();
        raw.content_type = None;
        let reply = raw.clone();
        out.emit(raw)?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;
    use serde_json::{Value, json};

    use super::*;

    const BYTES: Input<Raw> = Input::new("in");
    const JSON: Output<Value> = Output::new("out");

    fn app(config: Value) -> TestApp {
        TestApp::of::<Decode>(serde_json::from_value(config).unwrap())
    }

    #[test]
    fn a_payload_becomes_json() {
        let app = app(json!({"from": ["csv"], "csv": {"delimiter": ";"}}));
        let mut raw = Raw::bytes("t", "a;b\n1;2\n");
        raw.content_type = Some("text/csv".into());
        app.send(&BYTES, raw);
        let message = app.expect_message(&JSON);
        assert_eq!(&*message.payload, br#"[{"a":"1","b":"2"}]"#);
        assert_eq!(message.content_type, None);
        app.stop();
    }

    #[test]
    fn a_field_of_the_payload_can_be_decoded() {
        let app = app(json!({"from": ["base64", "json"], "of": "msg.data"}));
        app.send(&BYTES, Raw::bytes("t", r#"{"data":"eyJhIjoxfQ=="}"#));
        assert_eq!(app.expect(&JSON), json!({"a": 1}));
        app.send(&BYTES, Raw::bytes("t", r#"{"data":7}"#));
        let letter = app.expect_dead_letter();
        let expected = "the value of \"msg.data\" is a number, a text was expected";
        assert_eq!(letter.dead_letter.error, expected);
        app.stop();
    }

    #[test]
    fn garbage_is_dead_lettered_with_its_place() {
        let app = app(json!({"from": ["xml"], "max": "1KiB"}));
        for (payload, expected) in [
            ("<a>\n<b></a>".to_owned(), "xml: line 2"),
            (
                format!("<a>{}</a>", "x".repeat(2000)),
                "more than 1024 bytes",
            ),
        ] {
            app.send(&BYTES, Raw::bytes("t", payload));
            let letter = app.expect_dead_letter();
            assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
        }
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for (wrong, path) in [
            (json!({}), "from"),
            (json!({"from": ["gzip"]}), "from"),
            (
                json!({"from": ["csv"], "csv": {"delimiter": "\""}}),
                "csv.delimiter",
            ),
            (json!({"from": ["csv"], "max": "65MiB"}), "max"),
            (json!({"from": ["csv"], "max": "0B"}), "max"),
        ] {
            let config = serde_json::from_value(wrong).unwrap();
            assert_eq!(Decode::check(&config).unwrap_err()[0].path, path);
        }
    }
}
