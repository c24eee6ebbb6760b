//! The command of a child: its config, its validation, and its start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use brickwork::check_name;
use brickwork::config::{ByteSize, Secret};
use brickwork::prelude::*;
use brickwork::process::{ChildPipes, ProcessGroup};

/// The parts of a config that every type with a child has.
pub(super) struct CommandConfig<'a> {
    pub(super) command: &'a [String],
    pub(super) dir: &'a Path,
    pub(super) env: &'a BTreeMap<String, Secret>,
    pub(super) inherit_env: &'a [String],
    pub(super) line_max: ByteSize,
}

/// How the children of a service are started, and the limit of their lines.
pub(super) struct SpawnOptions {
    pub(super) service: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) dir: PathBuf,
    /// The whole environment of the child.
    pub(super) env: Vec<(String, String)>,
    pub(super) line_bytes_max: usize,
}

impl SpawnOptions {
    /// Starts a child as the leader of a process group.
    ///
    /// # Errors
    /// The child can't be started.
    pub(super) fn spawn(&self) -> Result<(ProcessGroup, ChildPipes), Failure> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        ProcessGroup::spawn_piped(command, &self.service).map_err(|error| {
            let (program, dir) = (self.program.display(), self.dir.display());
            Failure::retry(format!("can't start {program} in {dir}: {error}"))
        })
    }
}

impl CommandConfig<'_> {
    /// How to start a child of the service.
    ///
    /// # Errors
    /// The command is empty, or the working directory of this program is unknown.
    pub(super) fn spawn_options(&self, service: &str) -> Result<SpawnOptions, Failure> {
        // The child resolves relative paths in its own working directory.
        let dir = std::path::absolute(self.dir)?;
        let [program, args @ ..] = self.command else {
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
            line_bytes_max: usize::try_from(self.line_max.0).unwrap_or(usize::MAX),
        })
    }

    /// Returns every error in these parts.
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
        for (name, value) in self.env {
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
        let line_max = 1 << 10..=1 << 30;
        if !line_max.contains(&self.line_max.0) {
            error("line_max".into(), "a line may have 1KiB to 1GiB".into());
        }
        errors
    }
}

/// The errors in a list of ports, which must differ from each other and from `others`.
pub(super) fn port_errors(field: &str, ports: &[String], others: &[String]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (number, name) in ports.iter().enumerate() {
        let path = format!("{field}.{number}");
        if let Err(invalid) = check_name(name) {
            let text = format!("{name:?} can't be the name of a port: {invalid}");
            errors.push(ConfigError::new(path, text));
        } else if ports[..number].contains(name) || others.contains(name) {
            let text = format!("the port {name:?} is named twice");
            errors.push(ConfigError::new(path, text));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ProcessConfig;
    use super::*;

    fn config(config: Value) -> ProcessConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn a_program_with_a_slash_is_relative_to_the_folder() {
        let program = |program: &str| {
            let config = config(json!({"command": [program, "x"], "dir": "/a/b"}));
            config.command().spawn_options("s").unwrap().program
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
        let options = config.command().spawn_options("s").unwrap();
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
