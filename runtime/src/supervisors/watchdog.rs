//! The watchdog: replaces worker threads that are blocked by a handler.
//!
//! The watchdog runs on the app's main thread, which runs no handlers. When a handler has
//! blocked its worker thread for longer than the service's handler timeout, the worker gets
//! a new thread. The worker's services start again there, and effects of the old thread no
//! longer count.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{Failed, Supervised, ThreadReplaced, Threads};
use crate::delivery::Delivery;
use crate::events::follows_from_event;
use crate::host::{AttemptFailure as FailedAttempt, ServiceRun};
use crate::metrics::{Cause, InstanceRef};

/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest block that gets a thread replaced: a busy machine may stall for less.
const BLOCKED_MIN: Duration = Duration::from_secs(1);
/// Lateness below which a thread counts as responsive.
const LATENESS_MIN: Duration = Duration::from_millis(50);
/// Number of blocked threads at which the app fails. A message that blocks on each of its
/// attempts blocks fewer by default.
const BLOCKED_THREADS_MAX: usize = 8;

/// Watches the worker threads until it is dropped.
pub(crate) async fn watch(threads: Rc<Threads>, services: Rc<[Rc<Supervised>]>, failed: Failed) {
    // For each worker: how long it has been late, and how many turns it had taken before.
    let mut late: Vec<(Duration, u64)> = vec![(Duration::ZERO, 0); threads.len()];
    let mut last = Instant::now();
    loop {
        sleep(CHECK_INTERVAL).await;
        let now = Instant::now();
        // Time counts only while this thread itself was running: if the whole process was
        // stopped, no handler is to blame.
        let passed = now.duration_since(last).min(2 * CHECK_INTERVAL);
        last = now;
        let overdue: Vec<Duration> = threads.lag.overdue().collect();
        for (worker, ((late, turns), overdue)) in late.iter_mut().zip(overdue).enumerate() {
            let (running, now_turns) = threads.lag.worker(worker).running();
            // Many short turns mean a busy thread, not a blocked one.
            if overdue < LATENESS_MIN || now_turns != *turns {
                (*late, *turns) = (Duration::ZERO, now_turns);
                continue;
            }
            *late += passed;
            let culprit = services
                .iter()
                .find(|service| service.hosted.number == running.service);
            let Some(culprit) = culprit else {
                continue;
            };
            let blocked_max = culprit.hosted.settings.handler_timeout.max(BLOCKED_MIN);
            if *late >= blocked_max {
                *late = Duration::ZERO;
                replace_thread(&threads, &services, worker, running).await;
                if threads.blocked() >= BLOCKED_THREADS_MAX {
                    let blocked = threads.blocked();
                    let service = &culprit.hosted.label;
                    let why = format!(
                        "{blocked} threads are blocked by handlers, the last one by {service}"
                    );
                    failed.send_replace(Some(why));
                    return;
                }
            }
        }
    }
}

/// Replaces the thread of a worker and restarts its services on the new thread. `running`
/// blocks the old thread.
async fn replace_thread(
    threads: &Threads,
    services: &[Rc<Supervised>],
    worker: usize,
    running: InstanceRef,
) {
    let mut notices = Vec::new();
    let here = services.iter().filter(|it| !it.hosted.is_apart());
    for service in here.filter(|it| it.hosted.worker == worker) {
        let env = service.hosted.env();
        let blocks = service.hosted.number == running.service;
        let seized = env.revoke();
        let notice = if blocks {
            error!(
                service = %env.label, worker, instance = running.instance,
                "a handler blocks its thread, replacing the thread"
            );
            env.meters.restarted(Cause::Timeout);
            let mut in_flight = seized.iter().filter(|(number, _)| number.is_some());
            if !in_flight.any(|(_, delivery)| follows_from_event(delivery.message())) {
                env.instance_restarts(running.instance, "a handler blocked its thread");
            }
            settle_blocked(env, running.instance, seized)
        } else {
            warn!(service = %env.label, worker, "restarting on another thread");
            env.meters.restarted(Cause::Supervisor);
            // The drop requeues them.
            drop(seized);
            ThreadReplaced::new(env)
        };
        notices.push((service, notice));
    }
    threads.replace(worker);
    for (service, notice) in notices {
        service.replace_thread(notice).await;
    }
}

/// Settles the deliveries of a service that blocked its thread.
///
/// If the blocking instance had one message in flight, that message has timed out. If it had
/// several, each becomes a trial. If it had none, the failure is charged to the service. The
/// deliveries of other instances are requeued.
fn settle_blocked(
    env: Arc<ServiceRun>,
    instance: u32,
    seized: Vec<(Option<u32>, Delivery)>,
) -> ThreadReplaced {
    let (mut in_flight, others): (Vec<_>, Vec<_>) = seized
        .into_iter()
        .partition(|(number, _)| *number == Some(instance));
    drop(others);
    if in_flight.len() != 1 {
        let charged = in_flight.is_empty();
        let trials = in_flight.into_iter().map(|(_, delivery)| delivery).rev();
        return ThreadReplaced {
            trials: trials.collect(),
            charged,
            env,
        };
    }
    if let Some((_, delivery)) = in_flight.pop() {
        let failed = FailedAttempt::timeout(&env);
        env.end_lost_attempt(delivery.message(), &failed);
        env.meters.handled(delivery.input(), failed.outcome());
        env.fail(delivery, &failed);
    }
    ThreadReplaced::new(env)
}
