//! `export`: writes a description of an app in a format of other tools.

use clap::Subcommand;

use super::{DONE, ManifestArgs, WRONG, print_json, print_report};
use crate::service::Catalog;
use crate::stderr::error_line;
use crate::transport::Transports;

mod openapi;

#[derive(clap::Args)]
pub(super) struct Export {
    #[command(subcommand)]
    format: Format,
}

#[derive(Subcommand)]
enum Format {
    /// The HTTP API of an app as OpenAPI 3.1, in JSON
    ///
    /// The routes and their answers come from the sources that serve HTTP, such as http-in. The
    /// schemas of bodies come from the inputs that read their messages; a body that only services
    /// without a schema read, such as map, has none.
    ///
    /// Example: brickwork export openapi app.toml > openapi.json
    Openapi(OpenApi),
}

#[derive(clap::Args)]
struct OpenApi {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Describe the routes of this service only
    #[arg(long, value_name = "LABEL")]
    service: Option<String>,
    /// URL by which callers reach the API [default: the address that the service listens on]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Version of the API
    #[arg(long, value_name = "VERSION", default_value = "1")]
    api_version: String,
}

impl Export {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let Format::Openapi(args) = &self.format;
        let plan = match args.manifest.load_to_ask(catalog, transports) {
            Ok(plan) => plan,
            Err(report) => return print_report(&report, false),
        };
        let options = openapi::Options {
            service: args.service.as_deref(),
            server: args.server.as_deref(),
            version: &args.api_version,
        };
        match openapi::document(&plan, &options) {
            Ok(document) => {
                print_json(&document);
                DONE
            }
            Err(text) => {
                error_line!("error: {text}");
                WRONG
            }
        }
    }
}
