//! Which RabbitMQ tests start.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names another RabbitMQ than the machine's.
const VARIABLE: &str = "BRICKWORK_RABBITMQ";

/// Where Debian has the scripts that don't insist on a user and its folders.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Goes into the root of another Debian, `$0`, in a mount namespace of its own. A broker
/// knows by `/proc` how much memory there is; nothing stays mounted.
pub(super) const ENTER: &str = r#"mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;

/// A RabbitMQ: the machine's, or the one that the environment variable
/// `BRICKWORK_RABBITMQ` names. That is the folder with its scripts, such as `sbin` of the
/// generic archive, or the root of another Debian, into which only root can go.
#[derive(Debug, Clone)]
pub struct Installation {
    /// As they are named inside.
    scripts: PathBuf,
    /// The root of another Debian.
    root: Option<PathBuf>,
}

impl Installation {
    /// # Panics
    /// There is none, or none where the variable says.
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

    /// The root of another Debian, if it is in one.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// A script, as it is named inside.
    pub fn script(&self, name: &str) -> PathBuf {
        self.scripts.join(name)
    }

    /// A command that runs a script.
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

    /// Where folders can be made that it can use.
    pub fn temporary_folder(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join("tmp"),
            None => std::env::temp_dir(),
        }
    }

    /// What a folder is called inside.
    pub fn inside(&self, folder: &Path) -> PathBuf {
        let root = self.root.as_ref();
        match root.and_then(|root| folder.strip_prefix(root).ok()) {
            Some(inside) => Path::new("/").join(inside),
            None => folder.to_owned(),
        }
    }
}
