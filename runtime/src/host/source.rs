//! The loop of a source: runs it, and runs it again when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use super::guard::{HandlerGuard, HandlerOutcome, Timer};
use super::service_run::ServiceRun;
use crate::metrics::{Cause, InstanceRef};
use crate::service::{AbandonHook, ConfiguredType, Kind, Run, SourceContext};
use crate::supervision::{History, RestartType};
use crate::transport::Lease;

/// Deadline of a source's run: none, but a guard needs one.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Wait for a lease before the source counts as standing by.
const STANDBY_AFTER: Duration = Duration::from_secs(1);
/// Time that a source has to save its position after it lost its lease.
const LEASE_LOST_GRACE: Duration = Duration::from_secs(5);

/// Runs a source to its end, or until the service stops.
pub(crate) async fn run(env: Arc<ServiceRun>, blueprint: Arc<dyn ConfiguredType>) {
    let Kind::Source(source) = blueprint.role() else {
        unreachable!("only sources are run")
    };
    let busy = env.liveness.work();
    env.liveness.first_start_ended();
    let mut failures = History::default();
    let mut refusals = History::default();
    let owner = InstanceRef {
        service: env.number,
        instance: 0,
    };
    let mut timer = Timer::new(env.worker.clone(), owner);
    // A source that is to run again in this process keeps its lease.
    let mut kept: Option<HeldLease> = None;
    loop {
        let mut lease = match kept.take() {
            Some(lease) => lease,
            None => match acquire(&env, source).await {
                Some(lease) => lease,
                None => return,
            },
        };
        env.liveness.ready.store(1, Relaxed);
        env.is_up();
        let span = info_span!("source", service = %env.label);
        let reconnects = env.transport_reconnects();
        let publish_failures = env.control.publish_failures();
        let ended = run_with_lease(&env, source, &mut timer, &mut lease)
            .instrument(span)
            .await;
        env.liveness.ready.store(0, Relaxed);
        if env.is_closing() {
            return;
        }
        let transport_failed =
            || env.transport_is_down() || env.transport_reconnects() != reconnects;
        let Some(ended) = ended else {
            // The transport itself logs that it is down.
            if !transport_failed() {
                warn!(service = %env.label, "source lost its lease, asking for it again");
            }
            continue;
        };
        let text = match ended {
            Ok(())
                if source.ends() || env.settings.restart.restart_type != RestartType::Permanent =>
            {
                info!(service = %env.label, "source has ended");
                env.liveness.ended.send_replace(true);
                drop(busy);
                // The lease stays: another process would run the source from its start.
                return env.closed().await;
            }
            Ok(()) => "the source ended, although its type never ends".to_owned(),
            Err(text) => env.redactor.clean(&text).into_owned(),
        };
        env.meters.restarted(Cause::Source);
        env.instance_restarts(0, &text);
        env.note(Cause::Source, &text);
        if transport_failed() {
            // The source failed because its messages were lost with the connection.
            debug!(service = %env.label, error = %text, "restarting source when the transport works");
            drop(lease);
            tokio::select! {
                () = env.transport_works() => {}
                () = env.closed() => return,
            }
            continue;
        }
        kept = Some(lease);
        let now = env.origin.elapsed();
        let wait = if env.control.publish_failures() != publish_failures {
            // The transport refused messages, for example because a queue has no leader: not
            // a failure of the source.
            let (restart, next) =
                refusals.failure(&env.settings.restart.policy, now, fastrand::f64());
            refusals = next;
            let wait = restart.wait();
            if let Some(suppressed) = env.control.publish_log.event() {
                warn!(service = %env.label, error = %text, ?wait, suppressed, "transport refuses messages, restarting source");
            }
            wait
        } else {
            let (restart, next) =
                failures.failure(&env.settings.restart.policy, now, fastrand::f64());
            failures = next;
            if !env.record_failure(Cause::Source, &text) {
                // Without the lease another process can run the source.
                drop(kept);
                return env.closed().await;
            }
            let wait = restart.wait();
            warn!(service = %env.label, error = %text, ?wait, "restarting source");
            wait
        };
        if !wait.is_zero() {
            // Both ends of the wait mean the same: go on.
            let _either = timeout(wait, env.closed()).await;
        }
    }
}

/// A lease with an abandon hook: it is released also when its thread is abandoned.
struct HeldLease {
    lease: Lease,
    /// Time since when the process stood by, until the first run with this lease.
    standby_since: Option<SystemTime>,
    _hook: AbandonHook,
}

impl HeldLease {
    fn new(lease: Lease, env: &ServiceRun) -> Self {
        let release = Box::new(lease.release_handle());
        Self {
            _hook: env.control.abandon_hooks.add(release),
            lease,
            standby_since: None,
        }
    }
}

/// Waits for the lease of a source that needs one; `None` if the service stops before.
async fn acquire(env: &ServiceRun, source: &dyn Run) -> Option<HeldLease> {
    if !source.is_single() {
        let (lease, keeper) = Lease::new();
        keeper.grant_for_good();
        return Some(HeldLease::new(lease, env));
    }
    let granted = async {
        let since = env.publisher.clock.now();
        let mut granted = std::pin::pin!(request_lease(env));
        if let Ok(lease) = timeout(STANDBY_AFTER, &mut granted).await {
            return lease;
        }
        env.liveness.standing_by.store(true, Relaxed);
        info!(service = %env.label, "source stands by: another process runs it");
        let mut lease = granted.await;
        lease.standby_since = Some(since);
        env.liveness.standing_by.store(false, Relaxed);
        info!(service = %env.label, "source runs in this process now");
        if !env.position.is_saved() {
            warn!(service = %env.label, "source takes over from another process and has no position in app.data: it starts from its beginning, and its messages come again under their ids");
        }
        lease
    };
    tokio::select! {
        lease = granted => Some(lease),
        () = env.closed() => None,
    }
}

/// Asks for the lease until it is granted.
async fn request_lease(env: &ServiceRun) -> HeldLease {
    let mut tries = 0;
    loop {
        let (lease, keeper) = Lease::new();
        // Before the request: an abandoned thread could not release a lease granted later.
        let held = HeldLease::new(lease, env);
        match env.transport.lease(&env.label, keeper).await {
            Ok(()) => return held,
            // The transport logs that it is down, and the next request waits for it.
            Err(_) if env.transport_is_down() => {}
            Err(error) => {
                let text = env.redactor.clean(&error.to_string()).into_owned();
                warn!(service = %env.label, error = %text, "request for the source's lease failed, trying again");
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
async fn run_with_lease(
    env: &ServiceRun,
    source: &dyn Run,
    timer: &mut Timer,
    HeldLease {
        lease,
        standby_since,
        ..
    }: &mut HeldLease,
) -> Option<Result<(), String>> {
    let stop = watch::Sender::new(false);
    let mut out = SourceContext::new(
        env.publisher.clone(),
        env.control.clone(),
        env.position.clone(),
        source.in_flight(),
        stop.subscribe(),
        standby_since.take(),
    );
    let submitted = out.clone();
    let mut lost = false;
    let ended = {
        let mut run = std::pin::pin!(run_guarded(source, &mut out, timer));
        tokio::select! {
            biased;
            ended = &mut run => Some(ended),
            () = lease.lost() => {
                lost = true;
                stop.send_replace(true);
                timeout(LEASE_LOST_GRACE, run).await.ok()
            }
        }
    };
    submitted.settled().await;
    if lost { None } else { ended }
}

async fn run_guarded(
    source: &dyn Run,
    out: &mut SourceContext,
    timer: &mut Timer,
) -> Result<(), String> {
    loop {
        let deadline = Instant::now() + NEVER;
        match HandlerGuard::new(source.run(out), timer, deadline).await {
            HandlerOutcome::Done(Ok(())) => return Ok(()),
            HandlerOutcome::Done(Err(failure)) => return Err(failure.text().to_owned()),
            HandlerOutcome::Panicked(text) => return Err(format!("panicked: {text}")),
            HandlerOutcome::TimedOut => {}
        }
    }
}
