//! The relay publishes committed messages in order, whatever happens.

use brickwork::testing::{Fault, FaultPoint, TestApp};

use super::till::*;
use super::*;

#[test]
fn committed_messages_are_published_in_order_when_the_transport_recovers() {
    const MESSAGES: i64 = 50;
    let till = TestApp::of::<Till>(NoConfig {});
    till.inject(Fault::fail(FaultPoint::Publish).after(7).times(20));
    for _ in 0..MESSAGES {
        till.send(&PAYMENTS, pay(1));
    }
    // Some messages may come twice; none comes before an older one that has not come yet.
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
fn the_app_is_not_idle_while_an_outbox_holds_messages() {
    let till = TestApp::of::<Till>(NoConfig {});
    till.inject(Fault::fail(FaultPoint::Publish).times(5));
    till.send(&PAYMENTS, pay(1));
    till.idle();
    assert_eq!(till.expect(&PAID), Paid { total: 1 });
    till.stop();
}

/// More messages than the relay keeps in memory.
#[test]
fn a_blocked_outbox_is_kept_on_the_disk() {
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
