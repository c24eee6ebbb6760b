//! What a test can say and hear.

use std::time::{Duration, SystemTime};

use brickwork::prelude::*;
use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
use brickwork::{MessageId, Reason};
use serde_json::json;

use crate::stock::*;
use crate::{HOUR, MINUTE, assert_says};

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
    assert_eq!(stock.expect_dead_letter().dead_letter.error, "too dear");

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
    assert!(began.elapsed() < HOUR / 10, "{:?}", began.elapsed());
}

#[test]
fn back_offs_take_their_time_and_are_the_same_in_every_run() {
    let run = || {
        let stock = Setup::of::<Stock>(of_100())
            .with("services.stock.retry = { attempts = 3, backoff = { min = \"10m\" , max = \"1h\" } }")
            .inject(Fault::fail(FaultPoint::Handle).times(2))
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
    later.send(&IN, MessageBuilder::new(10).after(5 * MINUTE));
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
fn what_is_too_much_for_a_queue_is_a_dead_letter_like_any_other() {
    let config = StockConfig {
        wait_seconds: 10,
        ..of_100()
    };
    let setup = Setup::of::<Stock>(config).with("services.stock.queue.limit = 2");
    let stock = setup.start();
    for quantity in [1, 2, 3] {
        stock.send(&REQUESTS, reserve(quantity));
    }
    let letter = stock.expect_dead_letter();
    assert_eq!(letter.dead_letter.reason, Reason::Overflow);
    stock.idle();
    assert_eq!(stock.dead_letters("stock").len(), 1);
    assert_eq!([0; 2].map(|_| stock.expect(&RESERVED).left), [99, 97]);
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
    let draft = MessageBuilder::new(Raw::bytes("push", &b"\xff\x00"[..]));
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

#[test]
fn a_source_is_tested_like_a_service() {
    let count = TestApp::of_source::<Count>(CountConfig { to: 3 });
    assert_eq!([1, 2, 3].map(|_| count.expect(&NUMBERS)), [1, 2, 3]);
    count.expect_nothing(&NUMBERS);
    count.stop();
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
    assert_eq!(
        shop.dead_letters("stock")[0].dead_letter.reason,
        Reason::Reject
    );
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
        (letter.dead_letter.attempts, &letter.message.payload[..]),
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
