//! The loop of a source: runs it, and runs it again when it fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{Instrument, info, info_span, warn};

use super::environment::Environment;
use super::guard::{Guard, Guarded, Timer};
use super::state::LastFailure;
use crate::metrics::Cause;
use crate::service::{Blueprint, Outlet, Role, Run};
use crate::supervision::{History, Restart};

/// Sources have no deadline; a timer needs one.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Runs a source to its end, or until the service closes.
pub(crate) async fn run(env: Arc<Environment>, blueprint: Arc<dyn Blueprint>) {
    let Role::Source(source) = blueprint.role() else {
        unreachable!("only sources are run")
    };
    env.state.first_start_ended();
    let origin = Instant::now();
    let mut history = History::default();
    let mut timer = Timer::default();
    loop {
        let mut outlet = Outlet::new(env.clone(), source.in_flight(), env.closing());
        env.state
            .ready
            .store(1, std::sync::atomic::Ordering::Relaxed);
        let span = info_span!("source", service = %env.label);
        let ended = attempt(source, &mut outlet, &mut timer)
            .instrument(span)
            .await;
        outlet.settled().await;
        env.state
            .ready
            .store(0, std::sync::atomic::Ordering::Relaxed);
        let text = match ended {
            Ok(()) if !env.is_closing() => {
                info!(service = %env.label, "the source has come to its end");
                env.state.ended.send_replace(true);
                return;
            }
            _ if env.is_closing() => return,
            Ok(()) => return,
            Err(text) => env.redactor.clean(&text).into_owned(),
        };
        env.meters.restarted(Cause::Source);
        let (restart, next) = history.failure(&env.restart, origin.elapsed(), fastrand::f64());
        history = next;
        let wait = match restart {
            Restart::Now => Duration::ZERO,
            Restart::After(wait) => wait,
        };
        warn!(service = %env.label, error = %text, ?wait, "the source is run again");
        env.state.failed(LastFailure {
            time_ms: env.clock.unix_ms(),
            what: Cause::Source.as_str(),
            text,
            message: None,
            attempt: None,
        });
        if !wait.is_zero() {
            // Until the time is over or the service closes: both go on.
            let _either = timeout(wait, env.closed()).await;
        }
    }
}

async fn attempt(source: &dyn Run, outlet: &mut Outlet, timer: &mut Timer) -> Result<(), String> {
    loop {
        let deadline = Instant::now() + NEVER;
        match Guard::new(source.run(outlet), timer, deadline).await {
            Guarded::Done(Ok(())) => return Ok(()),
            Guarded::Done(Err(failure)) => return Err(failure.text().to_owned()),
            Guarded::Panicked(text) => return Err(format!("panicked: {text}")),
            Guarded::TimedOut => {}
        }
    }
}
