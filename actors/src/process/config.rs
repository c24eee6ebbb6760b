//! Config of `process`: its defaults and its validation.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::config::{ByteSize, HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use super::command::{CommandConfig, port_errors};

/// Maximum messages in flight per child: more would only wait inside the child.
pub(super) const IN_FLIGHT_MAX: usize = 1024;

/// Config of `process`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program and its arguments. A program with a slash is relative to `dir`; without
    /// one it is searched in the child's `PATH`.
    pub command: Vec<String>,
    /// Working directory of the child, relative to the manifest; by default the manifest's
    /// directory.
    #[serde(default = "here")]
    pub dir: ManifestPath,
    /// Environment variables of the child. Their values are secrets: cut out of logs and
    /// errors.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// Environment variables that the child inherits from this program. It inherits no
    /// others.
    #[serde(default = "inherited")]
    pub inherit_env: Vec<String>,
    /// Ports that the child may emit on.
    #[serde(default = "out")]
    pub outputs: Vec<String>,
    /// Ports that the child may send requests on, which another service answers.
    #[serde(default)]
    pub asks: Vec<String>,
    /// Maximum messages in flight per child, 1 to 1024. Each of `instances` has a child of
    /// its own.
    #[serde(default = "sixteen")]
    pub in_flight: usize,
    /// Maximum length of an answer line.
    #[serde(default = "two_mib")]
    pub line_max: ByteSize,
    /// Time for the child to exit when the app stops. First its stdin is closed; after half
    /// of this time its process group gets SIGTERM, at the end SIGKILL.
    #[serde(default = "five_seconds")]
    pub stop_timeout: HumanDuration,
}

pub(super) fn here() -> ManifestPath {
    ManifestPath(".".into())
}

pub(super) fn inherited() -> Vec<String> {
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"]
        .map(str::to_owned)
        .into()
}

pub(super) fn out() -> Vec<String> {
    vec!["out".to_owned()]
}

fn sixteen() -> usize {
    16
}

pub(super) fn two_mib() -> ByteSize {
    ByteSize(2 << 20)
}

pub(super) fn five_seconds() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            dir: here(),
            env: BTreeMap::new(),
            inherit_env: inherited(),
            outputs: out(),
            asks: Vec::new(),
            in_flight: sixteen(),
            line_max: two_mib(),
            stop_timeout: five_seconds(),
        }
    }
}

impl ProcessConfig {
    /// The parts of the config that all types with a child have.
    pub(super) fn command(&self) -> CommandConfig<'_> {
        CommandConfig {
            command: &self.command,
            dir: &self.dir,
            env: &self.env,
            inherit_env: &self.inherit_env,
            line_max: self.line_max,
        }
    }

    /// Returns every error in the config.
    pub(super) fn errors(&self) -> Vec<ConfigError> {
        let mut errors = self.command().errors();
        errors.extend(port_errors("outputs", &self.outputs, &[]));
        errors.extend(port_errors("asks", &self.asks, &self.outputs));
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            let text = format!("a child has 1 to {IN_FLIGHT_MAX} messages in flight");
            errors.push(ConfigError::new("in_flight", text));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(config: Value) -> ProcessConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn every_error_in_a_config_is_reported_with_its_place() {
        let errors = config(json!({
            "command": ["", "a\0"],
            "env": {"A=": "1"},
            "inherit_env": ["PATH", ""],
            "outputs": ["out", "Out", "out"],
            "asks": ["price", "out"],
            "in_flight": 0,
            "line_max": "1B",
        }))
        .errors();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        let expected = [
            "command.0",
            "command.1",
            "env.A=",
            "inherit_env.1",
            "line_max",
            "outputs.1",
            "outputs.2",
            "asks.1",
            "in_flight",
        ];
        assert_eq!(paths, expected);
        assert_eq!(config(json!({"command": []})).errors()[0].path, "command");
        assert!(config(json!({"command": ["true"]})).errors().is_empty());
    }
}
