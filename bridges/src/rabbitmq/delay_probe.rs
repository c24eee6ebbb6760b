//! Probes of delay steps: reports the steps whose messages don't arrive in time.
//!
//! A probe is a request that passes a delay step. A relay, of any process, answers it.

use std::time::Duration;

use brickwork::Envelope;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::delay_flow::DelayFlow;
use super::health::Degraded;
use super::session::Session;
use super::topology::Step;

const INTERVAL: Duration = Duration::from_secs(1);
/// Time to wait for an answer after the delay. A probe that is overdue still waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// A failure to declare a delay step is reported for this time.
const FAILURE_SHOWN: Duration = Duration::from_secs(60);

/// Watches the delay steps of this process over one session. Never returns.
pub(super) async fn run(session: &Session) {
    let flow = session.router.delay_flow();
    let mut probes = FuturesUnordered::new();
    let mut open = OpenProbes(flow, Vec::new());
    let mut clock = interval(INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((step, sent, arrived)) = probes.next(), if !probes.is_empty() => {
                open.1.retain(|other: &Step| *other != step);
                match arrived {
                    true => flow.proven(step, sent),
                    false => flow.probe_lost(step),
                }
            }
            _ = clock.tick() => {
                let now = Instant::now();
                for step in flow.to_probe(now) {
                    open.1.push(step);
                    let probe = Envelope::new("probe", "").into();
                    let asking = session.probe(step, &probe, step.wait + ANSWER_TIMEOUT);
                    probes.push(async move { (step, now, asking.await.is_ok()) });
                }
                report(session, &flow.overdue(now));
                session.router.expire_step_failure(FAILURE_SHOWN);
            }
        }
    }
}

fn report(session: &Session, overdue: &[Duration]) {
    let why = (!overdue.is_empty()).then(|| {
        format!("messages that were delayed for {overdue:?} are overdue: the broker does not move them on")
    });
    session.session_state.degraded(Degraded::Overdue, why);
    session.session_state.overdue_delays(overdue.len() as u64);
}

/// The probes without an answer. They are lost with the session.
struct OpenProbes<'a>(&'a DelayFlow, Vec<Step>);

impl Drop for OpenProbes<'_> {
    fn drop(&mut self) {
        for step in &self.1 {
            self.0.probe_lost(*step);
        }
    }
}
