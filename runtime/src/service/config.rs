//! The config of a service type, and the errors in one.

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The config of a service type: a serde struct with documented fields and defaults.
///
/// Implemented for every type that has the required traits.
pub trait Config: DeserializeOwned + JsonSchema + Default + Debug + Send + Sync + 'static {}

impl<T: DeserializeOwned + JsonSchema + Default + Debug + Send + Sync + 'static> Config for T {}

/// The config of a service type without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// An error in the config of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Keys and indexes from the top of the config, joined by dots; empty for the whole
    /// config.
    pub path: String,
    /// The problem and its remedy.
    pub text: String,
}

impl ConfigError {
    /// Creates an error at a path such as `rules.0.when`.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }
}
