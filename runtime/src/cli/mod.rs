//! The command line, the same for every program built with this runtime.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or manifest.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use clap::{Args, Parser, Subcommand};

use crate::child_process::RespawnCommand;
use crate::manifest;
use crate::service::Catalog;
use crate::stderr::{self, error_line};
use crate::transport::Transports;

mod check;
mod child;
mod connection;
mod describe;
mod dlq;
#[cfg(feature = "store")]
mod entities;
mod export;
mod list;
mod positions;
mod prune;
mod run;
mod signals;
mod stop;
mod trace;
mod watch;

/// Exit code: success.
const DONE: u8 = 0;
/// Exit code: failure.
const FAILED: u8 = 1;
/// Exit code: wrong usage or manifest.
const WRONG: u8 = 2;

/// Applications assembled from small supervised services.
#[derive(Parser)]
#[command(
    version,
    about,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run an app until it is stopped
    ///
    /// Ctrl-C, SIGTERM and `brickwork stop` stop it in order. A second Ctrl-C stops it at once.
    ///
    /// Example: brickwork run app.toml --with production.toml
    Run(run::Run),
    /// Validate a manifest, and optionally its transport, without running it
    ///
    /// Exit code 0: valid, perhaps with warnings; 1: the transport has problems; 2: the manifest
    /// has problems.
    ///
    /// Example: brickwork check app.toml --connect
    Check(check::Check),
    /// List the service types of this program
    List(list::List),
    /// Describe a service type: ports, config, failures, example
    ///
    /// Example: brickwork describe file-in
    Describe(describe::Describe),
    /// List, show, replay, discard and export dead letters
    ///
    /// On a transport that processes share, such as amqp:, the app may run or not. On other
    /// transports the running app does the work, asked over the control socket in its data
    /// folder. If it does not run, the files of a durable transport are used.
    Dlq(dlq::Dlq),
    /// List, show and evict the entities of a service
    ///
    /// The entities are in the service's store, which lies in the app's data folder on the machine
    /// that runs the service. The app may run or not.
    #[cfg(feature = "store")]
    Entities(entities::Entities),
    /// Show or set the positions of sources: how far each one has read
    ///
    /// Positions are kept on a durable transport, in the folder `positions` in the app's data folder
    /// on the machine that runs the source. Setting them needs a stopped app.
    ///
    /// Example: brickwork positions app.toml intake --reset
    Positions(positions::PositionsArgs),
    /// Write a description of an app in a format of other tools
    ///
    /// Example: brickwork export openapi app.toml > openapi.json
    Export(export::Export),
    /// Trace a message: the services that handled it, the messages it led to, their states
    ///
    /// A running app is asked over the control socket in its data folder. It looks into the
    /// last attempts of its services, queues, messages in flight, dead letters, and the inboxes
    /// and outboxes of stores. If the app does not run, its files are read and not changed.
    /// Exit code 0: the message is known; 1: it is not known; 2: wrong usage.
    ///
    /// Example: brickwork trace app.toml order-17
    Trace(trace::TraceArgs),
    /// Remove queues and bindings that earlier manifests of the app left on its transport
    ///
    /// These are queues of removed services and inputs, and bindings to topics that are no
    /// longer read. Without --yes, prints them and changes nothing. Use it when no older version
    /// of the app will run again.
    ///
    /// Example: brickwork prune app.toml --yes
    Prune(prune::Prune),
    /// Stop a running app in order, and wait until it has stopped
    ///
    /// Asks the app over the control socket in its data folder.
    Stop(stop::Stop),
}

/// The manifest and its overlays.
#[derive(Args)]
struct ManifestArgs {
    /// Path of the manifest
    #[arg(value_name = "APP.toml")]
    manifest: PathBuf,
    /// Merge another manifest into it: tables merge, values replace; may be repeated
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Use this transport instead of the manifest's, such as amqp://localhost
    #[arg(
        long,
        value_name = "URL",
        env = "BRICKWORK_TRANSPORT",
        hide_env_values = true
    )]
    transport: Option<String>,
}

/// A part of the services.
#[derive(Args)]
struct OnlyArgs {
    /// Run only these services in this process, separated by commas [default: all]
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    only: Vec<String>,
}

impl ManifestArgs {
    /// Loads the plan of an app to be started, and the warnings.
    fn load_with_warnings(
        &self,
        only: &[String],
        catalog: &Catalog,
        transports: &Transports,
    ) -> Result<(crate::Plan, manifest::Report), manifest::Report> {
        let options = manifest::Options {
            only: only.to_vec(),
            ..self.options()
        };
        manifest::load_with_warnings(&self.manifest, &options, catalog, transports)
    }

    /// Loads the plan of an app that this process does not start.
    fn load_to_ask(
        &self,
        catalog: &Catalog,
        transports: &Transports,
    ) -> Result<crate::Plan, manifest::Report> {
        let options = manifest::Options {
            starts: false,
            ..self.options()
        };
        manifest::load(&self.manifest, &options, catalog, transports)
    }

    fn options(&self) -> manifest::Options {
        manifest::Options {
            overlays: self.with.clone(),
            transport: self.transport.clone(),
            ..manifest::Options::default()
        }
    }

    /// The command that starts this program again with this manifest.
    fn program(&self) -> std::io::Result<RespawnCommand> {
        RespawnCommand::current(
            self.manifest.clone(),
            self.with.clone(),
            self.transport.clone(),
        )
    }
}

/// Runs the command line with a catalog and transports: the `main` of a program.
///
/// ```no_run
/// use brickwork::{Catalog, cli, transport::Transports};
///
/// fn main() -> std::process::ExitCode {
///     cli::main(Catalog::new(), Transports::new())
/// }
/// ```
pub fn main(catalog: Catalog, transports: Transports) -> ExitCode {
    // On --help and on wrong usage, prints and exits with 0 or 2.
    let line = CommandLine::parse();
    let code = match line.verb {
        Verb::Run(run) => run.execute(&catalog, &transports),
        Verb::Check(check) => check.execute(&catalog, &transports),
        Verb::List(list) => list.execute(&catalog),
        Verb::Describe(describe) => describe.execute(&catalog),
        Verb::Dlq(dlq) => dlq.execute(&catalog, &transports),
        #[cfg(feature = "store")]
        Verb::Entities(entities) => entities.execute(&catalog, &transports),
        Verb::Positions(positions) => positions.execute(&catalog, &transports),
        Verb::Export(export) => export.execute(&catalog, &transports),
        Verb::Trace(trace) => trace.execute(&catalog, &transports),
        Verb::Prune(prune) => prune.execute(&catalog, &transports),
        Verb::Stop(stop) => stop.execute(&catalog, &transports),
    };
    crate::stderr::flush();
    let lost = code == DONE && OUTPUT_IS_LOST.load(Relaxed);
    ExitCode::from(if lost { FAILED } else { code })
}

/// Whether standard output can no longer be written.
static STDOUT_IS_GONE: AtomicBool = AtomicBool::new(false);
/// Whether output was lost that a reader may still expect.
static OUTPUT_IS_LOST: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. After a first failure, later texts are skipped. A closed reader, as
/// in `brickwork list | head -1`, is no error; any other failure makes the exit code [`FAILED`]
/// in place of [`DONE`].
fn print(text: &str) {
    use std::io::Write;
    if STDOUT_IS_GONE.load(Relaxed) {
        return;
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written {
        STDOUT_IS_GONE.store(true, Relaxed);
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            OUTPUT_IS_LOST.store(true, Relaxed);
            error_line!("error: can't write to standard output: {error}");
        }
    }
}

/// A value as indented JSON with a newline at the end. Control characters are escaped: texts of
/// foreign messages may reach a terminal.
fn to_json(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string_pretty(value).expect("the values of verbs are plain data");
    crate::log::visible_json(&json) + "\n"
}

fn print_json(value: &impl serde::Serialize) {
    print(&to_json(value));
}

/// A text on one line, with control characters escaped.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    crate::log::push_visible(&mut line, text);
    line
}

/// Runs a future on a runtime in this thread.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

/// Prints the problems of a manifest.
fn print_report(report: &manifest::Report, json: bool) -> u8 {
    if json {
        print_json(report);
    } else {
        stderr::write(&report.render(std::io::stderr().is_terminal()));
    }
    WRONG
}
