//! `run --supervised`: one service, in a child process of the app that supervises it.
//!
//! The child prints nothing on standard output and opens no socket. The parent watches and stops
//! it over the child's standard input; when that closes, the parent is gone and the child stops.

use super::DONE;
use super::run::failed;
use super::signals::StopSignals;
use crate::app::{App, Plan};
use crate::child_process::{GRACE, ParentConnection};
use crate::control::{lock_path, taken};
use crate::lock::Lock;
use crate::stderr;
use crate::transport::Transports;

/// The end of the process.
struct End {
    code: u8,
    /// Messages that were in flight when the time was over.
    abandoned: Vec<String>,
    /// Whether threads are left that may never end.
    stuck: bool,
}

impl End {
    /// The end before any service has started.
    fn early(code: u8) -> Self {
        Self {
            code,
            abandoned: Vec::new(),
            stuck: false,
        }
    }
}

/// Runs the one service of the plan that this process runs.
pub(super) async fn run(plan: Plan, transports: &Transports) -> u8 {
    let parent = match ParentConnection::from_stdin(plan.shutdown_timeout) {
        Ok(parent) => parent,
        Err(error) => return failed(&format!("no app supervises this process: {error}")),
    };
    let End {
        code,
        abandoned,
        stuck,
    } = serve(plan, transports, &parent).await;
    parent.finish(abandoned);
    if stuck {
        // A blocked thread can't be joined.
        stderr::exit(code);
    }
    code
}

async fn serve(plan: Plan, transports: &Transports, parent: &ParentConnection) -> End {
    let redactor = plan.redactor.clone();
    let shutdown_timeout = plan.shutdown_timeout;
    let Ok(mut signals) = StopSignals::listen() else {
        return End::early(failed("can't listen for signals"));
    };
    // Resolves with the time that stopping may take.
    let asked = async {
        tokio::select! {
            within = parent.asked_to_stop() => within,
            () = signals.next() => shutdown_timeout,
        }
    };
    tokio::pin!(asked);
    let opened = async {
        let lock = hold_data(&plan).await?;
        let app = App::open_supervised(plan, transports, parent).await;
        app.map(|app| (app, lock))
            .map_err(|error| error.to_string())
    };
    let opened = tokio::select! {
        biased;
        _ = &mut asked => return End::early(DONE),
        opened = opened => opened,
    };
    let (app, _lock) = match opened {
        Ok(opened) => opened,
        Err(error) => return End::early(failed(&redactor.clean(&error))),
    };
    let works = async {
        let started = async {
            app.start_services().await;
            std::future::pending::<String>().await
        };
        tokio::select! {
            why = started => why,
            why = app.transport_lost() => why,
            why = app.failed() => why,
        }
    };
    let (code, within) = tokio::select! {
        biased;
        within = &mut asked => (DONE, within),
        why = works => (failed(&redactor.clean(&why)), shutdown_timeout),
    };
    let report = app.stop_within(within).await;
    let stuck = report.is_stuck();
    let abandoned = report.abandoned.into_iter().map(|(_, message)| message);
    let unclosed = report.unclosed.into_iter();
    End {
        code,
        abandoned: abandoned.chain(unclosed).collect(),
        stuck,
    }
}

/// Waits until no other process runs this service with this data folder: a child whose parent
/// has crashed stops by itself.
async fn hold_data(plan: &Plan) -> Result<Lock, String> {
    let mut here = plan.services.iter().filter(|service| service.runs_here);
    let (Some(service), None) = (here.next(), here.next()) else {
        return Err("a child process runs one service".to_owned());
    };
    std::fs::create_dir_all(&plan.data).map_err(|error| {
        let data = plan.data.display();
        format!("can't make the data folder {data}: {error}")
    })?;
    let path = lock_path(&plan.data, &service.label);
    let within = plan.shutdown_timeout.saturating_add(5 * GRACE);
    let lock = Lock::wait(&path, within, |owner| taken(owner, &plan.data)).await;
    lock.map_err(|error| error.to_string())
}
