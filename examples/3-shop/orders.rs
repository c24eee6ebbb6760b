//! `orders`: decides what is to be done for each order, step by step, and undoes what was
//! done when it can't be finished.
//!
//! The way of an order is [`next`], a function over values. Around it is one transaction for
//! each message that comes: look up the order's state, change it, and say what is to be done
//! now. Either all of that happens, and once, or nothing.

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

/// How far an order is. What is to be done for it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Reserving,
    Paying,
    Shipping,
    /// It can't be finished, for this reason: first the money goes back…
    Refunding(Outcome),
    /// …then the goods.
    Releasing(Outcome),
    Closed(Outcome),
}

/// What `orders` hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Wanted,
    Reserved,
    SoldOut,
    Released,
    Charged,
    Refused,
    /// The customer has the money, whether it was taken before or not.
    MoneyIsBack,
    Shipped,
    Undeliverable,
    Overdue,
}

/// The state that comes next; none if nothing changes.
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
        // Too late: a reminder of what was paid, or an answer that nobody waits for any more.
        _ => None,
    }
}

/// Config of `orders`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrdersConfig {
    /// How long a payment may take.
    patience: HumanDuration,
}

impl Default for OrdersConfig {
    fn default() -> Self {
        Self {
            patience: HumanDuration(Duration::from_secs(3)),
        }
    }
}

pub(crate) struct Orders {
    patience: Duration,
}

impl Service for Orders {
    const NAME: &'static str = "orders";
    const SUMMARY: &'static str = "decides what is to be done for each order";
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

/// Every message that comes is news of an order.
impl<M: Into<News>> Handle<M> for Orders {
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<(), Failure> {
        let News(event, order) = message.into();
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

/// Puts an order into a state, and says what is to be done in it.
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

/// What has happened, and to which order.
struct News(Event, Order);

impl From<Wanted> for News {
    fn from(Wanted(order): Wanted) -> Self {
        Self(Event::Wanted, order)
    }
}

impl From<Overdue> for News {
    fn from(Overdue(order): Overdue) -> Self {
        Self(Event::Overdue, order)
    }
}

impl From<StockAnswer> for News {
    fn from(answer: StockAnswer) -> Self {
        match answer {
            StockAnswer::Reserved { order, .. } => Self(Event::Reserved, order),
            StockAnswer::SoldOut { order } => Self(Event::SoldOut, order),
            StockAnswer::Released { order, .. } => Self(Event::Released, order),
        }
    }
}

impl From<PaymentAnswer> for News {
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

impl From<ShippingAnswer> for News {
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

    /// As far as the payment.
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
    fn when_payment_is_refused_the_goods_go_back() {
        let orders = paying();
        orders.send(&PAYMENTS, PaymentAnswer::Refused { order: order() });
        let (Release(order), entry) = (orders.expect(&RELEASE), entry("shelf/tea", 2));
        orders.send(&STOCK, StockAnswer::Released { order, entry });
        assert_eq!(orders.expect(&CLOSED).outcome, Outcome::Refused);
        orders.expect_nothing(&SHIP);
        orders.stop();
    }

    #[test]
    fn when_a_parcel_comes_back_so_do_money_and_goods() {
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

    /// The time of a test is its own: nobody waits three seconds here.
    #[test]
    fn a_payment_that_takes_too_long_is_called_off_and_not_shipped_when_it_comes() {
        let orders = paying();
        orders.advance(Duration::from_secs(3));
        // The topic's other end is the service itself; a test plays that.
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
