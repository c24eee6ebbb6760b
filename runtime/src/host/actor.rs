//! The actor of a service: a child of its supervisor that owns its instances and bridges.
//!
//! Control messages arrive in the actix mailbox of the actor and never wait behind work: work is
//! in the service's own mailbox, and instances yield the thread after a bounded turn.

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

use super::autoscale::Scale;
use super::bridge::{InboundBridge, StopConsuming};
use super::instance::InstanceLoop;
use super::relay::{self, Relay};
use super::service_run::ServiceRun;
use super::service_state::WINDOW;
use super::source;
use crate::service::{ConfiguredType, Kind};

/// The actor of one run of a service.
pub(crate) struct ServiceActor {
    env: Arc<ServiceRun>,
    blueprint: Arc<dyn ConfiguredType>,
    bridges: Vec<Addr<InboundBridge>>,
    /// Publishes the outbox of a service with a store.
    relay: Option<Addr<Relay>>,
    /// Instances by number; that of a retired instance has ended.
    loops: Vec<JoinHandle<()>>,
    drained: Option<Stopped>,
    /// A drain or stop has begun.
    stopping: bool,
}

/// Starts the instances and the bridges. Resolves when the first start of each instance has
/// ended, with or without success.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Start;

/// Takes no more messages and finishes those in flight before the deadline. Instances stay.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Drain(pub(crate) Instant);

/// Drains, unless that is done, and stops the instances before the deadline.
#[derive(Message, Clone, Copy)]
#[rtype(result = "Stopped")]
pub(crate) struct StopBy(pub(crate) Instant);

/// The messages that a stopped service did not finish.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stopped {
    /// Names of the messages that were in flight at the deadline.
    pub(crate) abandoned: Vec<String>,
    /// Number of messages that were requeued unhandled.
    pub(crate) requeued: usize,
    /// The thread of the service is blocked.
    pub(crate) stuck: bool,
}

impl Stopped {
    /// Adds the messages of another service.
    pub(crate) fn add(&mut self, other: Self) {
        self.abandoned.extend(other.abandoned);
        self.requeued += other.requeued;
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
                tokio::task::spawn_local(super::breaker::follow(env.clone()));
                if env.keyed.is_some() {
                    tokio::task::spawn_local(super::keyed::follow(env.clone()));
                }
                if env.loops.max > instances {
                    super::autoscale::follow(&env, cx.address().recipient());
                }
                instances
            }
        };
        for input in 0..env.inputs.len() {
            self.bridges
                .push(InboundBridge::new(self.env.clone(), input as u16).start());
        }
        Box::pin(async move { env.liveness.first_starts_ended(instances).await })
    }
}

impl Handler<Scale> for ServiceActor {
    type Result = ();

    fn handle(&mut self, Scale(wanted): Scale, _: &mut Context<Self>) {
        // The loops may be ending: new ones would share their in-flight lists.
        if self.stopping || matches!(self.blueprint.role(), Kind::Source(_)) {
            return;
        }
        let before = self.env.liveness.wanted.swap(wanted, Relaxed);
        self.env.mailbox.limit(wanted);
        debug!(service = %self.env.label, before, wanted, "scaling instances");
        for number in 0..wanted.min(self.loops.len()) {
            // A retired instance comes back; one that is about to retire sees the new limit.
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
            env.release();
            let by = deadline.max(Instant::now() + GRACE);
            for mut instance in loops {
                if timeout_at(by, &mut instance).await.is_err() {
                    instance.abort();
                    env.report_repeats();
                }
            }
            debug!(service = %env.label, requeued = stopped.requeued, "stopped");
            drop(address);
            stopped
        };
        Box::pin(stopping.into_actor(self).map(|stopped, _, cx| {
            actix::ActorContext::stop(cx);
            stopped
        }))
    }
}

/// Stops the bridges, finishes the messages in flight, and waits for confirms.
async fn drain(
    env: Arc<ServiceRun>,
    bridges: Vec<Addr<InboundBridge>>,
    relay: Option<Addr<Relay>>,
    deadline: Instant,
) -> Stopped {
    let mut stopped = Stopped::default();
    for bridge in &bridges {
        // A bridge that does not stop in time finds the mailbox closed.
        let _either = timeout_at(deadline, bridge.send(StopConsuming)).await;
    }
    env.close();
    let unhandled = env.close_mailbox();
    stopped.requeued = unhandled.len();
    for delivery in unhandled {
        delivery.nack_requeue();
    }
    // Messages that are not done by then are abandoned below.
    let _either = timeout_at(deadline, env.liveness.drained()).await;
    for (_, delivery) in env.seize() {
        let text = format!("{} (attempt {})", delivery.message().id, delivery.attempt());
        warn!(service = %env.label, id = %text, "message abandoned: not done in time");
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
        warn!(service = %env.label, unconfirmed, "stopped with unconfirmed publications");
        env.abandon(format!("{unconfirmed} unconfirmed publications"));
    }
    stopped
}

/// Minimum time for confirms and stop hooks, even after the deadline.
const GRACE: Duration = Duration::from_millis(100);
