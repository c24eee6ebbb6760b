//! Services that are written with `#[service]`, `#[message]` and `#[config]`.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::testing::{Setup, TestApp};

#[message]
#[derive(PartialEq)]
struct Reserve {
    sku: String,
    quantity: u32,
}

#[message]
#[derive(PartialEq)]
struct Reserved {
    sku: String,
    left: u32,
}

#[message]
#[derive(PartialEq)]
struct Price {
    cents: u32,
}

#[config]
struct StockConfig {
    /// Pieces on the shelf when the service starts.
    #[default(10)]
    pieces: u32,
    /// Interval of the report.
    interval: Option<String>,
}

struct Stock {
    left: u32,
}

/// Reserves stock.
///
/// This paragraph is no part of the summary.
#[service]
impl Stock {
    fn start(config: &StockConfig) -> Result<Self> {
        Ok(Self {
            left: config.pieces,
        })
    }

    #[input]
    async fn requests(&mut self, wanted: Reserve, reserved: Out<Reserved>) -> Result {
        self.take(wanted.quantity)?;
        reserved.emit(Reserved {
            sku: wanted.sku,
            left: self.left,
        })
    }

    /// A second input for messages of the same type.
    #[input("returns")]
    fn taken_back(&mut self, returned: Reserve, meta: Meta, cx: &mut Context) {
        assert_eq!((meta.input(), meta.attempt()), ("returns", cx.attempt()));
        self.left += returned.quantity;
    }

    #[input]
    async fn prices(&mut self, wanted: Reserve, price: Ask<Reserve, Price>) -> Result<Price> {
        let one = price.ask(wanted.clone()).await?;
        Ok(Price {
            cents: one.cents * wanted.quantity,
        })
    }

    #[tick("1h")]
    fn report(&mut self, reports: Out<Price>) -> Result {
        reports.emit(Price { cents: self.left })
    }

    fn take(&mut self, quantity: u32) -> Result {
        let left = self.left.checked_sub(quantity);
        self.left = left.ok_or_else(|| Failure::reject("not that many left"))?;
        Ok(())
    }
}

fn reserve(quantity: u32) -> Reserve {
    let sku = "tea".to_owned();
    Reserve { sku, quantity }
}

#[test]
fn methods_are_inputs_and_parameters_are_outputs() {
    let app = TestApp::of::<Stock>(StockConfig::default());
    app.send(&Stock::REQUESTS, reserve(3));
    assert_eq!(app.expect(&Stock::RESERVED).left, 7);
    app.send(&Stock::RETURNS, reserve(1));
    app.send(&Stock::REQUESTS, reserve(8));
    assert_eq!(app.expect(&Stock::RESERVED).left, 0);
    app.send(&Stock::REQUESTS, reserve(1));
    assert_eq!(
        app.expect_dead_letter().dead_letter.error,
        "not that many left"
    );
    app.expect_nothing(&Stock::RESERVED);
}

#[test]
fn a_return_value_is_the_reply_and_an_ask_is_a_parameter() {
    let app = Setup::of::<Stock>(StockConfig::default())
        .answer(&Stock::PRICE, |_| Price { cents: 20 })
        .start();
    let reply = app.ask(&Stock::PRICES, reserve(3));
    assert_eq!(reply, Price { cents: 60 });
}

#[test]
fn a_tick_is_a_method_with_an_interval() {
    let app = TestApp::of::<Stock>(StockConfig::default());
    app.expect_nothing(&Stock::REPORTS);
    app.advance(Duration::from_secs(3600));
    assert_eq!(app.expect(&Stock::REPORTS).cents, 10);
}

#[test]
fn the_description_comes_from_the_code() {
    let catalog = Catalog::new().with::<Stock>();
    let described = catalog
        .get("stock")
        .expect("it is in the catalog")
        .describe();
    assert_eq!(described.summary, "Reserves stock");
    let inputs: Vec<_> = described.inputs.iter().map(|port| &*port.name).collect();
    assert_eq!(inputs, ["requests", "returns", "prices"]);
    let outputs: Vec<_> = described.outputs.iter().map(|port| &*port.name).collect();
    assert_eq!(outputs, ["reserved", "price", "reports"]);
}

#[config]
struct GreeterConfig {
    #[default("Hello".to_owned())]
    word: String,
}

#[message]
struct Name {
    name: String,
}

/// Greets.
#[service]
async fn greeter(name: Name, config: &GreeterConfig, greetings: Out<String>) -> Result {
    greetings.emit(format!("{}, {}!", config.word, name.name))
}

#[test]
fn a_function_is_a_service_with_one_input() {
    let app = TestApp::of::<greeter>(GreeterConfig::default());
    let name = "Ada".to_owned();
    app.send(&greeter::IN, Name { name });
    assert_eq!(app.expect(&greeter::GREETINGS), "Hello, Ada!");
}

#[derive(Default)]
struct Sizes;

/// Emits the size of the batch for each message.
#[service]
impl Sizes {
    #[input(batch = 3, within = "1s")]
    fn names(&mut self, names: Vec<Name>, sizes: Out<usize>) -> Vec<Result> {
        let outcome = |(index, name): (usize, &Name)| match name.name.is_empty() {
            true => Err(Failure::reject("no name")),
            false => sizes.emit_for(index, names.len()),
        };
        names.iter().enumerate().map(outcome).collect()
    }
}

#[test]
fn a_batch_has_an_outcome_for_each_message() {
    let app = TestApp::of::<Sizes>(NoConfig {});
    for name in ["a", "", "c"] {
        let name = name.to_owned();
        app.send(&Sizes::NAMES, Name { name });
    }
    assert_eq!(app.expect(&Sizes::SIZES), 3);
    assert_eq!(app.expect(&Sizes::SIZES), 3);
    assert_eq!(app.expect_dead_letter().dead_letter.error, "no name");
}

#[message]
#[derive(PartialEq)]
struct Pay {
    order: String,
    cents: i64,
}

#[message]
#[derive(PartialEq)]
struct Paid {
    order: String,
    balance: i64,
}

#[derive(Default)]
struct Till;

/// Keeps the balance.
#[service(store = "tests/services/till")]
impl Till {
    #[input]
    fn payments(pay: Pay, tx: &mut Tx, paid: Out<Paid>) -> Result<i64> {
        let balance = tx
            .prepare_cached("UPDATE till SET cents = cents + ?1 RETURNING cents")?
            .query_row([pay.cents], |row| row.get(0))?;
        if balance < 0 {
            return Err(Failure::reject("no money"));
        }
        paid.emit(Paid {
            order: pay.order,
            balance,
        })?;
        Ok(balance)
    }
}

#[test]
fn a_body_with_a_transaction_commits_with_its_outputs() {
    let app = TestApp::of::<Till>(NoConfig {});
    let pay = |cents| Pay {
        order: "1".to_owned(),
        cents,
    };
    assert_eq!(app.ask(&Till::PAYMENTS, pay(5)), 5);
    assert_eq!(app.expect(&Till::PAID).balance, 5);
    app.send(&Till::PAYMENTS, pay(-7));
    assert_eq!(app.expect_dead_letter().dead_letter.error, "no money");
    app.send(&Till::PAYMENTS, pay(2));
    assert_eq!(app.expect(&Till::PAID).balance, 7);
    app.expect_nothing(&Till::PAID);
}

#[config]
struct CountConfig {
    #[default(3)]
    last: u32,
}

/// Counts.
#[source(ends = config.last > 0)]
async fn count(config: &CountConfig, numbers: Feed<u32>, mut position: Position<u32>) -> Result {
    for number in position.get().unwrap_or(0)..config.last {
        numbers.send(number).await?;
        position.save(number + 1).await?;
    }
    Ok(())
}

/// Never ends by itself.
#[source]
async fn beats(beats: Feed<u32>) -> Result {
    beats.send(1).await?;
    std::future::pending().await
}

#[test]
fn a_source_is_a_function_that_is_dropped_at_the_stop() {
    let app = TestApp::of_source::<count>(CountConfig::default());
    for number in 0..3 {
        assert_eq!(app.expect(&count::NUMBERS), number);
    }
    app.expect_nothing(&count::NUMBERS);
    let app = TestApp::of_source::<beats>(NoConfig {});
    assert_eq!(app.expect(&beats::BEATS), 1);
    let report = app.stop();
    assert_eq!(report.abandoned, []);
}
