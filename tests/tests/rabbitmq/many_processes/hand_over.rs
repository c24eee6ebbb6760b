//! A process that stops hands its queues and its sources over in order.

use std::time::Duration;

use brickwork_tests::broker::Broker;
use brickwork_tests::parts;
use brickwork_tests::process::until;

use super::site::{PATIENCE, Part, Site, is_full};

/// Lines between two stops: more than a consumer prefetches, so that no message is returned to its
/// queue twice without being handled.
const LINES_APART: usize = 1_500;

/// Creates an app: numbers from a file into a service that works on one message at a time, in
/// the order of its queue.
fn site(name: &str, count: usize, keep: &str) -> Site {
    let site = Site::new(&Broker::shared().url());
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", id = "/n" }}
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "out.jsonl"
        {keep}
        "#
    );
    parts::write(site.path(), &manifest, parts::numbers(count as u64));
    site
}

fn count_lines(site: &Site) -> usize {
    site.read("out.jsonl").lines().count()
}

fn until_lines(site: &Site, count: usize) {
    until("messages are handled", PATIENCE, || {
        let lines = count_lines(site);
        (lines >= count)
            .then_some(())
            .ok_or_else(|| format!("{lines} of {count}"))
    });
}

/// Returns the numbers in the order in which they were handled.
fn handled(site: &Site) -> Vec<u64> {
    let lines = site.lines("out.jsonl");
    let numbers = lines.iter().map(|line| line["n"].as_u64());
    numbers.map(|number| number.expect("a number")).collect()
}

/// Describes the places at which a number doesn't follow its predecessor.
fn breaks(numbers: &[u64]) -> Vec<String> {
    let pairs = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1);
    pairs
        .map(|pair| format!("{} {}", pair[0], pair[1]))
        .collect()
}

#[test]
fn a_service_with_a_store_that_stops_hands_its_queue_over_in_order() {
    let count = if is_full() { 200_000 } else { 40_000 };
    let site = site("in-order", count, "store = true\nmailbox = 512");
    site.finish("source", "app.toml", "lines");
    let mut random = fastrand::Rng::with_seed(17);
    let mut started = 0;
    let mut start = || -> Part {
        started += 1;
        site.start(&format!("keep-{started}"), "app.toml", "keep")
    };
    let mut active = start();
    let mut stops = 0;
    loop {
        let next = start();
        let before = count_lines(&site);
        if before + LINES_APART >= count {
            until_lines(&site, count);
            active.stop();
            next.stop();
            break;
        }
        until_lines(&site, before + LINES_APART);
        std::thread::sleep(Duration::from_millis(random.u64(0..200)));
        active.stop();
        active = next;
        stops += 1;
    }
    let numbers = handled(&site);
    let breaks = breaks(&numbers);
    println!("{count} messages, {stops} stops");
    assert!(stops >= 2, "the stops came after the load");
    assert!(breaks.is_empty(), "after {stops} stops: {breaks:?}");
    assert_eq!(numbers.len(), count);
}

#[test]
fn a_service_with_a_store_keeps_the_order_while_its_circuit_breaker_opens_and_closes() {
    let count = 300;
    let weather = r#"
        [services.weather]
        use = "chaos"
        in = "lines"
        out = "through"
        store = true
        config = { fail = 0.3, seed = 7 }
        breaker = { min_messages = 5, failure_rate = 0.3, pause = { min = "20ms", max = "20ms" } }
        retry = { attempts = 50, backoff = { min = "10ms", max = "10ms" } }
    "#;
    let site = site("in-order-breaker", count, weather);
    let manifest = site
        .read("app.toml")
        .replacen("in = \"lines\"", "in = \"through\"", 1);
    site.write("app.toml", &manifest);
    site.finish("source", "app.toml", "lines");
    let part = site.start("keep", "app.toml", "weather,keep");
    until_lines(&site, count);
    let retries = part.service("weather")["handled"]["retry"]
        .as_u64()
        .expect("a count");
    let opened = part
        .process
        .stderr()
        .matches("circuit breaker opened")
        .count();
    part.stop();
    // A message that failed is retried later. The others keep their order.
    let (mut latest, mut late) = (0, 0);
    for number in handled(&site) {
        late += u64::from(number < latest);
        latest = latest.max(number);
    }
    println!("{opened} times open, {retries} retries, {late} messages late");
    assert!(opened > 0, "the breaker never opened");
    assert!(
        late <= retries,
        "{late} messages are late, and {retries} were retried"
    );
}
