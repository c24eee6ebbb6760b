//! The loop of a source: runs it, and runs it again when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use super::abandon_hooks::AbandonHook;
use super::guard::{HandlerGuard, HandlerOutcome, Timer};
use super::service_run::ServiceRun;
use crate::metrics::{Cause, Who};
use crate::service::{ConfiguredType, Kind, Run, SourceContext};
use crate::supervision::{History, RestartType};
use crate::transport::Lease;

/// Sources have no deadline; a timer needs one.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A process that isn't granted a lease by then stands by.
const STANDS_BY_AFTER: Duration = Duration::from_secs(1);
/// What a source that has lost its lease gets to save what it has.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Runs a source to its end, or until the service closes.
pub(crate) async fn run(env: Arc<ServiceRun>, blueprint: Arc<dyn ConfiguredType>) {
    let Kind::Source(source) = blueprint.role() else {
        unreachable!("only sources are run")
    };
    let working = env.pulse.work();
    env.pulse.first_start_ended();
    let mut history = History::default();
    let mut refusals = History::default();
    let who = Who {
        service: env.number,
        instance: 0,
    };
    let mut timer = Timer::new(env.worker.clone(), who);
    // One that is to run again keeps it.
    let mut held: Option<Held> = None;
    loop {
        let mut lease = match held.take() {
            Some(lease) => lease,
            None => match hold(&env, source).await {
                Some(lease) => lease,
                None => return,
            },
        };
        env.pulse.ready.store(1, Relaxed);
        let span = info_span!("source", service = %env.label);
        let (reconnects, not_taken) = (env.transport_reconnects(), env.not_taken());
        let ended = under_lease(&env, source, &mut timer, &mut lease)
            .instrument(span)
            .await;
        env.pulse.ready.store(0, Relaxed);
        if env.is_closing() {
            return;
        }
        let Some(ended) = ended else {
            // While the transport is down, that is what is wrong, and it was said.
            if !env.transport_is_down() && env.transport_reconnects() == reconnects {
                warn!(service = %env.label, "the source's lease is lost, asking for it again");
            }
            continue;
        };
        let text = match ended {
            Ok(())
                if source.ends() || env.settings.restart.restart_type != RestartType::Permanent =>
            {
                info!(service = %env.label, "the source has come to its end");
                env.pulse.ended.send_replace(true);
                drop(working);
                // Who takes over would begin again what is done.
                return env.closed().await;
            }
            Ok(()) => "it came to an end, and is not one that does".to_owned(),
            Err(text) => env.redactor.clean(&text).into_owned(),
        };
        env.meters.restarted(Cause::Source);
        if env.transport_is_down() || env.transport_reconnects() != reconnects {
            // What it had sent was lost with the connection: not its failure.
            env.note(Cause::Source, &text);
            debug!(service = %env.label, error = %text, "the source is run again when the transport works");
            drop(lease);
            tokio::select! {
                () = env.transport_works() => {}
                () = env.closed() => return,
            }
            continue;
        }
        held = Some(lease);
        let now = env.origin.elapsed();
        if env.not_taken() != not_taken {
            // Such as a queue that has no leader, for now: not the source's failure, either.
            let (restart, next) =
                refusals.failure(&env.settings.restart.policy, now, fastrand::f64());
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
        let (restart, next) = history.failure(&env.settings.restart.policy, now, fastrand::f64());
        history = next;
        env.note(Cause::Source, &text);
        if !env.charge(Cause::Source, &text) {
            // Another process may have more luck.
            drop(held);
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

/// A lease that is let go also when the thread was given up on which its holder is.
struct Held {
    lease: Lease,
    _hook: AbandonHook,
}

impl Held {
    fn new(lease: Lease, env: &Arc<ServiceRun>) -> Self {
        Self {
            _hook: env.on_abandoned(lease.release_handle()),
            lease,
        }
    }
}

/// Waits for the lease of a source that needs one; `None` if the service closes before.
async fn hold(env: &Arc<ServiceRun>, source: &dyn Run) -> Option<Held> {
    if !source.is_single() {
        let (lease, keeper) = Lease::new();
        keeper.grant_for_good();
        return Some(Held::new(lease, env));
    }
    let granted = async {
        let mut granted = std::pin::pin!(granted(env));
        if let Ok(held) = timeout(STANDS_BY_AFTER, &mut granted).await {
            return held;
        }
        env.pulse.standing_by.store(true, Relaxed);
        info!(service = %env.label, "the source stands by: another process runs it");
        let held = granted.await;
        env.pulse.standing_by.store(false, Relaxed);
        info!(service = %env.label, "the source runs here now");
        held
    };
    tokio::select! {
        held = granted => Some(held),
        () = env.closed() => None,
    }
}

/// Asks for the lease until it is granted.
async fn granted(env: &Arc<ServiceRun>) -> Held {
    let mut tries = 0;
    loop {
        let (lease, keeper) = Lease::new();
        // Before it is granted: on a thread that is given up nobody would take it.
        let held = Held::new(lease, env);
        match env.transport.lease(&env.label, keeper).await {
            Ok(()) => return held,
            // What is wrong was said; the next time waits until it works.
            Err(_) if env.transport_is_down() => {}
            Err(error) => {
                let text = env.redactor.clean(&error.to_string()).into_owned();
                warn!(service = %env.label, error = %text, "the source's lease can't be asked for, trying again");
                env.note(Cause::Source, &text);
            }
        }
        sleep(
            env.settings
                .restart
                .policy
                .backoff
                .delay(tries, fastrand::f64()),
        )
        .await;
        tries = tries.saturating_add(1);
    }
}

/// Runs the source once; `None` if its lease was lost meanwhile.
async fn under_lease(
    env: &Arc<ServiceRun>,
    source: &dyn Run,
    timer: &mut Timer,
    Held { lease, .. }: &mut Held,
) -> Option<Result<(), String>> {
    let stop = watch::Sender::new(false);
    let mut outlet = SourceContext::new(env.clone(), source.in_flight(), stop.subscribe());
    let submitted = outlet.clone();
    let mut lost = false;
    let ended = {
        let mut attempt = std::pin::pin!(attempt(source, &mut outlet, timer));
        tokio::select! {
            biased;
            ended = &mut attempt => Some(ended),
            () = lease.lost() => {
                lost = true;
                stop.send_replace(true);
                timeout(LEAVE_WITHIN, attempt).await.ok()
            }
        }
    };
    submitted.settled().await;
    if lost { None } else { ended }
}

async fn attempt(
    source: &dyn Run,
    outlet: &mut SourceContext,
    timer: &mut Timer,
) -> Result<(), String> {
    loop {
        let deadline = Instant::now() + NEVER;
        match HandlerGuard::new(source.run(outlet), timer, deadline).await {
            HandlerOutcome::Done(Ok(())) => return Ok(()),
            HandlerOutcome::Done(Err(failure)) => return Err(failure.text().to_owned()),
            HandlerOutcome::Panicked(text) => return Err(format!("panicked: {text}")),
            HandlerOutcome::TimedOut => {}
        }
    }
}
