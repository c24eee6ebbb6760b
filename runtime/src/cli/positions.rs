//! `positions`: shows, sets and removes the positions of sources.
//!
//! Reading needs no lock: a position file is replaced as a whole. Setting holds the lock of the
//! data folder, so that no app runs or starts meanwhile.

use serde::Serialize;
use serde_json::Value;

use super::{DONE, FAILED, ManifestArgs, WRONG, one_line, print, print_json, print_report};
use crate::app::Plan;
use crate::control;
use crate::lock::Lock;
use crate::manifest::suggest;
use crate::position::Positions;
use crate::service::{Catalog, Kind};
use crate::stderr::error_line;
use crate::transport::Transports;

/// Arguments of `positions`.
#[derive(clap::Args)]
pub(super) struct PositionsArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Label of a source [default: all]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Replace the position by this JSON, in the form that the verb shows; the app must not run
    #[arg(
        long,
        value_name = "JSON",
        requires = "service",
        conflicts_with = "reset"
    )]
    set: Option<String>,
    /// Remove the position: the source starts from its beginning; the app must not run
    #[arg(long, requires = "service")]
    reset: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The position of a source.
#[derive(Serialize)]
struct Shown {
    service: String,
    #[serde(rename = "use")]
    service_type: &'static str,
    /// `None` if none was saved.
    position: Option<Value>,
}

impl PositionsArgs {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let plan = match self.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, self.json),
            Ok(plan) => plan,
        };
        if let Some(service) = &self.service
            && let Err(text) = check_source(&plan, service)
        {
            error_line!("error: {text}");
            return WRONG;
        }
        match self.run(&plan) {
            Ok(()) => DONE,
            Err(text) => {
                error_line!("error: {}", one_line(&plan.redactor.clean(&text)));
                FAILED
            }
        }
    }

    fn run(&self, plan: &Plan) -> Result<(), String> {
        let positions = Positions::new(plan.data(), &plan.name);
        if let Some(service) = &self.service
            && (self.set.is_some() || self.reset)
        {
            self.replace(plan, &positions, service)?;
        }
        let sources = plan.services.iter().filter(|it| {
            is_source(it.blueprint.role())
                && self.service.as_deref().is_none_or(|of| of == &*it.label)
        });
        let shown = sources.map(|source| {
            let position = positions.load(&source.label);
            Ok(Shown {
                service: source.label.to_string(),
                service_type: source.service_type,
                position: position.map_err(|error| error.to_string())?,
            })
        });
        let shown: Vec<Shown> = shown.collect::<Result<_, String>>()?;
        match self.json {
            true => print_json(&shown),
            false => print(&plan.redactor.clean(&text_of(&shown))),
        }
        Ok(())
    }

    /// Sets or removes a position while no app runs.
    fn replace(&self, plan: &Plan, positions: &Positions, service: &str) -> Result<(), String> {
        let position: Option<Value> = match &self.set {
            None => None,
            Some(text) => Some(
                serde_json::from_str(text)
                    .map_err(|error| format!("the value of --set is not JSON: {error}"))?,
            ),
        };
        let data = plan.data();
        let failed = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(data).map_err(failed)?;
        let taken = |owner: &str| {
            format!(
                "the app is running as {owner} with the data folder {}: stop it first, a running \
                 source replaces its position",
                data.display()
            )
        };
        let _lock = Lock::take(&control::app_lock_path(data), taken).map_err(failed)?;
        positions
            .replace(service, position.as_ref())
            .map_err(failed)
    }
}

fn is_source(kind: Kind<'_>) -> bool {
    matches!(kind, Kind::Source(_))
}

/// # Errors
/// The app has no such service, or it is no source.
fn check_source(plan: &Plan, service: &str) -> Result<(), String> {
    match plan.services.iter().find(|it| *it.label == *service) {
        Some(found) if is_source(found.blueprint.role()) => Ok(()),
        Some(_) => Err(format!(
            "the service {service} is no source: it has no position"
        )),
        None => {
            let labels = plan.services.iter().map(|it| &*it.label);
            let help = suggest::help(service, labels, "the services");
            let help = help.map(|help| format!("; {help}")).unwrap_or_default();
            Err(format!("the app has no service {service}{help}"))
        }
    }
}

fn text_of(shown: &[Shown]) -> String {
    let mut text = String::new();
    for source in shown {
        let position = match &source.position {
            None => "none saved".to_owned(),
            Some(position) => position.to_string(),
        };
        let line = format!("{} ({}): {position}", source.service, source.service_type);
        text.push_str(&one_line(&line));
        text.push('\n');
    }
    match text.is_empty() {
        true => "the app has no sources\n".to_owned(),
        false => text,
    }
}
