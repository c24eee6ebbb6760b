//! `run`: starts an app, waits until it is to stop, and stops it in order.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::warn;

use super::signals::StopSignals;
use super::watch::{self, Watch, restart_needed};
use super::{DONE, FAILED, ManifestArgs, OnlyArgs, child, print, print_json, print_report};
use crate::app::{App, Plan, StopReport};
use crate::child_process::RespawnCommand;
use crate::manifest::Report;
use crate::service::Catalog;
use crate::stderr::{self, error_line};
use crate::transport::Transports;

#[derive(clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    manifest: ManifestArgs,
    #[command(flatten)]
    only: OnlyArgs,
    /// Stop when every finite source has ended and every message is handled, and print a
    /// summary
    #[arg(long)]
    until_idle: bool,
    /// With --until-idle: exit with 1 if a message was dead-lettered
    #[arg(long, requires = "until_idle")]
    fail_on_dlq: bool,
    /// With --until-idle: print the summary as JSON
    #[arg(long, requires = "until_idle")]
    json: bool,
    /// For development: restart when the manifest, a file that it names, or this program has
    /// changed
    #[arg(long, conflicts_with = "until_idle")]
    watch: bool,
    /// Run as a child process of an app, supervised over standard input
    #[arg(long, hide = true, requires = "only", conflicts_with_all = ["until_idle", "watch"])]
    supervised: bool,
}

/// Why the app stops.
enum End {
    /// Every message is handled.
    Idle,
    /// A signal, or a command over the control socket.
    Asked,
    /// The transport is lost, or the root supervisor gave up.
    Failed(String),
    /// A watched file has changed.
    Changed,
}

/// Logs the warnings of a manifest.
fn log_warnings(report: &Report) {
    for problem in report.problems() {
        let (code, warning) = (problem.code, &*problem.message);
        let place = format!("{}:{}:{}", problem.file, problem.line, problem.column);
        warn!(code, %place, warning, "the manifest has a warning, see brickwork check");
    }
}

impl Run {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let program = match self.manifest.program() {
            Err(error) => return failed(&format!("can't find the path of this program: {error}")),
            Ok(program) => program,
        };
        // Before reading the manifest, so that no change is missed.
        let mut watch = self.watch.then(|| Watch::new(&program));
        let loaded = self
            .manifest
            .load_with_warnings(&self.only.only, catalog, transports);
        let (mut plan, warnings) = match loaded {
            Err(report) => return print_report(&report, self.json),
            Ok(loaded) => loaded,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        crate::panic::install_hook();
        if let Some(watch) = &mut watch {
            watch.add(&plan.named);
        }
        let system = actix::System::new();
        if self.supervised {
            plan.supervise();
            return system.block_on(child::run(plan, transports));
        }
        // The parent of a child process has logged them.
        log_warnings(&warnings);
        system.block_on(self.run(plan, transports, program, watch))
    }

    async fn run(
        &self,
        plan: Plan,
        transports: &Transports,
        program: RespawnCommand,
        watch: Option<Watch>,
    ) -> u8 {
        let redactor = plan.redactor.clone();
        let Ok(mut signals) = StopSignals::listen() else {
            return failed("can't listen for signals");
        };
        let command = Arc::new(Notify::new());
        let program = Rc::new(program);
        let opened = App::open(plan, transports, program.clone(), {
            let command = command.clone();
            move || command.notify_one()
        });
        let app = tokio::select! {
            app = opened => app,
            // No service has started.
            () = signals.next() => return stopped_early(),
        };
        let app = match app {
            Ok(app) => app,
            Err(error) => return failed(&redactor.clean(&error.to_string())),
        };
        let durable = app.transport().guarantees().durable;
        let asked = async {
            tokio::select! {
                () = signals.next() => {}
                () = command.notified() => {}
            }
        };
        let restart = restart_needed(watch, &program, &self.only.only);
        let (has_started, end) = self.until_end(&app, asked, restart).await;
        let problems = self.problems(&app, &end);
        let report = tokio::select! {
            report = app.stop() => report,
            () = signals.next() => stopped_at_once(),
        };
        // A supervisor may give up while services start: others have worked by then.
        let has_worked = has_started || matches!(end, End::Failed(_));
        match (has_worked, self.json) {
            (true, true) => print_json(&report.summary),
            (true, false) => print(&format!("\n{}", report.summary.table())),
            (false, _) => {}
        }
        stderr::write(&leftovers(&report, durable));
        let mut code = match end {
            End::Failed(why) => failed(&redactor.clean(&why)),
            End::Asked if !has_started => stopped_early(),
            End::Idle | End::Asked => DONE,
            End::Changed => {
                // This ends threads that handlers block, too.
                let error = watch::restart(program.path());
                return failed(&format!("can't restart: {error}"));
            }
        };
        if has_started {
            for problem in &problems {
                code = failed(&redactor.clean(problem));
            }
            if self.fail_on_dlq && report.summary.dead_letters() > 0 {
                code = failed(&format!("dead-lettered: {}", report.summary.dead_letters()));
            }
        }
        if report.is_stuck() {
            // A blocked thread can't be joined.
            stderr::exit(code);
        }
        code
    }

    /// Starts the services and waits until the app is to stop. Returns whether all services
    /// were started, and the reason.
    async fn until_end(
        &self,
        app: &App,
        asked: impl Future<Output = ()>,
        restart: impl Future<Output = ()>,
    ) -> (bool, End) {
        let mut asked = pin!(asked);
        tokio::select! {
            () = app.start_services() => {}
            () = &mut asked => return (false, End::Asked),
            why = app.transport_lost() => return (false, End::Failed(why)),
            why = app.failed() => return (false, End::Failed(why)),
        }
        if !self.json {
            print(&banner(app));
        }
        let end = tokio::select! {
            () = app.idle(), if self.until_idle => End::Idle,
            () = asked => End::Asked,
            why = app.transport_lost() => End::Failed(why),
            why = app.failed() => End::Failed(why),
            () = restart => End::Changed,
        };
        (true, end)
    }

    /// The reasons why a run until idle has failed, read before the app stops.
    fn problems(&self, app: &App, end: &End) -> Vec<String> {
        let mut problems = Vec::new();
        let not_ready = app.not_ready();
        if matches!(end, End::Idle) && !not_ready.is_empty() {
            problems.push(not_ready.join("; "));
        }
        let gave_up = app.gave_up();
        if self.until_idle && !gave_up.is_empty() {
            problems.push(format!(
                "isolated, or down for good: {}",
                gave_up.join(", ")
            ));
        }
        problems
    }
}

fn stopped_at_once() -> ! {
    error_line!("stopped at once: messages in flight were abandoned");
    stderr::exit(FAILED)
}

fn stopped_early() -> u8 {
    error_line!("stopped while starting");
    DONE
}

pub(super) fn failed(text: &str) -> u8 {
    error_line!("error: {text}");
    FAILED
}

/// The lines printed at the start.
fn banner(app: &App) -> String {
    let services = app.services.len();
    let scheme = app.transport().scheme();
    let mut text = format!(
        "{} runs: {services} services on the transport {scheme}\n",
        app.name()
    );
    if !app.transport().guarantees().durable {
        text.push_str("  messages are lost with this process\n");
    }
    if let Some(address) = app.admin_address() {
        text.push_str(&format!("  look at http://{address}/\n"));
    }
    text
}

/// The lines printed at the end: abandoned and remaining messages.
fn leftovers(report: &StopReport, durable: bool) -> String {
    let mut text = String::new();
    for (service, message) in &report.abandoned {
        text.push_str(&format!("abandoned in {service}: {message}\n"));
    }
    for (queue, messages) in &report.left {
        let fate = if durable { "left in" } else { "lost with" };
        text.push_str(&format!("{fate} {queue}: {messages}\n"));
    }
    if report.stuck_threads > 0 {
        text.push_str(&format!(
            "threads blocked by handlers: {}\n",
            report.stuck_threads
        ));
    }
    for part in &report.unclosed {
        text.push_str(&format!("not closed in time: {part}\n"));
    }
    text
}
