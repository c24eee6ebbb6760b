//! `run`: starts an app, waits until it is to stop, and stops it in order.

use std::rc::Rc;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::watch::{self, Watch, restart_needed};
use super::{DONE, FAILED, ManifestArgs, OnlyArgs, child, print, print_json, print_report};
use crate::app::{App, Plan, StopReport};
use crate::child_process::RespawnCommand;
use crate::service::Catalog;
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
    Idle,
    Asked,
    TransportLost(String),
    /// The root supervisor gave up.
    Failed(String),
    /// A watched file has changed.
    Changed,
}

impl Run {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let program = match self.manifest.program() {
            Err(error) => return failed(&format!("can't find the path of this program: {error}")),
            Ok(program) => program,
        };
        // Before reading the manifest, so that no change is missed.
        let mut watch = self.watch.then(|| Watch::new(&program));
        let mut plan = match self.manifest.load(&self.only.only, catalog, transports) {
            Err(report) => return print_report(&report, self.json),
            Ok(plan) => plan,
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
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        );
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            eprintln!("can't listen for signals");
            return FAILED;
        };
        let asked = Arc::new(Notify::new());
        let program = Rc::new(program);
        let opened = App::open(plan, transports, program.clone(), {
            let asked = asked.clone();
            move || asked.notify_one()
        });
        let app = tokio::select! {
            app = opened => app,
            // No service has started.
            () = either(&mut terminate, &mut interrupt) => return stopped_early(),
        };
        let app = match app {
            Ok(app) => app,
            Err(error) => return failed(&redactor.clean(&error.to_string())),
        };
        let durable = app.transport().guarantees().durable;
        let mut early = None;
        tokio::select! {
            () = app.start_services() => {}
            () = either(&mut terminate, &mut interrupt) => early = Some(None),
            () = asked.notified() => early = Some(None),
            why = app.transport_lost() => early = Some(Some(why)),
            why = app.failed() => early = Some(Some(why)),
        }
        if let Some(why) = early {
            // Some services may have started.
            let report = tokio::select! {
                report = app.stop() => report,
                () = either(&mut terminate, &mut interrupt) => stopped_at_once(),
            };
            eprint!("{}", leftovers(&report, durable));
            let code = match why {
                Some(why) => failed(&redactor.clean(&why)),
                None => stopped_early(),
            };
            if report.is_stuck() {
                std::process::exit(i32::from(code));
            }
            return code;
        }
        if !self.json {
            print(&banner(&app));
        }
        let end = tokio::select! {
            () = app.idle(), if self.until_idle => End::Idle,
            () = either(&mut terminate, &mut interrupt) => End::Asked,
            () = asked.notified() => End::Asked,
            why = app.transport_lost() => End::TransportLost(why),
            why = app.failed() => End::Failed(why),
            () = restart_needed(watch, &program, &self.only.only) => End::Changed,
        };
        let gave_up = app.gave_up();
        let not_ready = app.not_ready();
        let report = tokio::select! {
            report = app.stop() => report,
            () = either(&mut terminate, &mut interrupt) => stopped_at_once(),
        };
        let summary = &report.summary;
        if self.json {
            print_json(summary);
        } else {
            print(&format!("\n{}", summary.table()));
        }
        eprint!("{}", leftovers(&report, durable));
        let mut code = match &end {
            End::TransportLost(why) | End::Failed(why) => failed(&redactor.clean(why)),
            End::Idle | End::Asked | End::Changed => DONE,
        };
        if matches!(end, End::Changed) {
            // This ends threads that handlers block, too.
            let error = watch::restart(program.path());
            return failed(&format!("can't restart: {error}"));
        }
        if matches!(end, End::Idle) && !not_ready.is_empty() {
            code = failed(&redactor.clean(&not_ready.join("; ")));
        }
        if self.until_idle && !gave_up.is_empty() {
            code = failed(&format!(
                "isolated, or down for good: {}",
                gave_up.join(", ")
            ));
        }
        if self.fail_on_dlq && summary.dead_letters() > 0 {
            code = failed(&format!("dead-lettered: {}", summary.dead_letters()));
        }
        if report.is_stuck() {
            // A blocked thread can't be joined.
            std::process::exit(i32::from(code));
        }
        code
    }
}

pub(super) async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn stopped_at_once() -> ! {
    eprintln!("stopped at once: messages in flight were abandoned");
    std::process::exit(i32::from(FAILED));
}

fn stopped_early() -> u8 {
    eprintln!("stopped while starting");
    DONE
}

pub(super) fn failed(text: &str) -> u8 {
    eprintln!("error: {text}");
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
