//! `orders`: decides the next step of each order, and compensates the earlier steps when an
//! order can't be fulfilled.
//!
//! The state machine is [`next`], a pure function. The handler runs one transaction for each
//! message: it reads the order's state, stores the next state and emits its messages.
//! All of that takes effect exactly once, or not at all.

use std::time::Duration;

use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::OptionalExtension;

use crate::messages::*;

const WANTED: Input<Wanted> = Input::new("wanted");
const STOCK: Input<StockAnswer> = Input::new("stock");
const PAYMENTS: Input<PaymentAnswer> = Input::new("payments");
const SHIPPING: Input<ShippingAnswer> = Input::new("shipping");
const OVERDUE: Input<Overdue> = Input::new("overdue");

const RESERVE: Output<Reserve> = Output::new("reserve");
const RELEASE: Output<Release> = Output::new("release");
const CHARGE: Output<Charge> = Output::new("charge");
const REFUND: Output<Refund> = Output::new("refund");
const SHIP: Output<Ship> = Output::new("ship");
const REMIND: Output<Overdue> = Output::new("remind");
const CLOSED: Output<Closed> = Output::new("closed");

/// State of an order. `orders` emits the messages of a state when an order enters it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Reserving,
    Paying,
    Shipping,
    /// The order failed with this outcome: the money is going back to the customer.
    Refunding(Outcome),
    /// The customer has the money; the goods are going back to the shelf.
    Releasing(Outcome),
    Closed(Outcome),
}

/// Kind of a message that `orders` receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Wanted,
    Reserved,
    SoldOut,
    Released,
    Charged,
    Refused,
    /// The customer has the money: it was refunded, or never taken.
    MoneyIsBack,
    Shipped,
    Undeliverable,
    Overdue,
}

/// Returns the next state, or `None` if the event changes nothing.
fn next(state: Option<State>, event: Event) -> Option<State> {
    use State::*;
    match (state, event) {
        (None, Event::Wanted) => Some(Reserving),
        (Some(Reserving), Event::Reserved) => Some(Paying),
        (Some(Reserving), Event::SoldOut) => Some(Closed(Outcome::SoldOut)),
        (Some(Paying), Event::Charged) => Some(Shipping),
        (Some(Paying), Event::Refused) => Some(Releasing(Outcome::Refused)),
        (Some(Paying), Event::Overdue) => Some(Refunding(Outcome::Overdue)),
        (Some(Shipping), Event::Shipped) => Some(Closed(Outcome::Shipped)),
        (Some(Shipping), Event::Undeliverable) => Some(Refunding(Outcome::Undeliverable)),
        (Some(Refunding(why)), Event::MoneyIsBack) => Some(Releasing(why)),
        (Some(Releasing(why)), Event::Released) => Some(Closed(why)),
        // Too late: a time-out after the payment, or an answer after the time-out.
        _ => None,
    }
}

/// Config of `orders`.
#[config]
pub(crate) struct OrdersConfig {
    /// Maximum time for a payment.
    #[default(HumanDuration(Duration::from_secs(3)))]
    patience: HumanDuration,
}

pub(crate) struct Orders {
    patience: Duration,
}

impl Service for Orders {
    const NAME: &'static str = "orders";
    const SUMMARY: &'static str = "decides the next step of each order";
    const STORE: &'static [Migration] = &[Migration::new(
        "orders",
        "CREATE TABLE orders (id TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID",
    )];
    type Config = OrdersConfig;

    fn ports(_: &OrdersConfig, ports: &mut Ports<Self>) {
        ports
            .input(&WANTED)
            .input(&STOCK)
            .input(&PAYMENTS)
            .input(&SHIPPING)
            .input(&OVERDUE)
            .output(&RESERVE)
            .output(&RELEASE)
            .output(&CHARGE)
            .output(&REFUND)
            .output(&SHIP)
            .output(&REMIND)
            .output(&CLOSED);
    }

    async fn start(config: &OrdersConfig, _: &mut Context) -> Result<Self, Failure> {
        let patience = config.patience.0;
        Ok(Self { patience })
    }
}

/// Every message is an event of an order.
impl<M: Into<OrderEvent>> Handle<M> for Orders {
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<(), Failure> {
        let OrderEvent(event, order) = message.into();
        let patience = self.patience;
        let work = move |tx: &mut Tx<'_>| match next(state_of(tx, &order.id)?, event) {
            Some(state) => enter(tx, state, order, patience),
            None => Ok(()),
        };
        cx.store()?.transact(work).await
    }
}

fn state_of(tx: &Tx<'_>, id: &str) -> Result<Option<State>, Failure> {
    let mut find = tx.prepare_cached("SELECT state FROM orders WHERE id = ?1")?;
    let state: Option<String> = find.query_row([id], |row| row.get(0)).optional()?;
    Ok(state
        .map(|state| serde_json::from_str(&state))
        .transpose()?)
}

/// Stores the state of an order and emits the messages of that state.
fn enter(tx: &mut Tx<'_>, state: State, order: Order, patience: Duration) -> Result<(), Failure> {
    let sql = "INSERT INTO orders VALUES (?1, ?2) ON CONFLICT DO UPDATE SET state = excluded.state";
    tx.prepare_cached(sql)?
        .execute((&order.id, serde_json::to_string(&state)?))?;
    match state {
        State::Reserving => tx.emit(&RESERVE, Reserve(order)),
        State::Paying => {
            tx.emit_after(&REMIND, Overdue(order.clone()), patience)?;
            tx.emit(&CHARGE, Charge(order))
        }
        State::Shipping => tx.emit(&SHIP, Ship(order)),
        State::Refunding(_) => tx.emit(&REFUND, Refund(order)),
        State::Releasing(_) => tx.emit(&RELEASE, Release(order)),
        State::Closed(outcome) => tx.emit(&CLOSED, Closed { order, outcome }),
    }
}

/// An event and its order.
struct OrderEvent(Event, Order);

impl From<Wanted> for OrderEvent {
    fn from(Wanted(order): Wanted) -> Self {
        Self(Event::Wanted, order)
    }
}

impl From<Overdue> for OrderEvent {
    fn from(Overdue(order): Overdue) -> Self {
        Self(Event::Overdue, order)
    }
}

impl From<StockAnswer> for OrderEvent {
    fn from(answer: StockAnswer) -> Self {
        match answer {
            StockAnswer::Reserved { order, .. } => Self(Event::Reserved, order),
            StockAnswer::SoldOut { order } => Self(Event::SoldOut, order),
            StockAnswer::Released { order, .. } => Self(Event::Released, order),
        }
    }
}

impl From<PaymentAnswer> for OrderEvent {
    fn from(answer: PaymentAnswer) -> Self {
        match answer {
            PaymentAnswer::Charged { order, .. } => Self(Event::Charged, order),
            PaymentAnswer::Refused { order } => Self(Event::Refused, order),
            PaymentAnswer::Refunded { order, .. } | PaymentAnswer::NotCharged { order } => {
                Self(Event::MoneyIsBack, order)
            }
        }
    }
}

impl From<ShippingAnswer> for OrderEvent {
    fn from(answer: ShippingAnswer) -> Self {
        match answer {
            ShippingAnswer::Shipped { order, .. } => Self(Event::Shipped, order),
            ShippingAnswer::Undeliverable { order } => Self(Event::Undeliverable, order),
        }
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;

    use super::*;

    fn order() -> Order {
        Order {
            id: "order-1".into(),
            customer: 7,
            item: "tea".into(),
            quantity: 2,
            cents: 698,
        }
    }

    fn entry(book: &str, change: i64) -> Entry {
        Entry {
            book: book.into(),
            n: 1,
            change,
            balance: change,
        }
    }

    /// Starts `orders` with one order that waits for its payment.
    fn paying() -> TestApp {
        let orders = TestApp::of::<Orders>(OrdersConfig::default());
        orders.send(&WANTED, Wanted(order()));
        orders.expect(&RESERVE);
        let (order, entry) = (order(), entry("shelf/tea", -2));
        orders.send(&STOCK, StockAnswer::Reserved { order, entry });
        orders.expect(&CHARGE);
        orders
    }

    #[test]
    fn an_order_is_reserved_paid_and_shipped() {
        let orders = paying();
        let (charged, shipped) = (entry("till", 698), entry("parcels", 2));
        let (order, entry) = (order(), charged);
        orders.send(&PAYMENTS, PaymentAnswer::Charged { order, entry });
        let (Ship(order), entry) = (orders.expect(&SHIP), shipped);
        orders.send(&SHIPPING, ShippingAnswer::Shipped { order, entry });
        assert_eq!(orders.expect(&CLOSED).outcome, Outcome::Shipped);
        orders.stop();
    }

    #[test]
    fn a_refused_payment_releases_the_goods() {
        let orders = paying();
        orders.send(&PAYMENTS, PaymentAnswer::Refused { order: order() });
        let (Release(order), entry) = (orders.expect(&RELEASE), entry("shelf/tea", 2));
        orders.send(&STOCK, StockAnswer::Released { order, entry });
        assert_eq!(orders.expect(&CLOSED).outcome, Outcome::Refused);
        orders.expect_nothing(&SHIP);
        orders.stop();
    }

    #[test]
    fn an_undeliverable_parcel_refunds_the_money_and_releases_the_goods() {
        let orders = paying();
        let (order, money) = (order(), entry("till", 698));
        orders.send(
            &PAYMENTS,
            PaymentAnswer::Charged {
                order,
                entry: money,
            },
        );
        let Ship(order) = orders.expect(&SHIP);
        orders.send(&SHIPPING, ShippingAnswer::Undeliverable { order });
        let (Refund(order), money) = (orders.expect(&REFUND), entry("till", -698));
        orders.send(
            &PAYMENTS,
            PaymentAnswer::Refunded {
                order,
                entry: money,
            },
        );
        let (Release(order), entry) = (orders.expect(&RELEASE), entry("shelf/tea", 2));
        orders.send(&STOCK, StockAnswer::Released { order, entry });
        assert_eq!(orders.expect(&CLOSED).outcome, Outcome::Undeliverable);
        orders.stop();
    }

    /// The test runs in virtual time: the three seconds pass at once.
    #[test]
    fn an_overdue_payment_is_refunded_and_the_order_is_never_shipped() {
        let orders = paying();
        orders.advance(Duration::from_secs(3));
        // In the manifest the service reads its own output; here the test passes the message on.
        let overdue = orders.expect(&REMIND);
        orders.send(&OVERDUE, overdue);
        let Refund(order) = orders.expect(&REFUND);
        let entry = entry("till", 698);
        orders.send(
            &PAYMENTS,
            PaymentAnswer::Charged {
                order: order.clone(),
                entry,
            },
        );
        orders.expect_nothing(&SHIP);
        orders.send(&PAYMENTS, PaymentAnswer::NotCharged { order });
        orders.expect(&RELEASE);
        orders.stop();
    }
}
