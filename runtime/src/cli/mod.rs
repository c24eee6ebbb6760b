//! The command line: every program built with this runtime has the same one.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or manifest.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::child_process::RespawnCommand;
use crate::manifest;
use crate::service::Catalog;
use crate::transport::Transports;

mod check;
mod child;
mod describe;
mod dlq;
mod list;
mod prune;
mod run;
mod stop;
mod trace;
mod watch;

/// Done.
const DONE: u8 = 0;
/// Failed.
const FAILED: u8 = 1;
/// Wrong usage, or a wrong manifest.
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
    /// Start an app and keep it running until it is stopped
    Run(run::Run),
    /// Say everything that is wrong with a manifest, without running it
    Check(check::Check),
    /// List the service types that this program offers
    List(list::List),
    /// Describe one service type: config, ports, example
    Describe(describe::Describe),
    /// Look at dead letters, replay them, discard them, make test cases of them
    ///
    /// Over a transport that processes share, such as amqp:, this works beside the app or
    /// without it. Otherwise the running app does it, told over the control socket in its
    /// data folder; of an app that doesn't run, the files of a durable transport are worked
    /// on.
    Dlq(dlq::Dlq),
    /// Follow a message: where it went, what became of it, what it led to, where that is now
    ///
    /// Ids of messages are made of those that they came of, so a message's way can be found
    /// from its id alone. The running app is asked over the control socket in its data
    /// folder: what its services handled lately, what is in queues and in hand, dead letters,
    /// inboxes and outboxes of stores. Of an app that doesn't run, files are read, and not
    /// changed. Exit code 0: something is known; 1: nothing is; 2: wrong usage.
    Trace(trace::TraceArgs),
    /// Remove what earlier manifests of the app left on its transport
    Prune(prune::Prune),
    /// Stop a running app in order
    Stop(stop::Stop),
}

/// Which manifest, and what is laid over it.
#[derive(Args)]
struct ManifestArgs {
    /// The manifest
    #[arg(value_name = "APP.toml")]
    manifest: PathBuf,
    /// Lay another manifest over it: tables merge, values replace
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Use this transport instead of the manifest's
    #[arg(
        long,
        value_name = "URL",
        env = "BRICKWORK_TRANSPORT",
        hide_env_values = true
    )]
    transport: Option<String>,
}

/// Which services.
#[derive(Args)]
struct OnlyArgs {
    /// Run only these services in this process; others run the rest
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    only: Vec<String>,
}

impl ManifestArgs {
    /// The plan of what is to be started.
    fn load(
        &self,
        only: &[String],
        catalog: &Catalog,
        transports: &Transports,
    ) -> Result<crate::Plan, manifest::Report> {
        let options = manifest::Options {
            only: only.to_vec(),
            ..self.options()
        };
        manifest::load(&self.manifest, &options, catalog, transports)
    }

    /// The plan of what is only asked about, or asked.
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

    /// The program that runs, to be started again with this manifest.
    fn program(&self) -> std::io::Result<RespawnCommand> {
        RespawnCommand::current(
            self.manifest.clone(),
            self.with.clone(),
            self.transport.clone(),
        )
    }
}

/// Runs the command line over a catalog and transports: the whole `main` of a program.
///
/// ```no_run
/// use brickwork::{Catalog, cli, transport::Transports};
///
/// fn main() -> std::process::ExitCode {
///     cli::main(Catalog::new(), Transports::new())
/// }
/// ```
pub fn main(catalog: Catalog, transports: Transports) -> ExitCode {
    // Prints help, or what is wrong with the command line, and exits 0 or 2.
    let line = CommandLine::parse();
    let code = match line.verb {
        Verb::Run(run) => run.execute(&catalog, &transports),
        Verb::Check(check) => check.execute(&catalog, &transports),
        Verb::List(list) => list.execute(&catalog),
        Verb::Describe(describe) => describe.execute(&catalog),
        Verb::Dlq(dlq) => dlq.execute(&catalog, &transports),
        Verb::Trace(trace) => trace.execute(&catalog, &transports),
        Verb::Prune(prune) => prune.execute(&catalog, &transports),
        Verb::Stop(stop) => stop.execute(&catalog, &transports),
    };
    ExitCode::from(code)
}

/// Writes to standard output. A reader that went away (`brickwork list | head -1`) is
/// no error.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(i32::from(DONE));
    }
}

fn print_json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("what is printed is plain data");
    print(&format!("{text}\n"));
}

/// Says what is wrong with a manifest.
fn print_report(report: &manifest::Report, json: bool) -> u8 {
    if json {
        print_json(report);
    } else {
        eprint!("{}", report.render(std::io::stderr().is_terminal()));
    }
    WRONG
}
