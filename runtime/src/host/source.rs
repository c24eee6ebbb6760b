//! The loop of a source: runs it, and runs it again when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use super::environment::Environment;
use super::guard::{Guard, Guarded, Timer};
use crate::metrics::{Cause, Who};
use crate::service::{Blueprint, Outlet, Role, Run};
use crate::supervision::{History, RestartType};

/// Sources have no deadline; a timer needs one.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Runs a source to its end, or until the service closes.
pub(crate) async fn run(env: Arc<Environment>, blueprint: Arc<dyn Blueprint>) {
    let Role::Source(source) = blueprint.role() else {
        unreachable!("only sources are run")
    };
    let _working = env.pulse.work();
    env.pulse.first_start_ended();
    let mut history = History::default();
    let mut refusals = History::default();
    let who = Who {
        service: env.number,
        instance: 0,
    };
    let mut timer = Timer::new(env.worker.clone(), who);
    loop {
        let mut outlet = Outlet::new(env.clone(), source.in_flight(), env.closing());
        env.pulse.ready.store(1, Relaxed);
        let span = info_span!("source", service = %env.label);
        let (reconnects, not_taken) = (env.transport_reconnects(), env.not_taken());
        let ended = attempt(source, &mut outlet, &mut timer)
            .instrument(span)
            .await;
        outlet.settled().await;
        env.pulse.ready.store(0, Relaxed);
        if env.is_closing() {
            return;
        }
        let text = match ended {
            Ok(()) if source.ends() || env.restart_type != RestartType::Permanent => {
                info!(service = %env.label, "the source has come to its end");
                env.pulse.ended.send_replace(true);
                return;
            }
            Ok(()) => "it came to an end, and is not one that does".to_owned(),
            Err(text) => env.redactor.clean(&text).into_owned(),
        };
        env.meters.restarted(Cause::Source);
        if env.transport_is_down() || env.transport_reconnects() != reconnects {
            // What it had sent was lost with the connection: not its failure.
            env.note(Cause::Source, &text);
            debug!(service = %env.label, error = %text, "the source is run again when the transport works");
            tokio::select! {
                () = env.transport_works() => {}
                () = env.closed() => return,
            }
            continue;
        }
        let now = env.origin.elapsed();
        if env.not_taken() != not_taken {
            // Such as a queue that has no leader, for now: not the source's failure, either.
            let (restart, next) = refusals.failure(&env.restart, now, fastrand::f64());
            refusals = next;
            env.note(Cause::Source, &text);
            let wait = restart.wait();
            if let Some(more) = env.refusals.happened() {
                warn!(service = %env.label, error = %text, ?wait, more, "the transport doesn't take messages, the source is run again");
            }
            // Until the time is over or the service closes: both go on.
            let _either = timeout(wait, env.closed()).await;
            continue;
        }
        let (restart, next) = history.failure(&env.restart, now, fastrand::f64());
        history = next;
        env.note(Cause::Source, &text);
        if !env.charge(Cause::Source, &text) {
            return env.closed().await;
        }
        let wait = restart.wait();
        warn!(service = %env.label, error = %text, ?wait, "the source is run again");
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
