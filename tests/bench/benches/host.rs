//! The host beside bare actix, ractor and kameo, on one thread: tell, ask, panic to next reply,
//! idle instances. Brickwork has everything on: bound, deadline, catch, decoding of JSON,
//! metrics. The others get typed values and have none of these; a second variant adds by hand the
//! code that a careful user would write. The cost of making a message (id, time, encoding) is
//! measured by `end_to_end`.
//!
//! `cargo bench -p brickwork-bench --bench host [-- tell|ask|panic|idle]`

#![allow(missing_docs, reason = "a program")]

mod peers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::direct::{Direct, DirectConnector, message, request};
use brickwork_bench::rounds::{Rounds, machine, median, resident_bytes};
use futures_util::stream::{FuturesUnordered, StreamExt};

use self::peers::{by_hand, careful_kameo, careful_ractor, of_kameo, of_ractor, plain_actix};

const MESSAGES: u64 = 400_000;
const ASKS: u64 = 100_000;
const ROUNDS: usize = 7;
const PING: &[u8] = br#"{"n":1}"#;
const PANIC: &[u8] = br#"{"n":0}"#;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Ping {
    n: u32,
}

const PINGS: Input<Ping, u32> = Input::new("in");

struct Ours(u32);

impl Service for Ours {
    const NAME: &'static str = "ours";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&PINGS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(0))
    }
}

impl Handle<Ping, u32> for Ours {
    async fn handle(&mut self, ping: Ping, _: &mut Context) -> Result<u32, Failure> {
        assert!(ping.n > 0, "told to panic");
        self.0 = self.0.wrapping_add(ping.n);
        Ok(self.0)
    }
}

/// As `Ours`, written with attributes.
#[derive(Default)]
struct Attributed(u32);

#[service]
impl Attributed {
    #[input("in")]
    async fn pings(&mut self, ping: Ping) -> Result<u32> {
        assert!(ping.n > 0, "told to panic");
        self.0 = self.0.wrapping_add(ping.n);
        Ok(self.0)
    }
}

/// As `Attributed`, in the order of keys.
#[derive(Default)]
struct ByKey(u32);

#[service(key = "n")]
impl ByKey {
    #[input("in")]
    async fn pings(&mut self, ping: Ping) -> Result<u32> {
        assert!(ping.n > 0, "told to panic");
        self.0 = self.0.wrapping_add(ping.n);
        Ok(self.0)
    }
}

/// Runs `test` on a system with a Brickwork service.
fn ours<T>(instances: usize, test: impl AsyncFnOnce(Arc<Direct>) -> T) -> T {
    running::<Ours, T>(instances, test)
}

/// Runs `test` on a system with a service of a type.
fn running<S: Service, T>(instances: usize, test: impl AsyncFnOnce(Arc<Direct>) -> T) -> T {
    let manifest = format!(
        "[app]\nname = \"bench\"\ntransport = \"direct:\"\n[admin]\nlisten = \"off\"\n\
         [topics.pings]\nexternal = \"in\"\n\
         [services.ours]\nuse = \"{}\"\nin = \"pings\"\ninstances = {instances}\n",
        S::NAME
    );
    let file = std::env::temp_dir().join(format!("brickwork-bench-{}.toml", std::process::id()));
    std::fs::write(&file, manifest).expect("the manifest can be written");
    let connector = DirectConnector::default();
    let transports = Transports::new().with(connector.clone());
    let catalog = Catalog::new().with::<S>();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let result = test(connector.queue()).await;
        app.stop().await;
        result
    })
}

fn rate(messages: u64, took: Duration) -> f64 {
    messages as f64 / took.as_secs_f64() / 1e6
}

fn one_thread<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime can be built");
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Returns a message of each of 1,000 keys.
fn of_keys() -> Vec<brickwork::Message> {
    let payload = |n| Box::leak(format!("{{\"n\":{n}}}").into_boxed_str()).as_bytes();
    (1..=1_000).map(|n| message(payload(n))).collect()
}

/// Tells messages in turn, and returns the rate.
async fn tell_to(queue: &Direct, messages: &[brickwork::Message]) -> f64 {
    let started = Instant::now();
    for message in messages.iter().cycle().take(MESSAGES as usize) {
        queue.tell(message.clone()).await;
    }
    queue.settled(MESSAGES).await;
    rate(MESSAGES, started.elapsed())
}

fn tell() {
    Rounds::new("tell, one thread", "M/s")
        .with("brickwork, everything on", || {
            ours(1, async |queue| tell_to(&queue, &[message(PING)]).await)
        })
        .with("brickwork, with attributes", || {
            running::<Attributed, _>(1, async |queue| tell_to(&queue, &[message(PING)]).await)
        })
        .with("brickwork, 1,000 keys", || {
            running::<ByKey, _>(1, async |queue| tell_to(&queue, &of_keys()).await)
        })
        .with("brickwork, the same without keys", || {
            running::<Attributed, _>(1, async |queue| tell_to(&queue, &of_keys()).await)
        })
        .with("ractor, typed, nothing on", || {
            one_thread(async {
                let (actor, handle) = ractor::Actor::spawn(None, of_ractor::Counter, ())
                    .await
                    .unwrap();
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    actor.cast(of_ractor::Ping::Tell(1)).unwrap();
                }
                ractor::call!(actor, |reply| of_ractor::Ping::Ask(1, reply)).unwrap();
                let took = started.elapsed();
                actor.stop(None);
                handle.await.unwrap();
                rate(MESSAGES, took)
            })
        })
        .with("kameo, typed, bounded 64", || {
            one_thread(async {
                use kameo::actor::Spawn;
                let actor = of_kameo::Counter::spawn(of_kameo::Counter(0));
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    actor.tell(of_kameo::Ping(1)).await.unwrap();
                }
                actor.ask(of_kameo::Ping(1)).await.unwrap();
                rate(MESSAGES, started.elapsed())
            })
        })
        .with("kameo, typed, unbounded", || {
            one_thread(async {
                use kameo::actor::Spawn;
                let actor = of_kameo::Counter::spawn_with_mailbox(
                    of_kameo::Counter(0),
                    kameo::mailbox::unbounded(),
                );
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    actor.tell(of_kameo::Ping(1)).await.unwrap();
                }
                actor.ask(of_kameo::Ping(1)).await.unwrap();
                rate(MESSAGES, started.elapsed())
            })
        })
        .with("ractor, the same by hand", || {
            one_thread(async {
                let care = by_hand::Care::new();
                let (actor, handle) =
                    ractor::Actor::spawn(None, careful_ractor::Counter, care.clone())
                        .await
                        .unwrap();
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    let sent = care.send(PING).await;
                    actor.cast(careful_ractor::Ping(sent, None)).unwrap();
                }
                let last = care.send(PING).await;
                ractor::call!(actor, |reply| careful_ractor::Ping(last, Some(reply))).unwrap();
                let took = started.elapsed();
                actor.stop(None);
                handle.await.unwrap();
                rate(MESSAGES, took)
            })
        })
        .with("kameo, the same by hand", || {
            one_thread(async {
                use kameo::actor::Spawn;
                let care = by_hand::Care::new();
                let actor = careful_kameo::Counter::spawn(careful_kameo::Counter(care.clone(), 0));
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    let sent = care.send(PING).await;
                    actor.tell(careful_kameo::Ping(sent)).await.unwrap();
                }
                let last = care.send(PING).await;
                actor.ask(careful_kameo::Ping(last)).await.unwrap();
                rate(MESSAGES, started.elapsed())
            })
        })
        .with("bare actix, typed, unbounded", || {
            System::new().block_on(async {
                use actix::Actor;
                let actor = plain_actix::Counter(0).start();
                let started = Instant::now();
                for _ in 0..MESSAGES {
                    actor
                        .try_send(plain_actix::Ping(1))
                        .or_else(|_| {
                            // Its bound is one slot per sender; beyond it, `do_send` is needed.
                            actor.do_send(plain_actix::Ping(1));
                            Ok::<_, ()>(())
                        })
                        .unwrap();
                }
                actor.send(plain_actix::Ping(1)).await.unwrap();
                rate(MESSAGES, started.elapsed())
            })
        })
        .run(ROUNDS);
}

/// Keeps `width` requests in flight until `ASKS` are answered.
async fn asks<F: Future>(width: u64, mut ask: impl FnMut() -> F) -> f64 {
    let started = Instant::now();
    if width == 1 {
        for _ in 0..ASKS {
            ask().await;
        }
    } else {
        let mut under_way: FuturesUnordered<F> = (0..width).map(|_| ask()).collect();
        let mut answered = 0;
        while under_way.next().await.is_some() {
            answered += 1;
            if answered + width <= ASKS {
                under_way.push(ask());
            }
        }
    }
    rate(ASKS, started.elapsed())
}

fn ask(width: u64) {
    Rounds::new(format!("ask, {width} at a time, one thread"), "M/s")
        .with("brickwork, everything on", || {
            ours(1, async |queue| {
                let ping = request(PING);
                asks(width, || async { queue.ask(ping.clone()).await.unwrap() }).await
            })
        })
        .with("ractor, typed, nothing on", || {
            one_thread(async {
                let (actor, handle) = ractor::Actor::spawn(None, of_ractor::Counter, ())
                    .await
                    .unwrap();
                let rate = asks(width, || async {
                    ractor::call!(actor, |reply| of_ractor::Ping::Ask(1, reply)).unwrap()
                })
                .await;
                actor.stop(None);
                handle.await.unwrap();
                rate
            })
        })
        .with("kameo, typed, nothing on", || {
            one_thread(async {
                use kameo::actor::Spawn;
                let actor = of_kameo::Counter::spawn(of_kameo::Counter(0));
                asks(width, || async {
                    actor.ask(of_kameo::Ping(1)).await.unwrap()
                })
                .await
            })
        })
        .with("ractor, the same by hand", || {
            one_thread(async {
                let care = by_hand::Care::new();
                let (actor, handle) =
                    ractor::Actor::spawn(None, careful_ractor::Counter, care.clone())
                        .await
                        .unwrap();
                let rate = asks(width, || async {
                    let sent = care.send(PING).await;
                    ractor::call!(actor, |reply| careful_ractor::Ping(sent, Some(reply))).unwrap()
                })
                .await;
                actor.stop(None);
                handle.await.unwrap();
                rate
            })
        })
        .with("kameo, the same by hand", || {
            one_thread(async {
                use kameo::actor::Spawn;
                let care = by_hand::Care::new();
                let actor = careful_kameo::Counter::spawn(careful_kameo::Counter(care.clone(), 0));
                asks(width, || async {
                    let sent = care.send(PING).await;
                    actor.ask(careful_kameo::Ping(sent)).await.unwrap()
                })
                .await
            })
        })
        .with("bare actix, typed, nothing on", || {
            System::new().block_on(async {
                use actix::Actor;
                let actor = plain_actix::Counter(0).start();
                asks(width, || async {
                    actor.send(plain_actix::Ping(1)).await.unwrap()
                })
                .await
            })
        })
        .run(ROUNDS);
}

/// Measures the time from a message that panics to the next reply, in microseconds.
fn panics() {
    const PANICS: usize = 500;
    let backtrace = std::env::var("RUST_BACKTRACE").unwrap_or_else(|_| "not set".into());
    Rounds::new(
        format!("panic to next reply, RUST_BACKTRACE={backtrace}"),
        "µs",
    )
    .with("brickwork", || {
        ours(1, async |queue| {
            let mut times = Vec::with_capacity(PANICS);
            for _ in 0..PANICS {
                queue.ask(request(PING)).await.unwrap();
                let started = Instant::now();
                queue.tell(message(PANIC)).await;
                queue.ask(request(PING)).await.unwrap();
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
            median(&mut times)
        })
    })
    .with("ractor, respawned by hand", || {
        one_thread(async {
            let mut times = Vec::with_capacity(PANICS);
            for _ in 0..PANICS {
                let (actor, handle) = ractor::Actor::spawn(None, of_ractor::Counter, ())
                    .await
                    .unwrap();
                let started = Instant::now();
                let failed = ractor::call!(actor, |reply| of_ractor::Ping::Ask(0, reply));
                assert!(failed.is_err());
                handle.await.unwrap();
                let (next, handle) = ractor::Actor::spawn(None, of_ractor::Counter, ())
                    .await
                    .unwrap();
                ractor::call!(next, |reply| of_ractor::Ping::Ask(1, reply)).unwrap();
                times.push(started.elapsed().as_secs_f64() * 1e6);
                next.stop(None);
                handle.await.unwrap();
            }
            median(&mut times)
        })
    })
    .with("kameo, respawned by hand", || {
        one_thread(async {
            use kameo::actor::Spawn;
            let mut times = Vec::with_capacity(PANICS);
            for _ in 0..PANICS {
                let actor = of_kameo::Counter::spawn(of_kameo::Counter(0));
                actor.ask(of_kameo::Ping(1)).await.unwrap();
                let started = Instant::now();
                assert!(actor.ask(of_kameo::Ping(0)).await.is_err());
                actor.wait_for_shutdown().await;
                let next = of_kameo::Counter::spawn(of_kameo::Counter(0));
                next.ask(of_kameo::Ping(1)).await.unwrap();
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
            median(&mut times)
        })
    })
    .run(ROUNDS);
}

/// Measures memory and start time of idle instances.
fn idle() {
    const INSTANCES: usize = 100_000;
    let before = resident_bytes();
    let started = Instant::now();
    ours(INSTANCES, async |queue| {
        println!(
            "{INSTANCES} instances, started in {:.3} s, {:.0} bytes resident each",
            started.elapsed().as_secs_f64(),
            (resident_bytes() - before) as f64 / INSTANCES as f64
        );
        // The longest-waiting instances are woken first, so each gets one message.
        for _ in 0..INSTANCES {
            queue.tell(message(PING)).await;
        }
        queue.settled(INSTANCES as u64).await;
        println!(
            "after a message each: {:.0} bytes resident each",
            (resident_bytes() - before) as f64 / INSTANCES as f64
        );
    });
}

fn main() {
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    brickwork::panic::install_hook();
    println!("{}\n", machine());
    // Runs first: resident memory must not include other benchmarks.
    if wanted("idle") {
        idle();
    }
    if wanted("tell") {
        tell();
    }
    if wanted("ask") {
        ask(1);
        ask(64);
    }
    if wanted("panic") {
        panics();
    }
}
