//! The service types `sql`, `sql-poll` and `mail-out` with private servers, through the shipped binary.
//!
//! | module | promises on |
//! | --- | --- |
//! | `killed` | each message once while app and database are killed |
//! | `mail` | `mail-out` |
//! | `polled` | tables that are polled |
//! | `queries` | queries, and values of each type |
//! | `refused` | wrong statements and passwords, outages, rows that the database refuses |
//! | `tls` | encrypted connections |
//! | `sqlite` | SQLite |

mod killed;
mod mail;
mod polled;
mod queries;
mod refused;
mod sqlite;
mod tls;

use std::path::Path;
use std::time::Duration;

use brickwork_tests::kept::Queues;
use brickwork_tests::parts;
use brickwork_tests::process::{Process, until};

/// Maximum time for an app to finish its work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Beginning of the manifests, with a source of lines.
pub(crate) const APP: &str = r#"
    [app]
    name = "shop"
    transport = "embedded:data/queues"
    [admin]
    listen = "off"
"#;

/// Runs the manifest of a folder until it has nothing left to do.
pub(crate) fn run_until_idle(folder: &Path) -> Process {
    let mut process = parts::run(folder, folder, &["--until-idle"]);
    let code = process.exit_code(PATIENCE);
    assert_eq!(code, Some(0), "{}", process.stderr());
    process
}

/// Error texts of the dead letters of a folder, with their payloads.
pub(crate) fn letters(folder: &Path) -> Vec<(String, serde_json::Value)> {
    let queues = Queues::open(&folder.join("data/queues")).expect("there are queues");
    queues.errors()
}

/// Waits until the log of a process has a text.
pub(crate) fn logged(process: &Process, text: &str) -> String {
    until(text, PATIENCE, || {
        let log = process.stderr();
        if log.contains(text) {
            Ok(log)
        } else {
            Err(log)
        }
    })
}

/// Stops an app as an operator does, so that its position is saved.
pub(crate) fn stop_gracefully(mut app: Process) {
    let told = std::process::Command::new("kill")
        .arg(app.id().to_string())
        .status();
    assert!(told.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
}
