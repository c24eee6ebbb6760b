//! The app, the broker or both are killed repeatedly, also during recovery.

use std::time::Duration;

use brickwork_tests::broker::Broker;
use brickwork_tests::seed::Seed;

use super::load::{Load, Shape, is_full};

/// Milliseconds within which recovery happens.
const RECOVERING: std::ops::Range<u64> = 0..700;

fn start(name: &str, count: u64) -> Load {
    let broker = Broker::start();
    let url = broker.url();
    let shape = Shape {
        name,
        count,
        per_second: 1_000,
        second: "",
        more: "",
    };
    Load::start(broker, &url, shape)
}

/// Sleeps for a random time: the moment of the fault is random.
fn pause(random: &mut fastrand::Rng, ms: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(random.u64(ms)));
}

#[test]
fn an_app_that_is_killed_repeatedly_loses_nothing_and_blames_no_message() {
    let seed = Seed::or(1);
    let mut random = seed.random();
    let (count, times) = if is_full() {
        (100_000, 60)
    } else {
        (10_000, 6)
    };
    let mut load = start("killed", count);
    let mut killed = 0;
    // On a busy machine the load may end first.
    while killed < times && !load.feeder.is_done() {
        pause(&mut random, 100..1_500);
        load.kill_app();
        load.start_app_again();
        killed += 1;
    }
    assert!(killed > times / 2, "the load was over after {killed} kills");
    let account = load.check();
    println!("{account}");
}

#[test]
fn an_app_that_is_killed_before_it_has_started_loses_nothing() {
    let seed = Seed::or(2);
    let mut random = seed.random();
    let (count, times) = if is_full() { (60_000, 60) } else { (5_000, 8) };
    let mut load = start("hardly", count);
    for _ in 0..times {
        load.kill_app();
        load.start_app_anyhow();
        // The app is killed while it connects, declares or takes its first messages.
        pause(&mut random, RECOVERING);
    }
    load.start_app_again();
    let account = load.check();
    println!("{account}");
}

#[test]
fn a_crash_during_recovery_loses_nothing() {
    let seed = Seed::or(3);
    let mut random = seed.random();
    let (count, rounds) = if is_full() { (100_000, 8) } else { (10_000, 1) };
    let mut load = start("twice", count);
    for _ in 0..rounds {
        // The app is killed while it reconnects or shortly after.
        load.broker.kill();
        pause(&mut random, RECOVERING);
        load.broker.start_again();
        pause(&mut random, RECOVERING);
        load.kill_app();
        load.start_app_again();
        load.until_it_writes();

        // The broker is killed while the app declares and consumes again.
        load.broker.kill();
        load.broker.start_again();
        pause(&mut random, RECOVERING);
        load.broker.kill();
        load.broker.start_again();
        load.until_ready_says(true, "");
        load.until_it_writes();

        // Both are killed at once, and again during recovery.
        load.broker.kill();
        load.kill_app();
        load.broker.start_again();
        load.start_app_anyhow();
        pause(&mut random, RECOVERING);
        load.broker.kill();
        load.kill_app();
        load.broker.start_again();
        load.start_app_again();
        load.until_it_writes();
    }
    let account = load.check();
    println!("{account}");
}
