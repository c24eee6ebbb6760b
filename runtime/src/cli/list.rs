//! `list`: prints the catalog.

use super::{DONE, print, print_json};
use crate::service::{Catalog, Descriptor};

#[derive(clap::Args)]
pub(super) struct List {
    /// Print the descriptors as JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn execute(&self, catalog: &Catalog) -> u8 {
        let all: Vec<Descriptor> = catalog.iter().map(|entry| entry.describe()).collect();
        if self.json {
            print_json(&all);
            return DONE;
        }
        let width = all.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for entry in &all {
            text.push_str(&format!(
                "{:<width$}  {:<7}  {}\n",
                entry.name, entry.role, entry.summary
            ));
        }
        print(&text);
        DONE
    }
}
