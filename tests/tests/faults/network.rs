//! Random network faults of every kind, at random moments.

use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::proxy::{Cut, Proxy, Way, Weather, Whose};
use brickwork_tests::seed::Seed;
use fastrand::Rng;

use super::load::{Load, SOON, Shape, is_full};

/// Heartbeat interval; a silent connection is detected within twice this time.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a client waits for a peer that accepts and stays silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time after a cut in which the app may still report that it is ready; it learns of the cut at
/// once.
const TELLING: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Cut connections; reconnecting works at once.
    Cut(Whose, Cut),
    /// Cut connections and refuse new ones for a while.
    Gone(Cut, Duration),
    HalfOpen(Whose, Way),
    /// Half-open connections in both directions.
    Silent(Whose),
    /// Cut each connection after some bytes, for a while.
    Short(u64, Duration),
    Slow(Weather, Duration),
}

/// Draws faults: each kind equally often, in random order.
fn draw_all(random: &mut Rng, count: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    while faults.len() < count {
        let mut round: Vec<_> = (0..KINDS).map(|kind| draw(kind, random)).collect();
        random.shuffle(&mut round);
        faults.append(&mut round);
    }
    faults
}

/// Draws a fault of a kind.
fn draw(kind: u8, random: &mut Rng) -> Fault {
    let whose = [
        Whose::All,
        Whose::Saying("publishing"),
        Whose::Saying("consuming"),
    ];
    let whose = whose[random.usize(..3)];
    let cut = if random.bool() {
        Cut::Reset
    } else {
        Cut::Finish
    };
    let way = if random.bool() { Way::Up } else { Way::Down };
    let time = Duration::from_millis(random.u64(1_500..3_000));
    match kind {
        0 => Fault::Cut(whose, cut),
        1 => Fault::Gone(cut, time),
        2 => Fault::HalfOpen(whose, way),
        3 => Fault::Silent(whose),
        4 => Fault::Short(random.u64(1..20_000), time),
        5 => Fault::Slow(
            Weather {
                delay: Duration::from_millis(random.u64(5..200)),
                bytes_per_second: None,
            },
            time,
        ),
        _ => Fault::Slow(
            Weather {
                delay: Duration::ZERO,
                bytes_per_second: Some(random.u64(20_000..200_000)),
            },
            time,
        ),
    }
}

/// Number of kinds.
const KINDS: u8 = 7;

/// Injects a fault. Returns the time span in which no connection can have worked.
fn befall(proxy: &Proxy, fault: Fault) -> Option<(Instant, Instant)> {
    match fault {
        Fault::Cut(whose, how) => proxy.cut(whose, how),
        Fault::HalfOpen(whose, way) => proxy.swallow(whose, way),
        Fault::Silent(whose) => {
            proxy.swallow(whose, Way::Up);
            proxy.swallow(whose, Way::Down);
        }
        Fault::Gone(how, time) => {
            proxy.refuse(true);
            proxy.cut(Whose::All, how);
            let from = Instant::now();
            // The fault lasts this long.
            std::thread::sleep(time);
            let to = Instant::now();
            proxy.refuse(false);
            return Some((from, to));
        }
        Fault::Short(bytes, time) => {
            let end = Instant::now() + time;
            while Instant::now() < end {
                proxy.cut_after(Whose::All, bytes);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Fault::Slow(weather, time) => {
            proxy.weather(weather);
            std::thread::sleep(time);
            proxy.heal();
        }
    }
    None
}

fn run(seed: &Seed, count: u64, per_second: u64, faults: usize) {
    let mut random = seed.random();
    let broker = Broker::start();
    let proxy = Proxy::start(broker.address());
    let url = format!(
        "amqp://guest:guest@{}?heartbeat={}",
        proxy.address(),
        HEARTBEAT.as_secs()
    );
    let shape = Shape {
        name: "network",
        count,
        per_second,
        second: "",
        more: "",
    };
    let load = Load::start(broker, &url, shape);
    let began = Instant::now();
    let mut cut_off = Vec::new();
    for fault in draw_all(&mut random, faults) {
        println!("{:>6} ms: {fault:?}", began.elapsed().as_millis());
        cut_off.extend(befall(&proxy, fault));
        // A random moment under load.
        std::thread::sleep(Duration::from_millis(random.u64(..1_500)));
    }
    proxy.heal();
    let last = Instant::now();
    assert!(!load.feeder.is_done(), "the faults came after the load");
    println!("{:>6} ms: healed", (last - began).as_millis());
    let account = load.check();

    for (from, to) in cut_off {
        let looks: Vec<_> = account.seen.between(from + TELLING, to).collect();
        assert!(!looks.is_empty(), "there are no observations");
        let lie = looks.iter().find(|look| look.ready == Some(true));
        assert!(lie.is_none(), "ready while cut off: {lie:?}");
    }
    let deaf = account.seen.quiet(last);
    // The last half-open connection is noticed late, perhaps during a connection attempt.
    let bound = CONNECT_TIMEOUT + SOON;
    assert!(deaf < bound, "deaf for {deaf:?} by a way that works");
    let lie = account.seen.quiet_though_ready();
    let bound = 2 * HEARTBEAT + SOON;
    assert!(lie < bound, "ready and deaf for {lie:?}\n{}", account.log);
    println!("{account}; deaf for {deaf:?} after the last fault; ready and deaf for {lie:?}");
}

#[test]
fn a_network_with_every_fault_loses_nothing_and_readiness_reports_it() {
    if !is_full() {
        return run(&Seed::or(1), 10_000, 500, 7);
    }
    for seed in Seed::each(1..=10) {
        run(&seed, 60_000, 700, 21);
    }
}
