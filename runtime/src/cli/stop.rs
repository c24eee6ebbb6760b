//! `stop`: asks a running app, by its control socket, to stop in order.

use std::time::Duration;

use super::{DONE, FAILED, ManifestArgs, print, print_report};
use crate::service::Catalog;
use crate::transport::Transports;

/// What stopping may take beyond `app.shutdown_timeout`.
const GRACE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    manifest: ManifestArgs,
}

impl Stop {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        // The app gives itself `shutdown_timeout`; what comes after takes moments, or runs
        // into deadlines of its own.
        match crate::control::stop(plan.data(), plan.shutdown_timeout + GRACE) {
            Ok(true) => {
                print(&format!("{} has stopped\n", plan.name()));
                DONE
            }
            Ok(false) => {
                eprintln!(
                    "{} was told to stop, but still runs: see its log",
                    plan.name()
                );
                FAILED
            }
            Err(error) => {
                eprintln!("{}: {error}", plan.name());
                FAILED
            }
        }
    }
}
