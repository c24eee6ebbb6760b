//! Services that are written with `#[service]`, `#[message]` and `#[config]`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
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

#[derive(Default)]
struct Sender {
    is_stopped: bool,
}

/// Sends mails until it is told to stop.
#[service]
impl Sender {
    #[input]
    async fn mails(&mut self, mail: u32, done: Out<String>) -> Result {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if self.is_stopped {
            return Err(Failure::reject("stopped"));
        }
        done.emit(format!("mail {mail}"))
    }

    #[input(first)]
    fn control(&mut self, is_stopped: bool, done: Out<String>) -> Result {
        self.is_stopped = is_stopped;
        done.emit(format!("stopped: {is_stopped}"))
    }
}

#[test]
fn a_control_message_goes_before_messages_that_fill_the_mailbox() {
    let app = Setup::of::<Sender>(NoConfig {})
        .with("services.sender.mailbox = 4")
        .start();
    for mail in 0..100 {
        app.send(&Sender::MAILS, mail);
    }
    assert_eq!(app.expect(&Sender::DONE), "mail 0");
    app.send(&Sender::CONTROL, true);
    // One mail was in the handler.
    assert_eq!(app.expect(&Sender::DONE), "mail 1");
    assert_eq!(app.expect(&Sender::DONE), "stopped: true");
    app.expect_nothing(&Sender::DONE);
    assert_eq!(app.dead_letters("sender").len(), 98);
}

#[test]
fn a_flood_of_control_messages_starves_no_others() {
    let app = TestApp::of::<Sender>(NoConfig {});
    for mail in 0..2 {
        app.send(&Sender::MAILS, mail);
    }
    for _ in 0..100 {
        app.send(&Sender::CONTROL, false);
    }
    let done: Vec<_> = (0..102).map(|_| app.expect(&Sender::DONE)).collect();
    let mails = (0..)
        .zip(&done)
        .filter(|(_, text)| text.starts_with("mail"));
    let places: Vec<u32> = mails.map(|(place, _)| place).collect();
    // Each mail waited for eight control messages.
    assert_eq!(places, [8, 17]);
}

#[config]
struct CounterConfig {
    #[default(10)]
    first: u32,
}

struct Counter {
    started_as: u32,
}

/// Counts over all instances.
#[service]
impl Counter {
    async fn share(config: &CounterConfig) -> Result<AtomicU32> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(AtomicU32::new(config.first))
    }

    fn start(config: &CounterConfig, counter: Shared<AtomicU32>) -> Result<Self> {
        let started_as = counter.fetch_add(1, Relaxed) - config.first;
        Ok(Self { started_as })
    }

    #[input]
    async fn names(&mut self, _: String, counter: Shared<AtomicU32>, counts: Out<u32>) -> Result {
        assert!(self.started_as < 3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        counts.emit(counter.fetch_add(1, Relaxed))
    }
}

#[test]
fn all_instances_share_one_value_that_is_made_once() {
    let app = Setup::of::<Counter>(CounterConfig::default())
        .with("services.counter.instances = 3")
        .start();
    for _ in 0..6 {
        app.send(&Counter::NAMES, "a".to_owned());
    }
    let mut counts: Vec<u32> = (0..6).map(|_| app.expect(&Counter::COUNTS)).collect();
    counts.sort_unstable();
    // Three instances have counted, too.
    assert_eq!(counts, [13, 14, 15, 16, 17, 18]);
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
