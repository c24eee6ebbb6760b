//! What fails a test, and how it is told.

use brickwork::prelude::*;
use brickwork::testing::{Fault, FaultPoint, PATIENCE, Setup, TestApp};
use brickwork_tests::puppet::{Puppet, PuppetConfig};
use serde_json::json;

use crate::stock::*;
use crate::{HOUR, MINUTE, assert_says, panic_of};

/// Spawns a task that nobody ends.
struct Leaky;

#[derive(Debug, Default, Deserialize, JsonSchema)]
struct LeakyConfig {
    /// On the runtime, rather than on the instance's thread.
    sendable: bool,
}

impl Service for Leaky {
    const NAME: &'static str = "leaky";
    type Config = LeakyConfig;
    fn ports(_: &LeakyConfig, ports: &mut Ports<Self>) {
        ports.input(&Input::<u32>::new("in"));
    }
    async fn start(config: &LeakyConfig, _: &mut Context) -> Result<Self, Failure> {
        let beat = async {
            loop {
                tokio::time::sleep(MINUTE).await;
            }
        };
        match config.sendable {
            true => drop(tokio::spawn(beat)),
            false => drop(tokio::task::spawn_local(beat)),
        }
        Ok(Self)
    }
}

impl Handle<u32> for Leaky {
    async fn handle(&mut self, _: u32, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn a_task_that_outlives_its_service_fails_the_test() {
    for sendable in [false, true] {
        let leaky = || TestApp::of::<Leaky>(LeakyConfig { sendable });
        let told = "a task that a service spawned still runs";
        assert_says(
            &panic_of(|| drop(leaky().stop())),
            &["after the stop", told],
        );
        assert_says(&panic_of(|| drop(leaky())), &["after the stop", told]);
        let allowed = Setup::of::<Leaky>(LeakyConfig { sendable });
        allowed.allow_leftover_tasks().start().stop();
    }
}

#[test]
fn a_test_that_fails_already_is_not_told_of_leaks() {
    let told = panic_of(|| {
        let _leaky = TestApp::of::<Leaky>(LeakyConfig::default());
        panic!("the test's own");
    });
    assert_eq!(told, "the test's own");
}

#[test]
fn a_fault_that_had_no_occasion_to_strike_fails_the_test() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::panic(FaultPoint::Tick).of("stock").times(3));
    stock.send(&REQUESTS, reserve(1));
    stock.expect(&RESERVED);
    assert_says(
        &panic_of(|| drop(stock.stop())),
        &["never struck: Fault::panic(FaultPoint::Tick) of stock struck 0 of 3 times"],
    );
}

#[test]
fn an_expectation_that_fails_tells_what_happened_instead() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(FaultPoint::Handle));
    stock.send(&REQUESTS, reserve(1000));
    let told = panic_of(|| drop(stock.expect(&RESERVED)));
    assert_says(
        &told,
        &[
            "no message came on `reserved` within 3600s; so far:",
            r#"on `requests`: 1 message, the last {"sku":"a","quantity":1000}"#,
            "stock: 2 attempts (1 to be retried, 1 rejected)",
            "retry at attempt 1: injected at FaultPoint::Handle",
            "reject at attempt 2: not that many left",
            r#"stock dead-lettered {"sku":"a","quantity":1000} after 2 attempts (reject: not that many left)"#,
        ],
    );
    assert!(PATIENCE == HOUR);
}

#[test]
fn an_expectation_that_fails_tells_why_a_service_does_not_work() {
    let setup = Setup::of::<Stock>(of_100());
    let stock = setup
        .inject(Fault::fail(FaultPoint::Start).always())
        .start();
    stock.send(&REQUESTS, reserve(1));
    let told = panic_of(|| drop(stock.expect(&RESERVED)));
    assert_says(
        &told,
        &[
            "start: injected at FaultPoint::Start (10 times)",
            "not ready: service stock is isolated",
        ],
    );
}

#[test]
fn what_comes_unexpectedly_or_unreadably_is_shown() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.send(&REQUESTS, reserve(1));
    let told = panic_of(|| stock.expect_nothing(&RESERVED));
    assert_says(
        &told,
        &[
            "no message was expected on `reserved`, these came:",
            r#""left":99"#,
        ],
    );
    let numbers: Output<u32> = Output::new("reserved");
    let told = panic_of(|| _ = stock.expect(&numbers));
    assert_says(
        &told,
        &[
            "can't decode the message on `reserved`: the payload is not a valid uint32",
            "99",
        ],
    );
    let told = panic_of(|| drop(stock.expect_dead_letter()));
    assert_says(&told, &["no message was dead-lettered within 3600s"]);
}

#[test]
fn a_name_that_nobody_has_is_told_with_those_that_there_are() {
    let stock = TestApp::of::<Stock>(of_100());
    let told = panic_of(|| drop(stock.send("request", json!({}))));
    assert_says(
        &told,
        &["stock has no input `request`; there are: counts, requests"],
    );
    let told = panic_of(|| drop(stock.expect("requests")));
    assert_says(
        &told,
        &["stock has no output `requests`; there are: reserved"],
    );
    let told = panic_of(|| stock.answer(&PRICES, |_| 1));
    assert_says(&told, &["stock has no output `prices`"]);
    let shop = shop().start();
    let told = panic_of(|| drop(shop.send("orders", json!({}))));
    assert_says(
        &told,
        &["no service reads the topic `orders`; there are: counts, orders.placed"],
    );
    let told = panic_of(|| drop(shop.expect("orders.placed")));
    assert_says(&told, &["no service feeds the topic `orders.placed`"]);
}

#[test]
fn a_wrong_config_setting_or_manifest_is_reported_as_it_is_elsewhere() {
    let told = panic_of(|| drop(TestApp::of::<Stock>(StockConfig::default())));
    assert_says(
        &told,
        &["stock refuses its config", "left: there must be something"],
    );
    let wrong = Setup::of::<Stock>(of_100()).with("services.stock.instance = 3");
    let told = panic_of(|| drop(wrong.start()));
    assert_says(&told, &["E010", "instance"]);
    let told = panic_of(|| drop(shop().with("services.stock.use = \"stick\"").start()));
    assert_says(&told, &["E030", "stick"]);
}

#[test]
fn a_fault_that_can_not_be_is_refused() {
    let told = panic_of(|| drop(Fault::panic(FaultPoint::Settle)));
    assert_eq!(told, "nothing can panic at FaultPoint::Settle");
    let told = panic_of(|| drop(Fault::hang(FaultPoint::Consume)));
    assert_eq!(told, "nothing can hang at FaultPoint::Consume");
    let told = panic_of(|| drop(Fault::fail(FaultPoint::Drop)));
    assert_eq!(told, "nothing can fail at FaultPoint::Drop");
}

#[test]
fn a_service_that_paused_itself_for_a_day_leaves_nothing_behind() {
    let puppet = TestApp::of::<Puppet>(PuppetConfig::default());
    puppet.send("in", json!({"n": 1, "act": "pause", "ms": 86_400_000}));
    assert_eq!(puppet.expect("out")["n"], 1);
    puppet.stop();
}
