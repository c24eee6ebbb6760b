//! Config of `process`: its defaults, its validation, and the child's command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brickwork::check_name;
use brickwork::config::{ByteSize, HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use super::child::SpawnOptions;

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

fn here() -> ManifestPath {
    ManifestPath(".".into())
}

fn inherited() -> Vec<String> {
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"]
        .map(str::to_owned)
        .into()
}

fn out() -> Vec<String> {
    vec!["out".to_owned()]
}

fn sixteen() -> usize {
    16
}

fn two_mib() -> ByteSize {
    ByteSize(2 << 20)
}

fn five_seconds() -> HumanDuration {
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
            in_flight: sixteen(),
            line_max: two_mib(),
            stop_timeout: five_seconds(),
        }
    }
}

impl ProcessConfig {
    /// How to start a child of the service.
    ///
    /// # Errors
    /// The command is empty, or the working directory of this program is unknown.
    pub(super) fn spawn_options(&self, service: &str) -> Result<SpawnOptions, Failure> {
        // The child resolves relative paths in its own working directory.
        let dir = std::path::absolute(&*self.dir)?;
        let [program, args @ ..] = &self.command[..] else {
            return Err(Failure::reject("command names no program"));
        };
        let program = match program.contains('/') {
            true => dir.join(Path::new(program)),
            false => PathBuf::from(program),
        };
        let inherited = self.inherit_env.iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some((name.clone(), value))
        });
        let own = self.env.iter();
        let own = own.map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        Ok(SpawnOptions {
            service: service.to_owned(),
            program,
            args: args.to_vec(),
            dir,
            env: inherited.chain(own).collect(),
            outputs: self.outputs.clone(),
            line_bytes_max: usize::try_from(self.line_max.0).unwrap_or(usize::MAX),
        })
    }

    /// All errors in the config.
    pub(super) fn errors(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut error = |path: String, text: String| errors.push(ConfigError::new(path, text));
        match self.command.first() {
            None => error("command".into(), "it names no program".into()),
            Some(program) if program.is_empty() => {
                error(
                    "command.0".into(),
                    "the name of the program is empty".into(),
                );
            }
            Some(_) => {}
        }
        for (number, part) in self.command.iter().enumerate() {
            if part.contains('\0') {
                let text = "an argument can't contain a zero byte";
                error(format!("command.{number}"), text.into());
            }
        }
        for (name, value) in &self.env {
            if value.reveal().contains('\0') {
                let text = "a variable can't contain a zero byte";
                error(format!("env.{name}"), text.into());
            }
        }
        let inherited = self.inherit_env.iter().enumerate();
        let inherited = inherited.map(|(number, name)| (format!("inherit_env.{number}"), name));
        let own = self.env.keys().map(|name| (format!("env.{name}"), name));
        for (path, name) in own.chain(inherited) {
            if name.is_empty() || name.contains(['=', '\0']) {
                error(path, format!("{name:?} can't be the name of a variable"));
            }
        }
        for (number, name) in self.outputs.iter().enumerate() {
            let path = format!("outputs.{number}");
            if let Err(invalid) = check_name(name) {
                let text = format!("{name:?} can't be the name of an output: {invalid}");
                error(path, text);
            } else if self.outputs[..number].contains(name) {
                error(path, format!("the output {name:?} is named twice"));
            }
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            let text = format!("a child has 1 to {IN_FLIGHT_MAX} messages in flight");
            error("in_flight".into(), text);
        }
        let line_max = 1 << 10..=1 << 30;
        if !line_max.contains(&self.line_max.0) {
            error("line_max".into(), "a line may have 1KiB to 1GiB".into());
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
            "outputs.1",
            "outputs.2",
            "in_flight",
            "line_max",
        ];
        assert_eq!(paths, expected);
        assert_eq!(config(json!({"command": []})).errors()[0].path, "command");
        assert!(config(json!({"command": ["true"]})).errors().is_empty());
    }

    #[test]
    fn a_program_with_a_slash_is_relative_to_the_folder() {
        let program = |program: &str| {
            let config = config(json!({"command": [program, "x"], "dir": "/a/b"}));
            config.spawn_options("s").unwrap().program
        };
        assert_eq!(program("./c"), Path::new("/a/b/./c"));
        assert_eq!(program("/bin/c"), Path::new("/bin/c"));
        assert_eq!(program("c"), Path::new("c"));
    }

    #[test]
    fn a_child_gets_the_variables_that_the_config_names_and_no_others() {
        let config = config(json!({
            "command": ["c"],
            "env": {"TOKEN": "hunter2", "PATH": "/only"},
            "inherit_env": ["PATH", "CARGO_PKG_NAME", "NOT_THERE_AT_ALL"],
        }));
        let options = config.spawn_options("s").unwrap();
        let env: BTreeMap<_, _> = options.env.into_iter().collect();
        let expected = [("PATH", "/only"), ("TOKEN", "hunter2")];
        let mut expected: BTreeMap<String, String> = expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        if let Ok(name) = std::env::var("CARGO_PKG_NAME") {
            expected.insert("CARGO_PKG_NAME".to_owned(), name);
        }
        assert_eq!(env, expected);
    }
}
