//! Formats of payloads: steps from bytes to JSON and back, each with a bound.
//!
//! | module | formats |
//! | --- | --- |
//! | [`binary`] | gzip, base64: bytes to bytes |
//! | [`table`] | CSV |
//! | [`markup`] | XML |
//! | [`plain`] | forms, lines, lines of JSON, text, JSON |

mod binary;
mod markup;
mod output;
mod plain;
mod table;

use brickwork::ConfigError;
use brickwork::prelude::JsonSchema;
use serde::Deserialize;

pub use table::CsvOptions;

/// A format of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Compressed bytes.
    Gzip,
    /// Bytes as text; both alphabets are read, with or without padding, with line breaks.
    Base64,
    /// Rows of fields: a list of objects with texts, or of lists without a header.
    Csv,
    /// An element is an object with attributes (`@name`), children (a list if a name repeats) and
    /// `#text`, or a text if it has only text. The order among children of different names is not
    /// kept.
    Xml,
    /// `application/x-www-form-urlencoded`: an object of texts, or lists of texts.
    Form,
    /// A list of texts, one a line.
    Lines,
    /// A list of JSON values, one a line.
    Ndjson,
    /// One text.
    Text,
    /// JSON.
    Json,
}

impl Format {
    /// Whether it maps bytes to bytes.
    fn is_binary(self) -> bool {
        matches!(self, Self::Gzip | Self::Base64)
    }

    /// Name in configs and errors.
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Base64 => "base64",
            Self::Csv => "csv",
            Self::Xml => "xml",
            Self::Form => "form",
            Self::Lines => "lines",
            Self::Ndjson => "ndjson",
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// Content type of the bytes.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/gzip",
            Self::Base64 | Self::Lines | Self::Text => "text/plain",
            Self::Csv => "text/csv",
            Self::Xml => "application/xml",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Ndjson => "application/x-ndjson",
            Self::Json => brickwork::JSON,
        }
    }
}

/// Steps between bytes and JSON, in the order from the bytes: one format of JSON at the end.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    binary: Vec<Format>,
    format: Format,
    csv: CsvOptions,
}

/// Maximum number of steps.
const STEPS_MAX: usize = 4;

impl Steps {
    /// Checks steps, from the bytes to the JSON.
    ///
    /// # Errors
    /// They don't lead to JSON.
    pub(crate) fn new(steps: &[Format], csv: CsvOptions) -> Result<Self, String> {
        let Some((format, binary)) = steps.split_last() else {
            return Err("it is empty: name a format, such as csv".to_owned());
        };
        if format.is_binary() {
            return Err(format!(
                "{} is no format of JSON: a step such as csv, text or json belongs beside it",
                format.name()
            ));
        }
        if let Some(wrong) = binary.iter().find(|step| !step.is_binary()) {
            return Err(format!(
                "{} and {} are both formats of JSON: keep one of them",
                wrong.name(),
                format.name()
            ));
        }
        if steps.len() > STEPS_MAX {
            return Err(format!("there are at most {STEPS_MAX} steps"));
        }
        Ok(Self {
            binary: binary.to_vec(),
            format: *format,
            csv,
        })
    }

    /// Decodes bytes to JSON text. Each step yields at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The bytes have another format, with the place, or are too large.
    pub(crate) fn decode(&self, bytes: &[u8], bytes_max: usize) -> Result<String, String> {
        let mut decoded = None;
        for step in &self.binary {
            let input: &[u8] = decoded.as_deref().unwrap_or(bytes);
            decoded = Some(match step {
                Format::Gzip => binary::unzip(input, bytes_max)?,
                _ => binary::from_base64(input)?,
            });
        }
        let input: &[u8] = decoded.as_deref().unwrap_or(bytes);
        match self.format {
            Format::Csv => table::decode(input, &self.csv, bytes_max),
            Format::Xml => markup::decode(input, bytes_max),
            format => plain::decode(format, input, bytes_max),
        }
    }

    /// Encodes JSON text as bytes. Each step yields at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The format can't represent the value, with the place, or the result is too large.
    pub(crate) fn encode(&self, json: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut bytes = match self.format {
            Format::Csv => table::encode(json, &self.csv, bytes_max)?,
            Format::Xml => markup::encode(json, bytes_max)?,
            format => plain::encode(format, json, bytes_max)?,
        };
        for step in self.binary.iter().rev() {
            bytes = match step {
                Format::Gzip => binary::zip(&bytes)?,
                _ => binary::to_base64(&bytes),
            };
            output::check(bytes.len(), bytes_max)?;
        }
        Ok(bytes)
    }

    /// The format of the bytes.
    pub(crate) fn outermost(&self) -> Format {
        self.binary.first().copied().unwrap_or(self.format)
    }
}

/// Checks the parts of a config that `decode` and `encode` share. `key` names the steps.
///
/// # Errors
/// The wrong settings.
pub(crate) fn check(
    key: &str,
    steps: &[Format],
    csv: &CsvOptions,
    max: u64,
    bytes_max: u64,
) -> Result<(), Vec<ConfigError>> {
    let mut errors = Vec::new();
    if let Err(text) = Steps::new(steps, csv.clone()) {
        errors.push(ConfigError::new(key, text));
    }
    if let Err(text) = csv.check() {
        errors.push(ConfigError::new("csv.delimiter", text));
    }
    if !(1..=bytes_max).contains(&max) {
        errors.push(ConfigError::new("max", "it is from 1B to 64MiB"));
    }
    crate::config_errors::result(errors)
}

/// Reads bytes as text.
///
/// # Errors
/// They are not UTF-8, with the place.
fn text_of(format: Format, bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("{}: not UTF-8 text at byte {}", format.name(), at + 1)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const MAX: usize = 1 << 20;

    fn steps(steps: &[Format]) -> Steps {
        Steps::new(steps, CsvOptions::default()).unwrap()
    }

    fn round(of: &[Format], value: &Value) -> Value {
        let steps = steps(of);
        let bytes = steps.encode(&value.to_string(), MAX).unwrap();
        serde_json::from_str(&steps.decode(&bytes, MAX).unwrap()).unwrap()
    }

    #[test]
    fn steps_lead_to_one_format_of_json() {
        use Format::{Base64, Csv, Gzip, Json};
        for (wrong, expected) in [
            (&[][..], "empty"),
            (&[Gzip][..], "gzip is no format of JSON"),
            (&[Csv, Json][..], "csv and json are both"),
            (&[Gzip, Gzip, Gzip, Base64, Csv][..], "at most 4"),
        ] {
            let error = Steps::new(wrong, CsvOptions::default()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let steps = steps(&[Base64, Gzip, Csv]);
        assert_eq!(steps.outermost(), Base64);
        let bytes = steps.encode(r#"[{"a":"1"}]"#, MAX).unwrap();
        assert!(bytes.starts_with(b"H4sI"), "gzip in base64");
        assert_eq!(steps.decode(&bytes, MAX).unwrap(), r#"[{"a":"1"}]"#);
    }

    /// A value that XML represents: texts, objects of them, and lists of two or more.
    fn element() -> impl Strategy<Value = Value> {
        let text = "[ -~äß€]{0,12}".prop_map(Value::from);
        text.prop_recursive(3, 20, 4, |inner| {
            let many = prop::collection::vec(inner.clone(), 2..4).prop_map(Value::from);
            let child = prop_oneof![inner, many];
            let children = prop::collection::btree_map("[a-z][a-z0-9_.-]{0,5}", child, 1..4);
            let attributes = prop::collection::btree_map("@[a-z]{1,4}", "[ -~]{0,8}", 0..3);
            (children, attributes).prop_map(|(children, attributes)| {
                let attributes = attributes
                    .into_iter()
                    .map(|(name, text)| (name, json!(text)));
                Value::Object(children.into_iter().chain(attributes).collect())
            })
        })
    }

    proptest! {
        #[test]
        fn bytes_survive_their_steps(text in ".{0,200}") {
            for of in [&[Format::Text][..], &[Format::Gzip, Format::Text], &[Format::Base64, Format::Text], &[Format::Base64, Format::Gzip, Format::Text]] {
                prop_assert_eq!(round(of, &json!(text)), json!(text));
            }
        }

        #[test]
        fn tables_survive(rows in prop::collection::vec(prop::collection::vec(".{0,8}", 3), 1..8), names in prop::collection::btree_set("[^\r\n\u{feff}]{1,8}", 3)) {
            let rows: Vec<Value> = rows.iter().map(|row| {
                let fields = names.iter().zip(row).map(|(name, text)| (name.clone(), json!(text)));
                Value::Object(fields.collect())
            }).collect();
            prop_assert_eq!(round(&[Format::Csv], &json!(rows)), json!(rows));
        }

        #[test]
        fn forms_and_lines_survive(fields in prop::collection::btree_map(".{0,8}", prop_oneof![".{0,8}".prop_map(Value::from), prop::collection::vec(".{0,8}", 2..4).prop_map(Value::from)], 0..5), lines in prop::collection::vec("[^\r\n]{0,12}", 0..8)) {
            prop_assert_eq!(round(&[Format::Form], &json!(fields)), json!(fields));
            prop_assert_eq!(round(&[Format::Lines], &json!(lines)), json!(lines));
            prop_assert_eq!(round(&[Format::Ndjson], &json!(lines)), json!(lines));
        }

        #[test]
        fn elements_survive(root in element(), name in "[a-z]{1,5}") {
            let value = json!({name: root});
            prop_assert_eq!(round(&[Format::Xml], &value), value);
        }

        /// Garbage is decoded or refused, within its bound.
        #[test]
        fn garbage_gives_bounded_json_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[<>&;/a\"=,\n\\[\\]{}:0! ?-]{0,80}") {
            for format in [Format::Csv, Format::Xml, Format::Form, Format::Lines, Format::Ndjson, Format::Text, Format::Json] {
                for of in [&[format][..], &[Format::Gzip, format], &[Format::Base64, format]] {
                    for input in [&bytes[..], text.as_bytes()] {
                        if let Ok(json) = steps(of).decode(input, 400) {
                            prop_assert!(json.len() <= 400);
                            prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
                        }
                    }
                }
                let _encoded = steps(&[format]).encode(&json!({"a": text}).to_string(), 400);
            }
        }
    }
}
