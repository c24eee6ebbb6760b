//! The test kit: what a test can say and hear, and what fails it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use brickwork::prelude::*;
use brickwork::testing::{Fault, PATIENCE, Point, Setup, TestApp};
use brickwork::{MessageId, Reason};
use serde_json::json;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Reserve {
    sku: String,
    quantity: u32,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Reserved {
    sku: String,
    left: u32,
    /// When, in milliseconds since 1970-01-01 UTC.
    at_ms: u128,
    attempt: u32,
    instance: u32,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct StockConfig {
    /// How many there are at first.
    left: u32,
    /// Wait so long before reserving.
    wait_seconds: u64,
    /// Report every so many seconds; 0 for never.
    report_seconds: u64,
    /// Ask for the price of each, and reserve nothing that costs more.
    price_max: Option<u32>,
}

const REQUESTS: Input<Reserve> = Input::new("requests");
const COUNTS: Input<String, u32> = Input::new("counts");
const RESERVED: Output<Reserved> = Output::new("reserved");
const REPORTS: Output<u32> = Output::new("reports");
const PRICES: Request<String, u32> = Request::new("prices");
const REPORT: Tick = Tick::new("report");

/// A service with everything that a test may meet.
struct Stock {
    left: u32,
    wait: Duration,
    price_max: Option<u32>,
}

impl Service for Stock {
    const NAME: &'static str = "stock";
    type Config = StockConfig;

    fn ports(config: &StockConfig, ports: &mut Ports<Self>) {
        ports.input(&REQUESTS).input(&COUNTS).output(&RESERVED);
        if config.price_max.is_some() {
            ports.request(&PRICES);
        }
        if config.report_seconds > 0 {
            ports.output(&REPORTS);
            ports.tick(REPORT, Duration::from_secs(config.report_seconds));
        }
    }

    fn check(config: &StockConfig) -> Result<(), Vec<ConfigError>> {
        match config.left {
            0 => Err(vec![ConfigError::new("left", "there must be something")]),
            _ => Ok(()),
        }
    }

    async fn start(config: &StockConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            left: config.left,
            wait: Duration::from_secs(config.wait_seconds),
            price_max: config.price_max,
        })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        cx.emit(&REPORTS, self.left)
    }
}

impl Handle<Reserve> for Stock {
    async fn handle(&mut self, wanted: Reserve, cx: &mut Context) -> Result<(), Failure> {
        tokio::time::sleep(self.wait).await;
        if let Some(max) = self.price_max
            && cx.ask(&PRICES, wanted.sku.clone()).await? > max
        {
            return Err(Failure::reject("too dear"));
        }
        let left = self.left.checked_sub(wanted.quantity);
        self.left = left.ok_or_else(|| Failure::reject("not that many left"))?;
        let reserved = Reserved {
            sku: wanted.sku,
            left: self.left,
            at_ms: unix_ms(cx.now()),
            attempt: cx.attempt(),
            instance: cx.instance(),
        };
        cx.emit(&RESERVED, reserved)
    }
}

impl Handle<String, u32> for Stock {
    async fn handle(&mut self, _: String, _: &mut Context) -> Result<u32, Failure> {
        Ok(self.left)
    }
}

fn unix_ms(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_millis()
}

fn of_100() -> StockConfig {
    StockConfig {
        left: 100,
        ..StockConfig::default()
    }
}

fn reserve(quantity: u32) -> Reserve {
    Reserve {
        sku: "a".into(),
        quantity,
    }
}

/// The text with which `test` panics.
fn panic_of(test: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(test)).expect_err("it panics");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
    })
    .expect("a text")
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

// What a test can say and hear.

#[test]
fn a_unit_test_of_a_service_is_a_conversation_of_five_lines() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.send(&REQUESTS, reserve(3));
    assert_eq!(stock.expect(&RESERVED).left, 97);
    stock.stop();
}

#[test]
fn ports_may_be_named_and_then_speak_json() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.send("requests", json!({"sku": "b", "quantity": 1}));
    let reserved = stock.expect("reserved");
    assert_eq!(
        (&reserved["sku"], &reserved["left"]),
        (&json!("b"), &json!(99))
    );
    assert_eq!(stock.ask("counts", json!("b")), 99);
}

#[test]
fn a_test_asks_a_service_and_gets_its_typed_answer_or_why_there_is_none() {
    let stock = TestApp::of::<Stock>(of_100());
    assert_eq!(stock.ask(&COUNTS, "a".to_owned()), 100);
    let unreadable: Input<Raw, u32> = Input::new("counts");
    let error = stock
        .try_ask(&unreadable, Raw::bytes("x", "nonsense"))
        .unwrap_err();
    assert_says(
        &error.to_string(),
        &["the request failed", "not a valid string"],
    );
}

#[test]
fn what_a_service_asks_is_answered_by_the_test() {
    let config = || StockConfig {
        price_max: Some(10),
        ..of_100()
    };
    let stock = Setup::of::<Stock>(config())
        .answer(&PRICES, |sku| sku.len() as u32)
        .start();
    stock.send(&REQUESTS, reserve(1));
    assert_eq!(stock.expect(&RESERVED).left, 99);
    stock.answer("prices", |_| json!(11));
    stock.send(&REQUESTS, reserve(1));
    assert_eq!(stock.expect_dead_letter().why.error, "too dear");

    let stock = TestApp::of::<Stock>(config());
    stock.send(&REQUESTS, reserve(1));
    let question = stock.expect_ask(&PRICES);
    assert_eq!(question.value, "a");
    question.reply(9);
    assert_eq!(stock.expect(&RESERVED).attempt, 1);
    stock.send(&REQUESTS, reserve(1));
    stock.expect_ask(&PRICES).refuse("no price today");
    // Tried again after a back-off, and asked again.
    stock.expect_ask(&PRICES).reply(8);
    assert_eq!(stock.expect(&RESERVED).attempt, 2);
}

#[test]
fn a_question_that_the_test_does_not_answer_runs_out_of_time() {
    let config = StockConfig {
        price_max: Some(10),
        ..of_100()
    };
    let stock = TestApp::of::<Stock>(config);
    let start = stock.now();
    stock.send(&REQUESTS, reserve(1));
    drop(stock.expect_ask(&PRICES));
    stock.expect_ask(&PRICES).reply(1);
    let waited = stock.now().duration_since(start).unwrap();
    // `handler_timeout`, and then a back-off.
    assert!(
        waited >= Duration::from_secs(30) && waited < MINUTE,
        "{waited:?}"
    );
    assert_eq!(stock.expect(&RESERVED).attempt, 2);
}

#[test]
fn an_hour_passes_at_once_and_the_wall_clock_of_services_with_it() {
    let began = std::time::Instant::now();
    let noon = SystemTime::UNIX_EPOCH + 12 * HOUR;
    let config = StockConfig {
        report_seconds: 60,
        ..of_100()
    };
    let stock = Setup::of::<Stock>(config).at(noon).start();
    assert_eq!(stock.now(), noon);
    stock.advance(HOUR);
    assert_eq!(stock.now(), noon + HOUR);
    stock.send(&REQUESTS, reserve(1));
    assert_eq!(stock.expect(&RESERVED).at_ms, unix_ms(noon + HOUR));
    // One a minute, that of the full hour included.
    for _ in 0..60 {
        assert_eq!(stock.expect(&REPORTS), 100);
    }
    stock.expect_nothing(&REPORTS);
    stock.stop();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn back_offs_take_their_time_and_are_the_same_in_every_run() {
    let run = || {
        let stock = Setup::of::<Stock>(of_100())
            .with("services.stock.retry = { attempts = 3, backoff = { min = \"10m\" , max = \"1h\" } }")
            .inject(Fault::fail(Point::Handle).times(2))
            .start();
        let start = stock.now();
        stock.send(&REQUESTS, reserve(1));
        assert_eq!(stock.expect(&RESERVED).attempt, 3);
        stock.now().duration_since(start).unwrap()
    };
    let waited = run();
    assert!(waited > 24 * MINUTE && waited < 36 * MINUTE, "{waited:?}");
    assert_eq!(run(), waited);
}

#[test]
fn what_is_emitted_for_later_comes_later() {
    struct Later;
    const IN: Input<u32> = Input::new("in");
    const OUT: Output<u32> = Output::new("out");
    impl Service for Later {
        const NAME: &'static str = "later";
        type Config = NoConfig;
        fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
            ports.input(&IN).output(&OUT);
        }
        async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
            Ok(Self)
        }
    }
    impl Handle<u32> for Later {
        async fn handle(&mut self, minutes: u32, cx: &mut Context) -> Result<(), Failure> {
            cx.emit_after(&OUT, minutes, minutes * MINUTE)
        }
    }
    let later = TestApp::of::<Later>(NoConfig {});
    let start = later.now();
    later.send(&IN, 30);
    later.send(&IN, 20);
    later.idle();
    assert!(later.now().duration_since(start).unwrap() >= 30 * MINUTE);
    assert_eq!((later.expect(&OUT), later.expect(&OUT)), (20, 30));
    let waited = later.now().duration_since(start).unwrap();
    assert!(waited >= 30 * MINUTE && waited < 31 * MINUTE, "{waited:?}");
    // And what the test itself sends for later: handled after 5 minutes, emitted after 10.
    later.send(&IN, Draft::new(10).after(5 * MINUTE));
    assert_eq!(later.expect(&OUT), 10);
    let waited = later.now().duration_since(start).unwrap();
    assert!(waited >= 45 * MINUTE && waited < 46 * MINUTE, "{waited:?}");
}

#[test]
fn instances_share_the_work_and_one_that_waits_holds_nobody_up() {
    let config = StockConfig {
        wait_seconds: 10,
        ..of_100()
    };
    let stock = Setup::of::<Stock>(config)
        .with("services.stock.instances = 3")
        .start();
    let start = stock.now();
    for _ in 0..3 {
        stock.send(&REQUESTS, reserve(1));
    }
    let mut instances: Vec<u32> = (0..3).map(|_| stock.expect(&RESERVED).instance).collect();
    instances.sort_unstable();
    assert_eq!(instances, [0, 1, 2]);
    assert!(stock.now().duration_since(start).unwrap() < Duration::from_secs(11));
}

#[test]
fn a_message_carries_what_the_test_says_of_it() {
    /// Input and output have one name: still nothing goes round in a circle.
    struct Pass;
    const IN: Input<Raw> = Input::new("pass");
    const OUT: Output<Raw> = Output::new("pass");
    impl Service for Pass {
        const NAME: &'static str = "pass";
        type Config = NoConfig;
        fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
            ports.input(&IN).output(&OUT);
        }
        async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
            Ok(Self)
        }
    }
    impl Handle<Raw> for Pass {
        async fn handle(&mut self, raw: Raw, cx: &mut Context) -> Result<(), Failure> {
            cx.emit(&OUT, raw)
        }
    }
    let pass = TestApp::of::<Pass>(NoConfig {});
    let id = "order-17".parse::<MessageId>().expect("an id");
    let draft = Draft::new(Raw::bytes("push", &b"\xff\x00"[..]));
    let sent = pass.send(&IN, draft.id(id.clone()).header("tenant", "acme"));
    assert_eq!(sent.id, id);
    let came = pass.expect_message(&OUT);
    assert_eq!((&*came.kind, &came.payload[..]), ("push", &b"\xff\x00"[..]));
    assert_eq!(
        (&*came.headers["tenant"], &came.parent),
        ("acme", &Some(id))
    );
    pass.expect_nothing(&OUT);
}

/// Counts to its config's number.
struct Count;

const NUMBERS: Output<u32> = Output::new("numbers");

#[derive(Debug, Default, Deserialize, JsonSchema)]
struct CountConfig {
    to: u32,
}

impl Source for Count {
    const NAME: &'static str = "count";
    type Config = CountConfig;

    fn ports(_: &CountConfig, ports: &mut SourcePorts) {
        ports.output(&NUMBERS);
    }

    fn ends(_: &CountConfig) -> bool {
        true
    }

    async fn run(config: &CountConfig, out: &mut Outlet) -> Result<(), Failure> {
        for number in 1..=config.to {
            out.send(&NUMBERS, number).await?;
        }
        Ok(())
    }
}

#[test]
fn a_source_is_tested_like_a_service() {
    let count = TestApp::of_source::<Count>(CountConfig { to: 3 });
    assert_eq!([1, 2, 3].map(|_| count.expect(&NUMBERS)), [1, 2, 3]);
    count.expect_nothing(&NUMBERS);
    count.stop();
}

const SHOP: &str = r#"
    [app]
    name = "shop"
    transport = "amqp://nobody-there"
    [services.stock]
    in.requests = "orders.placed"
    in.counts = "counts"
    out = "orders.reserved"
    config.left = 5
    [services.echo]
    use = "filter"
    in = "orders.reserved"
    out = "orders.small"
    config.when = "msg.left < ${LIMIT}"
    [topics]
    "orders.placed".external = "in"
    counts.external = "in"
    "orders.small".external = "out"
"#;

fn shop() -> Setup {
    let catalog = brickwork_actors::catalog().with::<Stock>();
    Setup::of_manifest(SHOP, catalog).variable("LIMIT", "3")
}

#[test]
fn a_whole_app_is_tested_over_its_topics() {
    let shop = shop().with("services.stock.config.left = 4").start();
    for quantity in [1, 1, 5] {
        shop.send("orders.placed", json!({"sku": "a", "quantity": quantity}));
    }
    assert_eq!(shop.expect("orders.small")["left"], 2);
    shop.expect_nothing("orders.small");
    // Also what one service hands to another.
    assert_eq!(shop.expect("orders.reserved")["left"], 3);
    assert_eq!(shop.dead_letters("stock")[0].why.reason, Reason::Reject);
    assert!(shop.dead_letters("echo").is_empty());
    assert_eq!(shop.summary().dead_letters(), 1);
    assert!(shop.stop().is_clean());
}

#[test]
fn a_manifest_file_is_tested_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("app.toml");
    std::fs::write(&file, SHOP).expect("it can be written");
    let catalog = brickwork_actors::catalog().with::<Stock>();
    let shop = Setup::of_file(&file, catalog)
        .variable("LIMIT", "99")
        .start();
    shop.send("orders.placed", json!({"sku": "a", "quantity": 1}));
    assert_eq!(shop.expect("orders.small")["left"], 4);
    shop.stop();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing of the test stays behind");
}

#[test]
fn ready_made_sources_and_plain_actors_are_tested_with_the_rest() {
    #[derive(actix::Message, Serialize, Deserialize, JsonSchema)]
    #[rtype(result = "Result<(), std::num::TryFromIntError>")]
    struct Number {
        n: i64,
    }
    struct Positive;
    impl actix::Actor for Positive {
        type Context = actix::Context<Self>;
    }
    impl actix::Handler<Number> for Positive {
        type Result = Result<(), std::num::TryFromIntError>;
        fn handle(&mut self, number: Number, _: &mut Self::Context) -> Self::Result {
            u32::try_from(number.n).map(drop)
        }
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("numbers.jsonl");
    std::fs::write(&file, "{\"n\": 1}\n{\"n\": -1}\n").expect("it can be written");
    let catalog = brickwork_actors::catalog()
        .with_actor::<Positive, Number>("positive", || actix::Actor::start(Positive));
    let manifest = r#"
        [app]
        name = "numbers"
        [services.numbers]
        use = "file-in"
        out = "numbers"
        config.path = "${FILE}"
        [services.positive]
        in = "numbers"
    "#;
    let app = Setup::of_manifest(manifest, catalog)
        .variable("FILE", file.to_str().expect("a path in UTF-8"))
        .start();
    assert_eq!(app.expect("numbers")["n"], 1);
    let letter = app.expect_dead_letter();
    assert_eq!(
        (letter.why.attempts, &letter.message.payload[..]),
        (5, &br#"{"n": -1}"#[..])
    );
    app.stop();
}

#[test]
fn two_apps_in_one_test_have_each_a_time_of_its_own() {
    let (one, other) = (
        TestApp::of::<Stock>(of_100()),
        TestApp::of::<Stock>(of_100()),
    );
    let start = one.now();
    one.advance(HOUR);
    for stock in [&one, &other] {
        stock.send(&REQUESTS, reserve(1));
    }
    for (stock, at) in [(&other, start), (&one, start + HOUR)] {
        assert_eq!(stock.expect(&RESERVED).at_ms, unix_ms(at));
    }
    one.stop();
    assert_eq!(other.ask(&COUNTS, "a".to_owned()), 99);
}

// Faults, at every point.

#[test]
fn a_start_that_fails_panics_or_hangs_is_tried_again() {
    for fault in [Fault::fail, Fault::panic, Fault::hang] {
        let stock = Setup::of::<Stock>(of_100())
            .inject(fault(Point::Start).times(2))
            .start();
        stock.send(&REQUESTS, reserve(1));
        assert_eq!(stock.expect(&RESERVED).attempt, 1);
        assert_eq!(stock.summary().services[0].restarts, 2);
        stock.stop();
    }
}

#[test]
fn a_message_that_fails_panics_or_hangs_is_tried_again() {
    for point in [Point::Handle, Point::Handled] {
        for (fault, outcome) in [
            (Fault::fail(point), "1 to be tried again"),
            (Fault::panic(point), "1 panicked"),
            (Fault::hang(point), "1 out of time"),
        ] {
            let stock = TestApp::of::<Stock>(of_100());
            stock.inject(fault);
            stock.send(&REQUESTS, reserve(1));
            let reserved = stock.expect(&RESERVED);
            // After the handler its work is done, but in an instance that lives on only
            // after a failure.
            let done_twice = point == Point::Handled && outcome == "1 to be tried again";
            let left = if done_twice { 98 } else { 99 };
            assert_eq!((reserved.left, reserved.attempt), (left, 2));
            let told = panic_of(|| stock.expect_nothing("nonsense"));
            assert_says(&told, &[outcome]);
            stock.expect_nothing(&RESERVED);
        }
    }
}

#[test]
fn a_failure_of_the_tests_choice_is_that_of_the_handler() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(
        Fault::with(Point::Handle, Failure::reject("no"))
            .after(1)
            .times(1),
    );
    for _ in 0..3 {
        stock.send(&REQUESTS, reserve(1));
    }
    let letter = stock.expect_dead_letter();
    assert_eq!(
        (letter.why.reason, &*letter.why.error),
        (Reason::Reject, "no")
    );
    assert_eq!([0; 2].map(|_| stock.expect(&RESERVED).left), [99, 98]);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn every_message_of_a_batch_meets_its_fault() {
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
    for point in [Point::Handle, Point::Handled] {
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
        stock.inject(fault(Point::Tick));
        stock.advance(MINUTE);
        stock.expect_nothing(&REPORTS);
        assert_eq!(stock.expect(&REPORTS), 100);
        assert_eq!(stock.summary().services[0].restarts, 1);
    }
}

#[test]
fn a_stop_that_fails_panics_or_hangs_harms_nobody() {
    for fault in [Fault::fail, Fault::panic, Fault::hang] {
        let stock = TestApp::of::<Stock>(of_100());
        stock.inject(fault(Point::Stop));
        stock.send(&REQUESTS, reserve(1));
        stock.expect(&RESERVED);
        stock.stop();
    }
}

#[test]
fn a_drop_that_panics_harms_nobody() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::panic(Point::Drop));
    stock.inject(Fault::panic(Point::Handle));
    stock.send(&REQUESTS, reserve(1));
    assert_eq!(stock.expect(&RESERVED).attempt, 2);
    stock.stop();
}

#[test]
fn a_source_that_fails_or_panics_is_run_again_and_one_that_hangs_sends_nothing() {
    for fault in [Fault::fail, Fault::panic] {
        let setup = Setup::of_source::<Count>(CountConfig { to: 1 });
        let count = setup.inject(fault(Point::Run)).start();
        assert_eq!(count.expect(&NUMBERS), 1);
        count.expect_nothing(&NUMBERS);
    }
    let setup = Setup::of_source::<Count>(CountConfig { to: 1 });
    let count = setup.inject(Fault::hang(Point::Run)).start();
    let told = panic_of(|| _ = count.expect(&NUMBERS));
    assert_says(&told, &["no message came on `numbers`"]);
    count.stop();
}

#[test]
fn outputs_that_are_refused_come_when_the_message_was_handled_again() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(Point::Publish).times(2));
    stock.send(&REQUESTS, reserve(1));
    let reserved = stock.expect(&RESERVED);
    // Not the message's fault: no attempt is counted.
    assert_eq!((reserved.left, reserved.attempt), (97, 1));
    stock.expect_nothing(&RESERVED);
}

#[test]
fn outputs_without_a_word_about_them_are_abandoned_with_their_message() {
    for point in [Point::Publish, Point::Confirm] {
        let stock = TestApp::of::<Stock>(of_100());
        stock.inject(Fault::hang(point));
        stock.send(&REQUESTS, reserve(1));
        let told = panic_of(|| stock.idle());
        assert_says(&told, &["there is still something to do", "in hand"]);
        let arrived = catch_unwind(AssertUnwindSafe(|| stock.expect(&RESERVED))).is_ok();
        assert_eq!(arrived, point == Point::Confirm);
        let report = stock.stop();
        let abandoned = &report.abandoned[0];
        assert_eq!(
            (&*abandoned.0, &*abandoned.1),
            ("stock", "1 unconfirmed publications")
        );
    }
}

#[test]
fn outputs_whose_confirm_is_lost_come_again_under_the_same_id() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(Point::Confirm));
    stock.send(&REQUESTS, reserve(1));
    let ids = [0; 2].map(|_| stock.expect_message(&RESERVED).id.clone());
    assert_eq!(ids[0], ids[1]);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn a_question_fails_or_gets_no_answer_in_time() {
    for fault in [Fault::fail, Fault::hang] {
        let config = StockConfig {
            price_max: Some(10),
            ..of_100()
        };
        let stock = Setup::of::<Stock>(config).answer(&PRICES, |_| 1).start();
        stock.inject(fault(Point::Ask));
        stock.send(&REQUESTS, reserve(1));
        assert_eq!(stock.expect(&RESERVED).attempt, 2);
    }
}

#[test]
fn a_consumer_that_ends_loses_nothing() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(Point::Consume).after(2));
    for _ in 0..5 {
        stock.send(&REQUESTS, reserve(1));
    }
    let left = [0; 5].map(|_| stock.expect(&RESERVED).left);
    assert_eq!(left, [99, 98, 97, 96, 95]);
    stock.expect_nothing(&RESERVED);
    assert_eq!(stock.summary().services[0].restarts, 1);
}

#[test]
fn a_delivery_whose_ack_is_lost_comes_again() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(Point::Settle));
    stock.send(&REQUESTS, reserve(1));
    let came = [0; 2].map(|_| stock.expect_message(&RESERVED));
    assert_eq!(came[0].id, came[1].id);
    stock.expect_nothing(&RESERVED);
}

#[test]
fn a_fault_of_one_service_spares_the_others() {
    let shop = shop()
        .inject(Fault::fail(Point::Handle).of("echo").always())
        .start();
    shop.send("orders.placed", json!({"sku": "a", "quantity": 4}));
    let letter = shop.expect_dead_letter();
    assert_eq!((&*letter.why.service, letter.why.attempts), ("echo", 5));
    assert_eq!(letter.why.error, "injected at Point::Handle");
    assert!(shop.dead_letters("stock").is_empty());
}

// What fails a test, and how it is told.

/// Spawns a task that nobody ends.
struct Leaky;

#[derive(Debug, Default, Deserialize, JsonSchema)]
struct LeakyConfig {
    /// On the runtime, rather than on the instance's thread.
    sendable: bool,
}

impl Service for Leaky {
    const NAME: &'static str = "leaky";
    type Config = LeakyConfig;
    fn ports(_: &LeakyConfig, ports: &mut Ports<Self>) {
        ports.input(&Input::<u32>::new("in"));
    }
    async fn start(config: &LeakyConfig, _: &mut Context) -> Result<Self, Failure> {
        let beat = async {
            loop {
                tokio::time::sleep(MINUTE).await;
            }
        };
        match config.sendable {
            true => drop(tokio::spawn(beat)),
            false => drop(tokio::task::spawn_local(beat)),
        }
        Ok(Self)
    }
}

impl Handle<u32> for Leaky {
    async fn handle(&mut self, _: u32, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn a_task_that_outlives_its_service_fails_the_test() {
    for sendable in [false, true] {
        let leaky = || TestApp::of::<Leaky>(LeakyConfig { sendable });
        let told = "a task that a service spawned still runs";
        assert_says(
            &panic_of(|| drop(leaky().stop())),
            &["after the stop", told],
        );
        assert_says(&panic_of(|| drop(leaky())), &["after the stop", told]);
        let allowed = Setup::of::<Leaky>(LeakyConfig { sendable });
        allowed.allow_leftover_tasks().start().stop();
    }
}

#[test]
fn a_test_that_fails_already_is_not_told_of_leaks() {
    let told = panic_of(|| {
        let _leaky = TestApp::of::<Leaky>(LeakyConfig::default());
        panic!("the test's own");
    });
    assert_eq!(told, "the test's own");
}

#[test]
fn a_fault_that_had_no_occasion_to_strike_fails_the_test() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::panic(Point::Tick).of("stock").times(3));
    stock.send(&REQUESTS, reserve(1));
    stock.expect(&RESERVED);
    assert_says(
        &panic_of(|| drop(stock.stop())),
        &["in vain: Fault::panic(Point::Tick) of stock struck 0 of 3 times"],
    );
}

#[test]
fn an_expectation_that_fails_tells_what_happened_instead() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.inject(Fault::fail(Point::Handle));
    stock.send(&REQUESTS, reserve(1000));
    let told = panic_of(|| drop(stock.expect(&RESERVED)));
    assert_says(
        &told,
        &[
            "no message came on `reserved` within 3600s; so far:",
            r#"on `requests`: 1 message, the last {"sku":"a","quantity":1000}"#,
            "stock: 2 attempts (1 to be tried again, 1 rejected)",
            "retry at attempt 1: injected at Point::Handle",
            "reject at attempt 2: not that many left",
            r#"stock gave up {"sku":"a","quantity":1000} after 2 attempts (reject: not that many left)"#,
        ],
    );
    assert!(PATIENCE == HOUR);
}

#[test]
fn an_expectation_that_fails_tells_why_a_service_does_not_work() {
    let setup = Setup::of::<Stock>(of_100());
    let stock = setup.inject(Fault::fail(Point::Start).always()).start();
    stock.send(&REQUESTS, reserve(1));
    let told = panic_of(|| drop(stock.expect(&RESERVED)));
    assert_says(
        &told,
        &[
            "injected at Point::Start",
            "not ready: service stock has none of its 1 instances ready",
        ],
    );
    let told = panic_of(|| stock.idle());
    assert_says(&told, &["there is still something to do after 3600s"]);
}

#[test]
fn what_comes_unexpectedly_or_unreadably_is_shown() {
    let stock = TestApp::of::<Stock>(of_100());
    stock.send(&REQUESTS, reserve(1));
    let told = panic_of(|| stock.expect_nothing(&RESERVED));
    assert_says(
        &told,
        &[
            "nothing was expected on `reserved`, there came",
            r#""left":99"#,
        ],
    );
    let numbers: Output<u32> = Output::new("reserved");
    let told = panic_of(|| _ = stock.expect(&numbers));
    assert_says(
        &told,
        &[
            "what came on `reserved`: the payload is not a valid uint32",
            "99",
        ],
    );
    let told = panic_of(|| drop(stock.expect_dead_letter()));
    assert_says(&told, &["no message was given up within 3600s"]);
}

#[test]
fn a_name_that_nobody_has_is_told_with_those_that_there_are() {
    let stock = TestApp::of::<Stock>(of_100());
    let told = panic_of(|| drop(stock.send("request", json!({}))));
    assert_says(
        &told,
        &["stock has no input `request`; there are: counts, requests"],
    );
    let told = panic_of(|| drop(stock.expect("requests")));
    assert_says(
        &told,
        &["stock has no output `requests`; there are: reserved"],
    );
    let told = panic_of(|| stock.answer(&PRICES, |_| 1));
    assert_says(&told, &["stock has no output `prices`"]);
    let shop = shop().start();
    let told = panic_of(|| drop(shop.send("orders", json!({}))));
    assert_says(
        &told,
        &["no service reads the topic `orders`; there are: counts, orders.placed"],
    );
    let told = panic_of(|| drop(shop.expect("orders.placed")));
    assert_says(&told, &["no service feeds the topic `orders.placed`"]);
}

#[test]
fn a_wrong_config_setting_or_manifest_is_reported_as_it_is_elsewhere() {
    let told = panic_of(|| drop(TestApp::of::<Stock>(StockConfig::default())));
    assert_says(
        &told,
        &["stock refuses its config", "left: there must be something"],
    );
    let wrong = Setup::of::<Stock>(of_100()).with("services.stock.instance = 3");
    let told = panic_of(|| drop(wrong.start()));
    assert_says(&told, &["E010", "instance"]);
    let told = panic_of(|| drop(shop().with("services.stock.use = \"stick\"").start()));
    assert_says(&told, &["E030", "stick"]);
}

#[test]
fn a_fault_that_can_not_be_is_refused() {
    let told = panic_of(|| drop(Fault::panic(Point::Settle)));
    assert_eq!(told, "nothing can panic at Point::Settle");
    let told = panic_of(|| drop(Fault::hang(Point::Consume)));
    assert_eq!(told, "nothing can hang at Point::Consume");
    let told = panic_of(|| drop(Fault::fail(Point::Drop)));
    assert_eq!(told, "nothing can fail at Point::Drop");
}
