//! `check`: everything that can be known of a manifest without running it.

use super::{DONE, ManifestArgs, OnlyArgs, print, print_json, print_report};
use crate::service::Catalog;
use crate::transport::Transports;

#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    manifest: ManifestArgs,
    #[command(flatten)]
    only: OnlyArgs,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        match self.manifest.load(&self.only.only, catalog, transports) {
            Err(report) => print_report(&report, self.json),
            Ok(plan) => {
                if self.json {
                    print_json(&serde_json::json!({ "app": plan.name(), "problems": [] }));
                } else {
                    let services = plan.services.len();
                    print(&format!(
                        "{}: {services} services, nothing wrong\n",
                        plan.name()
                    ));
                }
                DONE
            }
        }
    }
}
