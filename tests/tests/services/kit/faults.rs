//! Injected faults at every point.

use std::panic::{AssertUnwindSafe, catch_unwind};

use brickwork::Reason;
use brickwork::prelude::*;
use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
use serde_json::json;

use super::stock::*;
use super::{MINUTE, assert_says, panic_of};

#[test]
fn a_start_that_fails_panics_or_hangs_is_retried() {
    for fault in [Fault::fail, Fault::panic, Fault::hang] {
        let stock = Setup::of::<Stock>(of_100())
            .inject(fault(FaultPoint::Start).times(2))
            .start();
        stock.send(&REQUESTS, reserve(1));
        assert_eq!(stock.expect(&RESERVED).attempt, 1);
        assert_eq!(stock.summary().services[0].restarts, 2);
        stock.stop();
    }
}

#[test]
fn a_message_that_fails_panics_or_hangs_is_retried() {
    for point in [FaultPoint::Handle, FaultPoint::Handled] {
        for (fault, outcome) in [
            (Fault::fail(point), "1 to be retried"),
            (Fault::panic(point), "1 panicked"),
            (Fault::hang(point), "1 timed out"),
        ] {
            let stock = TestApp::of::<Stock>(of_100());
            stock.inject(fault);
            stock.send(&REQUESTS, reserve(1));
            let reserved = stock.expect(&RESERVED);
            // After the handler, the work is done; the instance survives only after a failure.
            let done_twice = point == FaultPoint::Handled && outcome == "1 to be retried";
            let left = if done_twice { 98 } else { 99 };
            assert_eq!((reserved.left, reserved.attempt), (left, 2));
            let told = panic_of(|| stock.expect_nothing("nonsense"));
            assert_says(&told, &[outcome]);
            stock.expect_nothing(&RESERVED);
        }
    }
}

#[test]
fn an_injected_failure_counts_as_one_of_the_handler() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(
        Fault::with(FaultPoint::Handle, Failure::reject("no"))
            .after(1)
            .times(1),
    );
    for _ in 0..3 {
        stock.send(&REQUESTS, reserve(1));
    }
    let letter = stock.expect_dead_letter();
    assert_eq!(
        (letter.dead_letter.reason, &*letter.dead_letter.error),
        (Reason::Reject, "no")
    );
    assert_eq!([0; 2].map(|_| stock.expect(&RESERVED).left), [99, 98]);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn every_message_of_a_batch_has_its_own_fault() {
    struct Sum;
    const IN: Input<u32> = Input::new("in");
    impl Service for Sum {
        const NAME: &'static str = "sum";
        type Config = NoConfig;
        fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
            let batch = Batch {
                max: 3,
                within: MINUTE,
            };
            ports.batch(&IN, batch);
        }
        async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
            Ok(Self)
        }
    }
    impl HandleBatch<u32> for Sum {
        async fn handle_batch(
            &mut self,
            batch: Vec<u32>,
            _: &mut Context,
        ) -> Vec<Result<(), Failure>> {
            batch.iter().map(|_| Ok(())).collect()
        }
    }
    for point in [FaultPoint::Handle, FaultPoint::Handled] {
        let sum = TestApp::of::<Sum>(NoConfig {});
        sum.inject(Fault::with(point, Failure::reject("no")));
        for number in 0..4 {
            sum.send(&IN, number);
        }
        sum.idle();
        assert_eq!(sum.dead_letters("sum").len(), 3);
        assert_eq!(sum.summary().services[0].ok, 1);
    }
}

#[test]
fn a_tick_that_fails_panics_or_hangs_emits_nothing_and_the_next_one_does() {
    for fault in [Fault::fail, Fault::panic, Fault::hang] {
        let config = StockConfig {
            report_seconds: 60,
            ..of_100()
        };
        let stock = TestApp::of::<Stock>(config);
        stock.inject(fault(FaultPoint::Tick));
        stock.advance(MINUTE);
        stock.expect_nothing(&REPORTS);
        assert_eq!(stock.expect(&REPORTS), 100);
        assert_eq!(stock.summary().services[0].restarts, 1);
    }
}

#[test]
fn a_stop_that_fails_panics_or_hangs_does_no_harm() {
    for fault in [Fault::fail, Fault::panic, Fault::hang] {
        let stock = TestApp::of::<Stock>(of_100());
        stock.inject(fault(FaultPoint::Stop));
        stock.send(&REQUESTS, reserve(1));
        stock.expect(&RESERVED);
        stock.stop();
    }
}

#[test]
fn a_drop_that_panics_does_no_harm() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::panic(FaultPoint::Drop));
    stock.inject(Fault::panic(FaultPoint::Handle));
    stock.send(&REQUESTS, reserve(1));
    assert_eq!(stock.expect(&RESERVED).attempt, 2);
    stock.stop();
}

#[test]
fn a_source_that_fails_or_panics_restarts_and_one_that_hangs_sends_nothing() {
    for fault in [Fault::fail, Fault::panic] {
        let setup = Setup::of_source::<Count>(CountConfig { to: 1 });
        let count = setup.inject(fault(FaultPoint::Run)).start();
        assert_eq!(count.expect(&NUMBERS), 1);
        count.expect_nothing(&NUMBERS);
    }
    let setup = Setup::of_source::<Count>(CountConfig { to: 1 });
    let count = setup.inject(Fault::hang(FaultPoint::Run)).start();
    let told = panic_of(|| _ = count.expect(&NUMBERS));
    assert_says(&told, &["no message came on `numbers`"]);
    count.stop();
}

#[test]
fn rejected_outputs_come_after_the_message_was_handled_again() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(FaultPoint::Publish).times(2));
    stock.send(&REQUESTS, reserve(1));
    let reserved = stock.expect(&RESERVED);
    // The fault isn't the message's: no attempt is counted.
    assert_eq!((reserved.left, reserved.attempt), (97, 1));
    stock.expect_nothing(&RESERVED);
}

#[test]
fn outputs_without_a_confirm_are_abandoned_with_their_message() {
    for point in [FaultPoint::Publish, FaultPoint::Confirm] {
        let stock = TestApp::of::<Stock>(of_100());
        stock.inject(Fault::hang(point));
        stock.send(&REQUESTS, reserve(1));
        let told = panic_of(|| stock.idle());
        assert_says(&told, &["the app is not idle", "in flight"]);
        let arrived = catch_unwind(AssertUnwindSafe(|| stock.expect(&RESERVED))).is_ok();
        assert_eq!(arrived, point == FaultPoint::Confirm);
        let report = stock.stop();
        let abandoned = &report.abandoned[0];
        assert_eq!(
            (&*abandoned.0, &*abandoned.1),
            ("stock", "1 unconfirmed publications")
        );
    }
}

#[test]
fn outputs_whose_confirm_is_lost_are_published_again_under_the_same_id() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(FaultPoint::Confirm));
    stock.send(&REQUESTS, reserve(1));
    let ids = [0; 2].map(|_| stock.expect_message(&RESERVED).id.clone());
    assert_eq!(ids[0], ids[1]);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn a_request_fails_or_times_out() {
    for fault in [Fault::fail, Fault::hang] {
        let config = StockConfig {
            price_max: Some(10),
            ..of_100()
        };
        let stock = Setup::of::<Stock>(config).answer(&PRICES, |_| 1).start();
        stock.inject(fault(FaultPoint::Ask));
        stock.send(&REQUESTS, reserve(1));
        assert_eq!(stock.expect(&RESERVED).attempt, 2);
    }
}

#[test]
fn a_consumer_that_ends_loses_nothing() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(FaultPoint::Consume).after(2));
    for _ in 0..5 {
        stock.send(&REQUESTS, reserve(1));
    }
    let left = [0; 5].map(|_| stock.expect(&RESERVED).left);
    assert_eq!(left, [99, 98, 97, 96, 95]);
    stock.expect_nothing(&RESERVED);
    assert_eq!(stock.summary().services[0].restarts, 1);
}

#[test]
fn a_delivery_whose_ack_is_lost_is_redelivered() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(FaultPoint::Settle));
    stock.send(&REQUESTS, reserve(1));
    let came = [0; 2].map(|_| stock.expect_message(&RESERVED));
    assert_eq!(came[0].id, came[1].id);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn a_fault_of_one_service_spares_the_others() {
    let shop = shop()
        .inject(Fault::fail(FaultPoint::Handle).of("echo").always())
        .start();
    shop.send("orders.placed", json!({"sku": "a", "quantity": 4}));
    let letter = shop.expect_dead_letter();
    assert_eq!(
        (&*letter.dead_letter.service, letter.dead_letter.attempts),
        ("echo", 5)
    );
    assert_eq!(letter.dead_letter.error, "injected at FaultPoint::Handle");
    assert!(shop.dead_letters("stock").is_empty());
}
