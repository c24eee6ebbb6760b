//! The actor of a service: its supervisor's child, which owns its instances and bridges.
//!
//! Control messages come to the actor's own actix mailbox, never behind work: work is
//! in the service's mailbox, and instances give the thread up after a bounded turn.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::bridge::InboundBridge;
use super::instance::InstanceLoop;
use super::relay::{self, Relay};
use super::service_run::ServiceRun;
use super::service_state::WINDOW;
use super::source;
use crate::service::{ConfiguredType, Kind};

/// A service as an actor: one life of it, from a start to the next stop.
pub(crate) struct ServiceActor {
    env: Arc<ServiceRun>,
    blueprint: Arc<dyn ConfiguredType>,
    bridges: Vec<Addr<InboundBridge>>,
    /// Of a service with a store.
    relay: Option<Addr<Relay>>,
    /// By number; one that retired has ended.
    loops: Vec<JoinHandle<()>>,
    drained: Option<Stopped>,
    /// It has been told to drain or to stop.
    stopping: bool,
}

/// Start the instances, then the bridges. Resolves when each instance has been started
/// once, well or not, and the bridges have been told to consume.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Start;

/// Have so many instances.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Scale(pub(crate) usize);

/// Stop consuming.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Stop;

/// Take no more, finish what is in hand, and be done by the deadline. Instances stay.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Drain(pub(crate) Instant);

/// Drain, if that isn't done yet, let the instances go, and be done by the deadline.
#[derive(Message, Clone, Copy)]
#[rtype(result = "Stopped")]
pub(crate) struct StopBy(pub(crate) Instant);

/// What was not finished in time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stopped {
    /// Messages that were in hand when time ran out.
    pub(crate) abandoned: Vec<String>,
    /// Messages that were given back unhandled.
    pub(crate) given_back: usize,
    /// Its thread doesn't turn.
    pub(crate) stuck: bool,
}

impl Stopped {
    /// Adds what another one left.
    pub(crate) fn add(&mut self, other: Self) {
        self.abandoned.extend(other.abandoned);
        self.given_back += other.given_back;
        self.stuck |= other.stuck;
    }
}

impl ServiceActor {
    pub(crate) fn new(env: Arc<ServiceRun>, blueprint: Arc<dyn ConfiguredType>) -> Self {
        Self {
            env,
            blueprint,
            bridges: Vec::new(),
            relay: None,
            loops: Vec::new(),
            drained: None,
            stopping: false,
        }
    }

    fn add_instance(&mut self) -> JoinHandle<()> {
        let (env, blueprint) = (self.env.clone(), self.blueprint.clone());
        let number = self.loops.len() as u32;
        tokio::task::spawn_local(InstanceLoop::new(env, blueprint, number).run())
    }
}

impl Actor for ServiceActor {
    type Context = Context<Self>;
}

impl Handler<Start> for ServiceActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Start, cx: &mut Context<Self>) -> ResponseFuture<()> {
        let env = self.env.clone();
        let instances = match self.blueprint.role() {
            Kind::Source(_) => {
                let run = source::run(self.env.clone(), self.blueprint.clone());
                self.loops.push(tokio::task::spawn_local(run));
                1
            }
            Kind::Service(factory) => {
                if env.stores.is_some() {
                    let relay = Relay::new(env.clone(), factory.migrations());
                    self.relay = Some(relay.start());
                }
                let instances = env.loops.min;
                self.loops.reserve(instances);
                for _ in 0..instances {
                    let running = self.add_instance();
                    self.loops.push(running);
                }
                if env.loops.max > instances {
                    super::autoscale::follow(&env, cx.address());
                }
                instances
            }
        };
        for input in 0..env.inputs.len() {
            self.bridges
                .push(InboundBridge::new(self.env.clone(), input as u16).start());
        }
        Box::pin(async move { env.pulse.started(instances).await })
    }
}

impl Handler<Scale> for ServiceActor {
    type Result = ();

    fn handle(&mut self, Scale(wanted): Scale, _: &mut Context<Self>) {
        // Its loops may be on their way out: others beside them would share their hands.
        if self.stopping || matches!(self.blueprint.role(), Kind::Source(_)) {
            return;
        }
        let before = self.env.pulse.wanted.swap(wanted, Relaxed);
        self.env.mailbox.limit(wanted);
        debug!(service = %self.env.label, before, wanted, "instances");
        for number in 0..wanted.min(self.loops.len()) {
            // One that had retired comes back; one that is about to sees that it may stay.
            if self.loops[number].is_finished() {
                let (env, blueprint) = (self.env.clone(), self.blueprint.clone());
                let instance = InstanceLoop::new(env, blueprint, number as u32);
                self.loops[number] = tokio::task::spawn_local(instance.run());
            }
        }
        while self.loops.len() < wanted {
            let running = self.add_instance();
            self.loops.push(running);
        }
    }
}

impl Handler<Drain> for ServiceActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Drain(deadline): Drain, _: &mut Context<Self>) -> Self::Result {
        self.stopping = true;
        let draining = drain(
            self.env.clone(),
            std::mem::take(&mut self.bridges),
            self.relay.take(),
            deadline,
        );
        Box::pin(draining.into_actor(self).map(|stopped, actor, _| {
            actor.drained = Some(stopped);
        }))
    }
}

impl Handler<StopBy> for ServiceActor {
    type Result = ResponseActFuture<Self, Stopped>;

    fn handle(&mut self, StopBy(deadline): StopBy, cx: &mut Context<Self>) -> Self::Result {
        self.stopping = true;
        let env = self.env.clone();
        let bridges = std::mem::take(&mut self.bridges);
        let relay = self.relay.take();
        let loops = std::mem::take(&mut self.loops);
        let drained = self.drained.take();
        let address = cx.address();
        let stopping = async move {
            let stopped = match drained {
                Some(stopped) => stopped,
                None => drain(env.clone(), bridges, relay, deadline).await,
            };
            env.let_go();
            let by = deadline.max(Instant::now() + GRACE);
            for mut instance in loops {
                if timeout_at(by, &mut instance).await.is_err() {
                    instance.abort();
                }
            }
            debug!(service = %env.label, given_back = stopped.given_back, "stopped");
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
async fn drain(
    env: Arc<ServiceRun>,
    bridges: Vec<Addr<InboundBridge>>,
    relay: Option<Addr<Relay>>,
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
        delivery.nack_requeue();
    }
    // What isn't done by then is named.
    let _either = timeout_at(deadline, env.pulse.drained()).await;
    for (_, delivery) in env.seize() {
        let text = format!("{} (attempt {})", delivery.message().id, delivery.attempt());
        warn!(service = %env.label, id = %text, "abandoned: not done in time");
        env.abandon(text);
        delivery.nack_requeue();
    }
    if let Some(relay) = relay {
        relay::finish(&relay, deadline).await;
    }
    let confirmed = env.window.acquire_many(WINDOW as u32);
    if timeout_at(deadline.max(Instant::now() + GRACE), confirmed)
        .await
        .is_err()
    {
        let unconfirmed = env.unconfirmed();
        warn!(service = %env.label, unconfirmed, "stopped before its publications were confirmed");
        env.abandon(format!("{unconfirmed} unconfirmed publications"));
    }
    stopped
}

/// Confirms, and the last moments of instances, get at least this long, also when
/// handlers used up all the time.
const GRACE: Duration = Duration::from_millis(100);
