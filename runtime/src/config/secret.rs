//! Secrets in a config, which are never shown.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::SECRET_FORMAT;
use crate::redact::REDACTED;

/// A secret text. `Debug` does not print it, and it is replaced in logs, errors, metrics and
/// dead letters.
///
/// ```
/// let secret: brickwork::config::Secret = serde_json::from_str("\"hunter2\"").unwrap();
/// assert_eq!(format!("{secret:?}"), "[redacted]");
/// assert_eq!(secret.reveal(), "hunter2");
/// ```
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": SECRET_FORMAT })
    }
}
