//! The RabbitMQ that the tests start.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable that names another RabbitMQ than the one of this machine.
const VARIABLE: &str = "BRICKWORK_RABBITMQ";

/// Debian's folder of the scripts that need no special user or folders.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Enters the root of another Debian, `$0`, in a mount namespace of its own, so that no mount
/// remains. The broker reads from `/proc` how much memory there is.
pub(super) const ENTER: &str = r#"mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;

/// The RabbitMQ of this machine, or the one that the environment variable `BRICKWORK_RABBITMQ`
/// names: the folder with its scripts, such as `sbin` of the generic archive, or the root of
/// another Debian, which only root can enter.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Folder of the scripts, as seen from inside the root.
    scripts: PathBuf,
    /// The root of another Debian.
    root: Option<PathBuf>,
}

impl Installation {
    /// Finds the installation.
    ///
    /// # Panics
    /// If there is no RabbitMQ, or none at the place that the variable names.
    pub fn find() -> Self {
        let has_it = |folder: &Path| folder.join("rabbitmq-server").is_file();
        if let Some(named) = std::env::var_os(VARIABLE) {
            let named = PathBuf::from(named);
            if has_it(&named) {
                return Self {
                    scripts: named,
                    root: None,
                };
            }
            let inside = named.join(SCRIPTS.trim_start_matches('/'));
            assert!(
                has_it(&inside),
                "{VARIABLE}={}: no RabbitMQ",
                named.display()
            );
            return Self {
                scripts: SCRIPTS.into(),
                root: Some(named),
            };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let debian = Path::new(SCRIPTS).to_owned();
        let mut candidates = std::iter::once(debian).chain(std::env::split_paths(&path));
        let scripts = candidates.find(|folder| has_it(folder)).expect(
            "tests of amqp: need a RabbitMQ on this machine: apt-get install rabbitmq-server",
        );
        Self {
            scripts,
            root: None,
        }
    }

    /// Returns the root of the other Debian, if the installation is in one.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Returns the path of a script, as seen from inside the root.
    pub fn script(&self, name: &str) -> PathBuf {
        self.scripts.join(name)
    }

    /// Returns a command that runs a script.
    pub fn command(&self, script: &str) -> Command {
        let script = self.script(script);
        let Some(root) = &self.root else {
            return Command::new(script);
        };
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER])
            .args([root, &script]);
        command
    }

    /// Returns the folder for temporary folders that the installation can reach.
    pub fn temporary_folder(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join("tmp"),
            None => std::env::temp_dir(),
        }
    }

    /// Returns the path of a folder, as seen from inside the root.
    pub fn inside(&self, folder: &Path) -> PathBuf {
        let root = self.root.as_ref();
        match root.and_then(|root| folder.strip_prefix(root).ok()) {
            Some(inside) => Path::new("/").join(inside),
            None => folder.to_owned(),
        }
    }
}
