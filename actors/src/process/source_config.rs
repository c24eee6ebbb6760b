//! Config of `process-source`.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::config::{ByteSize, HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use super::command::{CommandConfig, port_errors};
use super::config::{five_seconds, here, inherited, out, two_mib};

/// Maximum messages in flight.
const IN_FLIGHT_MAX: usize = 4096;

/// Config of `process-source`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessSourceConfig {
    /// The program and its arguments. A program with a slash is relative to `dir`; without
    /// one it is searched in the child's `PATH`.
    pub command: Vec<String>,
    /// Working directory of the child, relative to the manifest; by default the manifest's
    /// directory.
    pub dir: ManifestPath,
    /// Environment variables of the child. Their values are secrets: cut out of logs and
    /// errors.
    pub env: BTreeMap<String, Secret>,
    /// Environment variables that the child inherits from this program. It inherits no
    /// others.
    pub inherit_env: Vec<String>,
    /// Ports that the child may send on. A line without a port goes to the first one.
    pub outputs: Vec<String>,
    /// Maximum messages without an ack, 1 to 4096. Then the child's next write waits.
    pub in_flight: usize,
    /// Whether the source ends when the child exits with code 0. By default every exit is a
    /// failure, and the next child is started.
    pub ends: bool,
    /// Maximum length of a line.
    pub line_max: ByteSize,
    /// Time for the child to exit when the app stops. First its stdin is closed; after half
    /// of this time its process group gets SIGTERM, at the end SIGKILL.
    pub stop_timeout: HumanDuration,
}

impl Default for ProcessSourceConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            dir: here(),
            env: BTreeMap::new(),
            inherit_env: inherited(),
            outputs: out(),
            in_flight: 256,
            ends: false,
            line_max: two_mib(),
            stop_timeout: five_seconds(),
        }
    }
}

impl ProcessSourceConfig {
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

    /// Returns the maximum messages in flight, also for a config that was not checked.
    pub(super) fn window(&self) -> usize {
        self.in_flight.clamp(1, IN_FLIGHT_MAX)
    }

    /// Returns the time for the child to exit.
    pub(super) fn stop_within(&self) -> Duration {
        self.stop_timeout.0
    }

    /// Returns every error in the config.
    pub(super) fn errors(&self) -> Vec<ConfigError> {
        let mut errors = self.command().errors();
        errors.extend(port_errors("outputs", &self.outputs, &[]));
        if self.outputs.is_empty() {
            let text = "it names no port: leave it out for the port `out`";
            errors.push(ConfigError::new("outputs", text));
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            let text = format!("a source has 1 to {IN_FLIGHT_MAX} messages in flight");
            errors.push(ConfigError::new("in_flight", text));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_error_in_a_config_is_reported_with_its_place() {
        let paths = |config| {
            let config: ProcessSourceConfig = serde_json::from_value(config).unwrap();
            let errors = config.errors().into_iter();
            errors.map(|error| error.path).collect::<Vec<_>>()
        };
        assert!(paths(json!({"command": ["true"]})).is_empty());
        let wrong = json!({"command": [], "outputs": [], "in_flight": 0});
        assert_eq!(paths(wrong), ["command", "outputs", "in_flight"]);
        let wrong = json!({"command": ["x"], "outputs": ["a", "a"], "in_flight": 5000});
        assert_eq!(paths(wrong), ["outputs.1", "in_flight"]);
    }
}
