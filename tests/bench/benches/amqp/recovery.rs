//! Time from the broker's first accepted connection after a crash to the first handled message.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::{App, Clock, Workers};
use brickwork_bench::rounds::median;

use crate::work::{Bench, IN, Order, plan};

const ROUNDS: usize = 5;

thread_local! {
    static HANDLED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A slow service, so that messages are always left.
struct Slow;

impl Service for Slow {
    const NAME: &'static str = "slow";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Order> for Slow {
    async fn handle(&mut self, _: Order, _: &mut Context) -> Result<(), Failure> {
        HANDLED.set(Some(Instant::now()));
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(())
    }
}

/// Returns the time at which the broker answers again.
fn answers(port: u16) -> Instant {
    loop {
        let greet = || -> std::io::Result<u8> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            Ok(kind[0])
        };
        if greet().is_ok_and(|kind| kind == 1) {
            return Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn run(bench: &mut Bench) {
    let services = "[topics.slowly]\nexternal = \"in\"\n\
                    [services.slow]\nin = \"slowly\"\nmailbox = 8\n\
                    [services.sink]\nuse = \"slow\"\nin = \"slowly\"\n";
    let only = ["slow".to_owned()];
    let catalog = Catalog::new().with::<Slow>();
    let plan = plan(&bench.broker.url(), services, &only, &catalog);
    let port = bench.broker.port();
    let mut waits = System::new().block_on(async {
        let transports = brickwork_bridges::all();
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let mut waits = Vec::new();
        for _ in 0..ROUNDS {
            // Far more than one round handles.
            let bench = &mut *bench;
            std::thread::scope(|scope| {
                scope.spawn(|| bench.fill(&["slowly".to_owned()], 5_000, 256));
            });
            // A broker that is killed right after a queue was declared may forget the queue.
            bench.broker.write_queues_down();
            let since = until_handled(Instant::now()).await;
            bench.broker.kill();
            let answering = std::thread::spawn(move || answers(port));
            let again = std::thread::scope(|scope| {
                scope.spawn(|| bench.broker.start_again());
                answering.join().expect("it answers")
            });
            assert!(since < again);
            let handled = until_handled(again).await;
            waits.push(handled.duration_since(again).as_secs_f64() * 1e3);
        }
        app.stop().await;
        waits
    });
    println!(
        "broker killed and started again, {ROUNDS} times: from its first answer to the first message"
    );
    println!("  {waits:.0?} ms, median {:.0} ms\n", median(&mut waits));
}

/// Returns the time of the first message that is handled later than `after`.
async fn until_handled(after: Instant) -> Instant {
    loop {
        if let Some(handled) = HANDLED.get()
            && handled > after
        {
            return handled;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
