//! `stop`: asks a running app, by its control socket, to stop in order.

use super::{DONE, FAILED, ManifestArgs, print, print_report};
use crate::service::Catalog;
use crate::transport::Transports;

#[derive(clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    manifest: ManifestArgs,
}

impl Stop {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.manifest.load(catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        match crate::control::request(plan.data(), "stop") {
            Ok(_) => {
                print(&format!("{} is stopping\n", plan.name()));
                DONE
            }
            Err(error) => {
                eprintln!("{}: {error}", plan.name());
                FAILED
            }
        }
    }
}
