//! `stop`: stops a running app in order, over its control socket.

use std::time::Duration;

use super::{DONE, FAILED, ManifestArgs, block_on, print, print_report};
use crate::control;
use crate::service::Catalog;
use crate::stderr::error_line;
use crate::transport::Transports;

/// Time beyond `app.shutdown_timeout` that the end of an app may take.
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
        let stopped = block_on(control::stop(plan.data(), plan.shutdown_timeout + GRACE));
        let failure = match stopped {
            Ok(Ok(true)) => {
                print(&format!("{} has stopped\n", plan.name()));
                return DONE;
            }
            Ok(Ok(false)) => "was asked to stop, but still runs: see its log".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        error_line!("{}: {failure}", plan.name());
        FAILED
    }
}
