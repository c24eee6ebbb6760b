//! The same actor in other libraries: bare, and with the additions of a careful user.

pub(crate) mod plain_actix {
    use actix::prelude::{Actor, Context, Handler, Message};

    #[derive(Message)]
    #[rtype(result = "u32")]
    pub(crate) struct Ping(pub(crate) u32);

    pub(crate) struct Counter(pub(crate) u32);

    impl Actor for Counter {
        type Context = Context<Self>;
    }

    impl Handler<Ping> for Counter {
        type Result = u32;

        fn handle(&mut self, ping: Ping, _: &mut Context<Self>) -> u32 {
            self.0 = self.0.wrapping_add(ping.0);
            self.0
        }
    }
}

/// The features of the host, written by hand for other libraries: a bound, a deadline, decoding,
/// two histograms and a counter.
pub(crate) mod by_hand {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use prometheus::{Histogram, HistogramOpts, IntCounter};
    use tokio::sync::Semaphore;

    const BUCKETS: [f64; 12] = [
        1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1, 1.0, 5.0, 10.0, 60.0,
    ];

    #[derive(Clone)]
    pub(crate) struct Care {
        bound: Arc<Semaphore>,
        wait: Histogram,
        handle: Histogram,
        handled: IntCounter,
    }

    /// A message that was admitted.
    pub(crate) struct Sent {
        pub(crate) bytes: &'static [u8],
        at: Instant,
    }

    impl Care {
        pub(crate) fn new() -> Self {
            let histogram = |name: &str| {
                Histogram::with_opts(HistogramOpts::new(name, name).buckets(BUCKETS.into()))
                    .expect("the buckets increase")
            };
            Self {
                bound: Arc::new(Semaphore::new(64)),
                wait: histogram("wait"),
                handle: histogram("handle"),
                handled: IntCounter::new("handled", "handled").expect("a good name"),
            }
        }

        pub(crate) async fn send(&self, bytes: &'static [u8]) -> Sent {
            self.bound.acquire().await.expect("it stays open").forget();
            Sent {
                bytes,
                at: Instant::now(),
            }
        }

        pub(crate) async fn handle<T>(
            &self,
            sent: Sent,
            handler: impl AsyncFnOnce(crate::Ping) -> T,
        ) -> T {
            self.bound.add_permits(1);
            let started = Instant::now();
            self.wait
                .observe(started.duration_since(sent.at).as_secs_f64());
            let ping: crate::Ping = serde_json::from_slice(sent.bytes).expect("a ping");
            let done = tokio::time::timeout(Duration::from_secs(30), handler(ping)).await;
            self.handle.observe(started.elapsed().as_secs_f64());
            self.handled.inc();
            done.expect("in time")
        }
    }
}

pub(crate) mod careful_ractor {
    use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

    use crate::peers::by_hand::{Care, Sent};

    pub(crate) struct Ping(pub(crate) Sent, pub(crate) Option<RpcReplyPort<Vec<u8>>>);

    pub(crate) struct Counter;

    impl Actor for Counter {
        type Msg = Ping;
        type State = (Care, u32);
        type Arguments = Care;

        async fn pre_start(
            &self,
            _: ActorRef<Ping>,
            care: Care,
        ) -> Result<(Care, u32), ActorProcessingErr> {
            Ok((care, 0))
        }

        async fn handle(
            &self,
            _: ActorRef<Ping>,
            Ping(sent, reply): Ping,
            (care, count): &mut (Care, u32),
        ) -> Result<(), ActorProcessingErr> {
            care.handle(sent, async |ping| *count = count.wrapping_add(ping.n))
                .await;
            if let Some(reply) = reply {
                reply.send(serde_json::to_vec(count)?)?;
            }
            Ok(())
        }
    }
}

pub(crate) mod careful_kameo {
    use std::convert::Infallible;

    use kameo::Actor;
    use kameo::actor::ActorRef;
    use kameo::message::{Context, Message};

    use crate::peers::by_hand::{Care, Sent};

    pub(crate) struct Counter(pub(crate) Care, pub(crate) u32);

    impl Actor for Counter {
        type Args = Self;
        type Error = Infallible;

        async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
            Ok(args)
        }
    }

    pub(crate) struct Ping(pub(crate) Sent);

    impl Message<Ping> for Counter {
        type Reply = Vec<u8>;

        async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Vec<u8>>) -> Vec<u8> {
            let Self(care, count) = self;
            care.handle(ping.0, async |ping| *count = count.wrapping_add(ping.n))
                .await;
            serde_json::to_vec(count).expect("a number is JSON")
        }
    }
}

pub(crate) mod of_ractor {
    use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

    pub(crate) enum Ping {
        Tell(u32),
        Ask(u32, RpcReplyPort<u32>),
    }

    pub(crate) struct Counter;

    impl Actor for Counter {
        type Msg = Ping;
        type State = u32;
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Ping>, (): ()) -> Result<u32, ActorProcessingErr> {
            Ok(0)
        }

        async fn handle(
            &self,
            _: ActorRef<Ping>,
            message: Ping,
            state: &mut u32,
        ) -> Result<(), ActorProcessingErr> {
            match message {
                Ping::Tell(n) => *state = state.wrapping_add(n),
                Ping::Ask(0, _) => panic!("told to panic"),
                Ping::Ask(n, reply) => {
                    *state = state.wrapping_add(n);
                    reply.send(*state)?;
                }
            }
            Ok(())
        }
    }
}

pub(crate) mod of_kameo {
    use std::convert::Infallible;

    use kameo::Actor;
    use kameo::actor::ActorRef;
    use kameo::message::{Context, Message};

    pub(crate) struct Counter(pub(crate) u32);

    impl Actor for Counter {
        type Args = Self;
        type Error = Infallible;

        async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
            Ok(args)
        }
    }

    pub(crate) struct Ping(pub(crate) u32);

    impl Message<Ping> for Counter {
        type Reply = u32;

        async fn handle(&mut self, ping: Ping, _: &mut Context<Self, u32>) -> u32 {
            assert!(ping.0 > 0, "told to panic");
            self.0 = self.0.wrapping_add(ping.0);
            self.0
        }
    }
}
