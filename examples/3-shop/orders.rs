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
