//! Paths in a config, relative to the manifest file that names them.

use std::borrow::Cow;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::PATH_FORMAT;

/// A file or folder. The manifest joins a relative path to the folder of its file before the
/// service gets the config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ManifestPath(pub PathBuf);

impl Deref for ManifestPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl JsonSchema for ManifestPath {
    fn schema_name() -> Cow<'static, str> {
        "Path".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": PATH_FORMAT })
    }
}
