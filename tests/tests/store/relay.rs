//! The relay: what is committed is published, in order, whatever happens.

use brickwork::testing::{Fault, FaultPoint, TestApp};

use super::*;
use crate::till::*;

#[test]
fn what_is_committed_is_published_in_order_when_the_transport_takes_it_again() {
    const MESSAGES: i64 = 50;
    let till = TestApp::of::<Till>(NoConfig {});
    till.inject(Fault::fail(FaultPoint::Publish).after(7).times(20));
    for _ in 0..MESSAGES {
        till.send(&PAYMENTS, pay(1));
    }
    // Some may come twice; none comes before one that is older and hasn't come yet.
    let mut next = 1;
    while next <= MESSAGES {
        let total = till.expect(&PAID).total;
        assert!(total <= next, "{total} came before {next}");
        next = next.max(total + 1);
    }
    till.idle();
    assert_eq!(in_the_till(&till), MESSAGES);
    till.stop();
}

#[test]
fn nothing_is_idle_while_something_waits_in_an_outbox() {
    let till = TestApp::of::<Till>(NoConfig {});
    till.inject(Fault::fail(FaultPoint::Publish).times(5));
    till.send(&PAYMENTS, pay(1));
    till.idle();
    assert_eq!(till.expect(&PAID), Paid { total: 1 });
    till.stop();
}

/// More than fits into memory beside it.
#[test]
fn an_outbox_that_the_transport_does_not_empty_is_kept_on_the_disk() {
    const MESSAGES: i64 = 3_000;
    let till = TestApp::of::<Till>(NoConfig {});
    till.inject(Fault::fail(FaultPoint::Publish).times(40));
    for _ in 0..MESSAGES {
        till.send(&MANY, 1);
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < MESSAGES as usize {
        seen.insert(till.expect(&PAID).total);
    }
    till.idle();
    assert_eq!(in_the_till(&till), MESSAGES);
    till.stop();
}
