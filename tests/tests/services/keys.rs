//! Keys of messages.

use brickwork::prelude::*;
use brickwork::testing::TestApp;

#[message]
struct Order {
    customer: Option<u32>,
    number: u32,
}

#[derive(Default)]
struct Ledger;

/// Writes a line for each order.
#[service(key = "customer")]
impl Ledger {
    #[input]
    fn orders(
        &mut self,
        order: Order,
        key: Key,
        meta: Meta,
        cx: &Context,
        lines: Out<String>,
    ) -> Result {
        assert_eq!((meta.key(), cx.key()), (Some(&key), Some(&key)));
        lines.emit(format!("{key}: {}", order.number))
    }
}

fn order(customer: u32, number: u32) -> Order {
    let customer = Some(customer);
    Order { customer, number }
}

#[test]
fn a_handler_gets_the_key_of_its_message() {
    let app = TestApp::of::<Ledger>(NoConfig {});
    app.send(&Ledger::ORDERS, order(7, 1));
    assert_eq!(app.expect(&Ledger::LINES), "7: 1");
    app.stop();
}

#[test]
fn a_message_without_a_key_is_a_dead_letter_with_the_reason() {
    let app = TestApp::of::<Ledger>(NoConfig {});
    let customer = None;
    app.send(
        &Ledger::ORDERS,
        Order {
            customer,
            number: 1,
        },
    );
    app.send(&Ledger::ORDERS, order(7, 2));
    assert_eq!(app.expect(&Ledger::LINES), "7: 2");
    let letter = app.expect_dead_letter();
    assert_eq!(letter.dead_letter.error, "the key is null");
    app.stop();
}
