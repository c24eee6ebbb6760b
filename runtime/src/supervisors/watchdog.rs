//! The watchdog: gives up threads that don't turn.
//!
//! It looks from the app's own thread, which runs no handlers. A worker whose thread
//! hasn't turned for as long as the handler that blocks it may take gets another thread;
//! its services begin there anew, and what happens on the old one no longer counts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{Failed, ServiceSupervisor, ThreadReplaced, Threads};
use crate::delivery::Delivery;
use crate::host::{AttemptFailure as FailedAttempt, ServiceRun};
use crate::metrics::{Cause, Who};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// Shorter than this a machine may stall by itself.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// A thread that is late by less is turning.
const LATE: Duration = Duration::from_millis(50);
/// With so many threads that never came back, the process is not worth keeping: more
/// than a message that blocks on each of its attempts costs by default.
const BLOCKED_MAX: usize = 8;

/// Watches the workers until it is dropped.
pub(crate) async fn watch(
    threads: Rc<Threads>,
    services: Rc<[Rc<ServiceSupervisor>]>,
    failed: Failed,
) {
    // How long each worker hasn't turned, and how many turns of services it had taken.
    let mut late: Vec<(Duration, u64)> = vec![(Duration::ZERO, 0); threads.len()];
    let mut last = Instant::now();
    loop {
        sleep(EVERY).await;
        let now = Instant::now();
        // When the whole process was stopped for a while, nobody is to blame: time counts
        // only as far as this thread itself was turning.
        let passed = now.duration_since(last).min(2 * EVERY);
        last = now;
        let overdue: Vec<Duration> = threads.lag.overdue().collect();
        for (worker, ((late, turns), overdue)) in late.iter_mut().zip(overdue).enumerate() {
            let (who, now_turns) = threads.lag.worker(worker).running();
            // Many short pieces of work are a busy thread, not a blocked one.
            if overdue < LATE || now_turns != *turns {
                (*late, *turns) = (Duration::ZERO, now_turns);
                continue;
            }
            *late += passed;
            let Some(culprit) = services.iter().find(|s| s.hosted.number == who.service) else {
                continue;
            };
            let patience = culprit.hosted.settings.handler_timeout.max(PATIENCE_MIN);
            if *late >= patience {
                *late = Duration::ZERO;
                give_up(&threads, &services, worker, who).await;
                if threads.blocked() >= BLOCKED_MAX {
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

/// Moves the services of a worker to a fresh thread.
async fn give_up(threads: &Threads, services: &[Rc<ServiceSupervisor>], worker: usize, who: Who) {
    let mut moves = Vec::new();
    for service in services.iter().filter(|s| s.hosted.worker == worker) {
        let env = service.hosted.env();
        let blocks = service.hosted.number == who.service;
        let seized = env.fence();
        let how = if blocks {
            error!(
                service = %env.label, worker, instance = who.instance,
                "a handler blocks its thread: the thread is given up, another one takes its place"
            );
            env.meters.restarted(Cause::Timeout);
            blame(env, who.instance, seized)
        } else {
            warn!(service = %env.label, worker, "goes on with another thread");
            env.meters.restarted(Cause::Supervisor);
            // Dropped, and so given back.
            drop(seized);
            ThreadReplaced::of(env)
        };
        moves.push((service, how));
    }
    threads.replace(worker);
    for (service, how) in moves {
        service.move_on(how).await;
    }
}

/// Settles what was in the hand that blocked the thread: a message by itself has timed
/// out; of several, each gets a trial of its own; without any, the failure is the
/// service's own. All else goes back.
fn blame(
    env: Arc<ServiceRun>,
    instance: u32,
    seized: Vec<(Option<u32>, Delivery)>,
) -> ThreadReplaced {
    let (mut blamed, others): (Vec<_>, Vec<_>) = seized
        .into_iter()
        .partition(|(number, _)| *number == Some(instance));
    drop(others);
    if blamed.len() != 1 {
        let charged = blamed.is_empty();
        let trials = blamed.into_iter().map(|(_, delivery)| delivery).rev();
        return ThreadReplaced {
            trials: trials.collect(),
            charged,
            env,
        };
    }
    if let Some((_, delivery)) = blamed.pop() {
        let failed = FailedAttempt::timeout(&env);
        env.meters.handled(delivery.input(), failed.outcome());
        env.fail(delivery, &failed);
    }
    ThreadReplaced::of(env)
}
