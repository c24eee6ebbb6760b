//! Confirms that do not come: on a half-open connection, and from a suspended queue.

use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::proxy::{Proxy, Way, Whose};

use super::load::{IS_LOST, Load, SOON, Shape, is_full};

fn shape(name: &str) -> Shape<'_> {
    Shape {
        name,
        count: if is_full() { 20_000 } else { 8_000 },
        per_second: 1_000,
        second: "",
        more: "",
    }
}

#[test]
fn a_publishing_connection_without_confirms_is_replaced() {
    let heartbeat = Duration::from_secs(if is_full() { 10 } else { 2 });
    let broker = Broker::start();
    let proxy = Proxy::start(broker.address());
    let url = format!(
        "amqp://guest:guest@{}?heartbeat={}",
        proxy.address(),
        heartbeat.as_secs()
    );
    let load = Load::start(broker, &url, shape("one-way"));
    proxy.swallow(Whose::Saying("publishing"), Way::Down);
    let since = Instant::now();
    load.until_ready_says(false, IS_LOST);
    let noticed = since.elapsed();
    let bound = 2 * heartbeat + SOON;
    assert!(noticed < bound, "noticed only after {noticed:?}");
    let account = load.check();
    let deaf = account.seen.quiet(since + noticed);
    assert!(deaf < SOON, "deaf for {deaf:?} on a new connection");
    println!("{account}; noticed after {noticed:?}, then quiet for {deaf:?}");
}

/// When a quorum queue lags, the broker stops reading from the connection that publishes to it,
/// and so blocks everything that this process publishes. Consuming continues, sources wait, and
/// readiness reports it.
#[test]
fn a_suspended_queue_delays_publishing_and_loses_nothing() {
    let broker = Broker::start();
    let url = broker.url();
    let shape = Shape {
        more: r#"
            [services.aside]
            use = "file-out"
            in = "fed"
            config.path = "aside.jsonl"
            "#,
        ..shape("frozen")
    };
    let load = Load::start(broker, &url, shape);
    let queue = "whereis('%2F_frozen.second.in')";
    let suspended = format!("ok = sys:suspend({queue}).");
    load.broker.ctl(&["eval", &suspended]);
    let frozen = Instant::now();
    // A service that only consumes isn't blocked.
    let aside = load.until_file_grows("aside.jsonl");
    assert!(aside < SOON, "held up for {aside:?}");
    // The fault should last longer than a publication waits for its confirm, in a full run.
    let time = Duration::from_secs(if is_full() { 75 } else { 4 });
    load.until_ready_says(false, "no publication was confirmed");
    std::thread::sleep(time.saturating_sub(frozen.elapsed()));
    let resumed = format!("ok = sys:resume({queue}).");
    load.broker.ctl(&["eval", &resumed]);
    let thawed = Instant::now();
    let account = load.check();
    let deaf = account.seen.quiet(thawed);
    assert!(deaf < SOON, "deaf for {deaf:?} with a queue that works");
    let lost = account.log.matches("the connection to the broker is lost");
    assert_eq!(lost.count(), 0, "{}", account.log);
    println!(
        "{account}; frozen for {:?}, ready and quiet for {:?}, quiet for {deaf:?} after",
        thawed - frozen,
        account.seen.quiet_though_ready()
    );
}
