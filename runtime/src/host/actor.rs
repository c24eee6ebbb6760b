//! The actor of a service: its supervisor's child, which owns its instances and bridges.
//!
//! Control messages come to the actor's own actix mailbox, never behind work: work is
//! in the service's mailbox, and instances give the thread up after a bounded turn.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::bridge::InboundBridge;
use super::environment::{Environment, WINDOW};
use super::instance::InstanceLoop;
use super::source;
use crate::service::{Blueprint, Role};

/// A service as an actor.
pub(crate) struct ServiceActor {
    env: Arc<Environment>,
    blueprint: Arc<dyn Blueprint>,
    bridges: Vec<Addr<InboundBridge>>,
    loops: Vec<JoinHandle<()>>,
}

/// Start the instances, then the bridges. Resolves when each instance has been started
/// once, well or not, and the bridges have been told to consume.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Start;

/// Stop consuming.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Stop;

/// Stop in order, and be done by the deadline.
#[derive(Message, Clone, Copy)]
#[rtype(result = "Stopped")]
pub(crate) struct StopBy(pub(crate) Instant);

/// What was not finished in time.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    /// Messages that were in hand when time ran out.
    pub(crate) abandoned: Vec<String>,
    /// Messages that were given back unhandled.
    pub(crate) given_back: usize,
}

impl ServiceActor {
    pub(crate) fn new(env: Arc<Environment>, blueprint: Arc<dyn Blueprint>) -> Self {
        Self {
            env,
            blueprint,
            bridges: Vec::new(),
            loops: Vec::new(),
        }
    }
}

impl Actor for ServiceActor {
    type Context = Context<Self>;
}

impl Handler<Start> for ServiceActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Start, _: &mut Context<Self>) -> ResponseFuture<()> {
        let env = self.env.clone();
        let instances = match self.blueprint.role() {
            Role::Source(_) => {
                let run = source::run(self.env.clone(), self.blueprint.clone());
                self.loops.push(tokio::task::spawn_local(run));
                1
            }
            Role::Service(_) => {
                self.loops.reserve(env.instances);
                for number in 0..env.instances {
                    let (env, blueprint) = (self.env.clone(), self.blueprint.clone());
                    let instance = InstanceLoop::new(env, blueprint, number as u32);
                    self.loops.push(tokio::task::spawn_local(instance.run()));
                }
                env.instances
            }
        };
        for input in 0..env.inputs.len() {
            self.bridges
                .push(InboundBridge::new(self.env.clone(), input as u16).start());
        }
        Box::pin(async move { env.state.started(instances).await })
    }
}

impl Handler<StopBy> for ServiceActor {
    type Result = ResponseActFuture<Self, Stopped>;

    fn handle(&mut self, StopBy(deadline): StopBy, cx: &mut Context<Self>) -> Self::Result {
        let env = self.env.clone();
        let bridges = std::mem::take(&mut self.bridges);
        let loops = std::mem::take(&mut self.loops);
        let address = cx.address();
        let stopping = async move {
            let stopped = stop(&env, bridges, loops, deadline).await;
            drop(address);
            stopped
        };
        Box::pin(stopping.into_actor(self).map(|stopped, _, cx| {
            actix::ActorContext::stop(cx);
            stopped
        }))
    }
}

/// No more deliveries → what is in hand is finished → confirms are flushed.
async fn stop(
    env: &Arc<Environment>,
    bridges: Vec<Addr<InboundBridge>>,
    loops: Vec<JoinHandle<()>>,
    deadline: Instant,
) -> Stopped {
    let mut stopped = Stopped::default();
    for bridge in &bridges {
        // One that is gone or late consumes no more: the mailbox closes to it.
        let _either = timeout_at(deadline, bridge.send(Stop)).await;
    }
    env.close();
    let unhandled = env.mailbox.close();
    stopped.given_back = unhandled.len();
    for delivery in unhandled {
        delivery.give_back();
    }
    for mut instance in loops {
        if timeout_at(deadline, &mut instance).await.is_err() {
            instance.abort();
        }
    }
    for delivery in env.seize() {
        let text = format!("{} (attempt {})", delivery.message().id, delivery.attempt());
        warn!(service = %env.label, id = %text, "abandoned: not done in time");
        stopped.abandoned.push(text);
        delivery.give_back();
    }
    let confirmed = env.window.acquire_many(WINDOW as u32);
    if timeout_at(deadline.max(Instant::now() + GRACE), confirmed)
        .await
        .is_err()
    {
        let unconfirmed = env.unconfirmed();
        warn!(service = %env.label, unconfirmed, "stopped before its publications were confirmed");
        stopped
            .abandoned
            .push(format!("{unconfirmed} unconfirmed publications"));
    }
    info!(service = %env.label, given_back = stopped.given_back, "stopped");
    stopped
}

/// Confirms get at least this long, also when handlers used up all the time.
const GRACE: Duration = Duration::from_millis(100);
