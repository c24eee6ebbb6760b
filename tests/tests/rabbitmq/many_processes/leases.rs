//! A source with a lease runs in one process at a time.

use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;

use super::site::{PATIENCE, check_ids, numbers, signal, until_all_written};

#[test]
fn a_source_with_a_lease_runs_in_one_process_and_another_takes_over_when_it_dies() {
    let count = 3_000;
    let site = numbers("single", &Broker::shared().url(), count, 300);
    let rest = site.start("rest", "app.toml", "work,keep,write");
    let first = site.start("first", "app.toml", "lines");
    first.until_emitted("lines", 0, PATIENCE);
    let second = site.start("second", "app.toml", "lines");
    let third = site.start("third", "app.toml", "lines");
    for waiting in [&second, &third] {
        waiting.until_state("lines", "standing by", PATIENCE);
        assert!(waiting.is_ready());
    }
    first.until_emitted("lines", 300, PATIENCE);
    assert_eq!((second.emitted("lines"), third.emitted("lines")), (0, 0));
    assert_eq!(first.state("lines"), "up");

    // Kills the process.
    first.kill();
    let died = Instant::now();
    until("one of the others takes over", PATIENCE, || {
        let states = (second.state("lines"), third.state("lines"));
        let one = [&states.0, &states.1]
            .iter()
            .filter(|state| **state == "up")
            .count();
        (one == 1)
            .then_some(())
            .ok_or_else(|| format!("{states:?}"))
    });
    let killed = died.elapsed();
    assert!(killed < Duration::from_secs(5), "{killed:?}");
    let (now, next) = match second.state("lines") == "up" {
        true => (second, third),
        false => (third, second),
    };
    // Positions do not travel.
    let log = now.process.stderr();
    assert!(log.contains("no position in app.data"), "{log}");
    now.until_emitted("lines", 100, PATIENCE);
    assert_eq!(next.emitted("lines"), 0);
    // Stops gracefully: the successor gets the lease as soon as the source has stopped.
    now.stop();
    let stopped = Instant::now();
    next.until_state("lines", "up", Duration::from_secs(5));
    println!(
        "lease taken {killed:?} after a kill, {:?} after a stop",
        stopped.elapsed()
    );
    next.until_state("lines", "ended", PATIENCE);
    // A finished source does not start again in a process that comes later.
    let late = site.start("late", "app.toml", "lines");
    late.until_state("lines", "standing by", PATIENCE);
    until_all_written(&site, count);
    for part in [late, next, rest] {
        part.stop();
    }
    // Each process has its own position: a process that takes over starts from the beginning.
    let again = check_ids(&site.lines("out.jsonl"), count);
    println!("{count} lines: lost 0, {again} again, under the same ids");
}

#[test]
fn a_lease_passes_on_whatever_delivery_limit_a_policy_sets() {
    let broker = Broker::shared();
    for (name, limit) in [("lease-none", 0), ("lease-one", 1)] {
        let queue = format!(r"^{name}\..*\.lease$");
        let policy = format!(r#"{{"delivery-limit":{limit}}}"#);
        broker.ctl(&["set_policy", name, &queue, &policy]);
        let site = numbers(name, &broker.url(), 100_000, 100);
        let parts = ["first", "second", "third", "fourth"];
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|part| site.start(part, "app.toml", "lines"))
            .collect();
        while parts.len() > 1 {
            let holder = until("a process has the lease", Duration::from_secs(15), || {
                let states: Vec<String> = parts.iter().map(|part| part.state("lines")).collect();
                let holder = states.iter().position(|state| state == "up");
                holder.ok_or_else(|| format!("limit {limit}: {states:?}"))
            });
            parts.remove(holder).kill();
        }
    }
}

#[test]
fn a_process_frozen_past_its_heartbeat_loses_its_source_to_another_one() {
    let count = 4_000;
    let mut site = numbers("frozen", &Broker::shared().url(), count, 200);
    let rest = site.start("rest", "app.toml", "work,keep,write");
    site.url += "?heartbeat=2";
    let first = site.start("first", "app.toml", "lines");
    first.until_emitted("lines", 100, PATIENCE);
    let second = site.start("second", "app.toml", "lines");
    second.until_state("lines", "standing by", PATIENCE);
    signal("-STOP", first.process.id());
    let frozen = Instant::now();
    // The broker waits for two heartbeats, and checks from time to time.
    second.until_state("lines", "up", Duration::from_secs(12));
    let taken = frozen.elapsed();
    second.until_emitted("lines", 20, PATIENCE);
    signal("-CONT", first.process.id());
    // The first process learns that it lost the lease, and waits for its turn.
    first.until_state("lines", "standing by", PATIENCE);
    until("it is connected again", PATIENCE, || {
        first.is_ready().then_some(()).ok_or_else(String::new)
    });
    let stays = first.emitted("lines");
    second.until_emitted("lines", 200, PATIENCE);
    assert_eq!(first.emitted("lines"), stays, "two at once");
    assert_eq!(second.state("lines"), "up");
    println!("lease taken {taken:?} after it froze");
    until_all_written(&site, count);
    for part in [first, second, rest] {
        part.stop();
    }
    check_ids(&site.lines("out.jsonl"), count);
}
