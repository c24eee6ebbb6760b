//! Each effect happens once, and all of it or nothing.

use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
use brickwork::transport::AskError;

use super::*;
use crate::till::*;

fn till() -> TestApp {
    TestApp::of::<Till>(NoConfig {})
}

#[test]
fn a_message_that_comes_again_has_no_second_effect() {
    let till = till();
    for _ in 0..3 {
        till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    }
    till.send(&PAYMENTS, pay(2));
    assert_eq!(till.expect(&NOTES), "1 of 5");
    assert_eq!(till.expect(&NOTES), "1 of 2");
    assert_eq!(till.expect(&PAID), Paid { total: 5 });
    assert_eq!(till.expect(&PAID), Paid { total: 7 });
    till.expect_nothing(&PAID);
    till.expect_nothing(&NOTES);
    assert_eq!(in_the_till(&till), 7);
    till.stop();
}

/// Two inputs are two things to do.
#[test]
fn the_same_message_on_another_input_is_another_one() {
    let till = till();
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    let total: i64 = till.ask(&QUESTIONS, MessageBuilder::new(pay(5)).id(id("order-1")));
    assert_eq!(total, 10);
    till.stop();
}

#[test]
fn what_fails_inside_its_transaction_changes_and_emits_nothing() {
    let till = till();
    for then in ["fail inside", "panic inside"] {
        till.send(&PAYMENTS, pay_then(5, then));
        let letter = till.expect_dead_letter();
        assert!(letter.dead_letter.error.contains(&then[..4]), "{letter:?}");
    }
    till.expect_nothing(&PAID);
    till.expect_nothing(&NOTES);
    assert_eq!(in_the_till(&till), 0);
    till.stop();
}

/// A failure that the database finds is one like any other.
#[test]
fn a_constraint_that_does_not_hold_is_a_failure_of_the_message_alone() {
    let till = till();
    till.send(&PAYMENTS, pay(-1));
    let letter = till.expect_dead_letter();
    assert!(letter.dead_letter.error.contains("CHECK"), "{letter:?}");
    till.send(&PAYMENTS, pay(1));
    assert_eq!(till.expect(&PAID), Paid { total: 1 });
    till.stop();
}

/// The transaction is what counts: whatever the handler does after it.
#[test]
fn what_is_committed_is_done_however_the_handler_ends() {
    let till = till();
    let mut total = 0;
    for then in ["fail", "panic", "hang", "emit", "again"] {
        till.send(&PAYMENTS, pay_then(5, then));
        total += 5;
        assert_eq!(till.expect(&PAID), Paid { total }, "{then}");
        assert_eq!(till.expect(&NOTES), "1 of 5", "{then}");
    }
    till.idle();
    till.expect_nothing(&PAID);
    till.expect_nothing(&NOTES);
    assert_eq!(till.dead_letters("till").len(), 0);
    assert_eq!(in_the_till(&till), total);
    till.stop();
}

/// Nobody knows whether it is committed: so it is tried again, and the inbox tells.
#[test]
fn a_transaction_that_nobody_waited_for_happens_once() {
    let till = till();
    till.send(&PAYMENTS, pay_then(5, "give up waiting"));
    assert_eq!(till.expect(&PAID), Paid { total: 5 });
    till.idle();
    assert_eq!(in_the_till(&till), 5);
    till.expect_nothing(&PAID);
    till.stop();
}

#[test]
fn who_asks_again_gets_the_reply_that_was_kept() {
    let till = till();
    for _ in 0..3 {
        let total: i64 = till.ask(&QUESTIONS, MessageBuilder::new(pay(5)).id(id("question-1")));
        assert_eq!(total, 5);
    }
    assert_eq!(in_the_till(&till), 5);
    let without = || MessageBuilder::new(pay_then(5, "keep no reply")).id(id("question-2"));
    assert_eq!(till.ask(&QUESTIONS, without()), 10);
    match till.try_ask(&QUESTIONS, without()) {
        Err(AskError::Failed(why)) => assert!(why.contains("not kept"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(in_the_till(&till), 10);
    till.stop();
}

#[test]
fn each_value_of_a_batch_has_its_own_transaction() {
    let till = till();
    till.send(&MANY, MessageBuilder::new(3).id(id("a")));
    till.send(&MANY, MessageBuilder::new(-100).id(id("b")));
    till.send(&MANY, MessageBuilder::new(4).id(id("c")));
    till.send(&MANY, MessageBuilder::new(4).id(id("c")));
    assert_eq!(till.expect(&PAID), Paid { total: 3 });
    assert_eq!(till.expect(&PAID), Paid { total: 7 });
    till.expect_nothing(&PAID);
    let letter = till.expect_dead_letter();
    assert_eq!(letter.message.id, id("b"));
    assert_eq!(in_the_till(&till), 7);
    till.stop();
}

#[test]
fn a_tick_has_a_transaction_too() {
    let till = till();
    till.send(&PAYMENTS, pay(5));
    till.expect(&PAID);
    till.expect(&NOTES);
    assert_eq!(till.expect(&NOTES), "5 in the till");
    till.stop();
}

#[test]
fn the_ids_of_what_is_emitted_are_those_that_the_same_attempt_would_give_again() {
    let till = till();
    let sent = till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    assert_eq!(
        till.expect_message(&PAID).id,
        sent.id.child("till", "paid", 0)
    );
    let note = till.expect_message(&NOTES);
    assert_eq!(note.id, sent.id.child("till", "notes", 0));
    assert_eq!(note.parent, Some(sent.id.clone()));
    till.stop();
}

/// Whole attempts are thrown away before one succeeds.
#[test]
fn a_message_that_succeeds_at_last_has_its_effect_once() {
    let setup = Setup::of::<Till>(NoConfig {}).inject(Fault::panic(FaultPoint::Handle).times(3));
    let till = setup.start();
    till.send(&PAYMENTS, pay(5));
    assert_eq!(till.expect(&PAID), Paid { total: 5 });
    assert_eq!(till.expect(&NOTES), "4 of 5");
    assert_eq!(in_the_till(&till), 5);
    till.stop();
}
