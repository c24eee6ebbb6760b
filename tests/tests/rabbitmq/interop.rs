//! Programs in other languages take part in a running app without any Brickwork code: Node with
//! amqplib and Python with aio-pika, by the documented wire format. They are the programs of
//! `examples/4-polyglot`.

use std::collections::HashMap;

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::polyglot::{Polyglot, Seen, Stranger};
use brickwork_tests::raw::{Place, Raw, nested_header, text_header};
use lapin::BasicProperties;
use serde_json::{Value, json};

/// A program with a service type that answers requests, besides the ready-made types.
const ANSWERING: &str = env!("CARGO_BIN_EXE_answering");

const ORDERS: usize = 20;
const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn node_and_python_programs_work_between_services_of_the_app() {
    let app = Polyglot::start(&brickwork(), "poly-middle", "");
    let _node = app.service("service.js", &[]);
    let _python = app.service("service.py", &[]);
    let stranger = Stranger::connect().await;
    let mut spy = stranger.spy(&app.name).await;
    for n in 0..ORDERS {
        // Every fourth order comes from outside, half of those from Python.
        let order = json!({ "n": n, "quantity": n + 1 }).to_string();
        match n % 8 {
            0 => published(app.run("ask.js", &["orders.placed", &order, "--tell"])),
            4 => published(app.run("ask.py", &["orders.placed", &order, "--tell"])),
            _ => {
                let posted = http::post(app.door, "/orders", &[JSON], order.as_bytes());
                assert_eq!(posted.expect("it answers").code, 202);
            }
        }
    }
    let mut kept = app.keeps(ORDERS);
    kept.sort_by_key(|order| order["n"].as_u64());
    for (n, order) in kept.iter().enumerate() {
        let (price, total) = ((n + 1) * 5, ((n + 1) * 6) as f64);
        assert_eq!(order["price"], price, "{order}");
        assert_eq!(order["total"].as_f64(), Some(total), "{order}");
    }

    // On the wire: four messages per order, each caused by the one before.
    let mut chains: HashMap<u64, Vec<Seen>> = HashMap::new();
    for _ in 0..4 * ORDERS {
        let seen = spy.next().await;
        let n = seen.payload["n"].as_u64().expect("a number");
        chains.entry(n).or_default().push(seen);
    }
    assert_eq!(chains.len(), ORDERS);
    for chain in chains.values() {
        let keys: Vec<&str> = chain.iter().map(|seen| &*seen.key).collect();
        let topics = [
            "orders.placed",
            "orders.priced",
            "orders.checked",
            "orders.taxed",
        ];
        assert_eq!(keys, topics);
        for (index, seen) in chain.iter().enumerate() {
            let header = |name: &str| seen.headers.get(name).map(String::as_str);
            assert_eq!(seen.message_id.as_deref(), header("cloudEvents_id"));
            assert_eq!(header("cloudEvents_specversion"), Some("1.0"));
            assert!(header("cloudEvents_source").is_some_and(|it| it.starts_with('/')));
            assert!(header("cloudEvents_time").is_some_and(|it| it.starts_with("20")));
            // One trace for all four messages, and a span for each.
            let (trace, span) = seen.trace();
            assert_eq!(trace, chain[0].trace().0, "{chain:#?}");
            assert!(chain[..index].iter().all(|it| it.trace().1 != span));
        }
        // The app names the parent of its own message, by the id that Node gave it.
        let (priced, checked) = (&chain[1], &chain[2]);
        assert_eq!(
            checked.headers.get("brickwork-parent"),
            priced.message_id.as_ref()
        );
        assert_eq!(checked.headers["cloudEvents_source"], "/poly-middle/check");
        // A filter passes a message on unchanged.
        assert_eq!(checked.headers["cloudEvents_type"], "orders.priced");
    }
    let anonymous = app.metric(r#"brickwork_messages_anonymous_total{service="check"}"#);
    assert_eq!(anonymous, 0.0);
}

fn published((code, said): (i32, String)) {
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("published 00-"), "{said}");
}

#[test]
fn a_service_answers_requests_of_outside_programs() {
    let more = r#"
        [services.stock]
        in = "stock.wanted"
        [topics]
        "stock.wanted".external = "in"
    "#;
    let app = Polyglot::start(ANSWERING.as_ref(), "poly-asked", more);
    for script in ["ask.js", "ask.py"] {
        let (code, said) = app.run(script, &["stock.wanted", r#"{"sku":"a","quantity":3}"#]);
        assert_eq!(code, 0, "{script}: {said}");
        let answer: Value = serde_json::from_str(&said).expect("it is JSON");
        assert_eq!((&answer["sku"], &answer["left"]), (&json!("a"), &json!(97)));
        assert_eq!(answer["id"].as_str().map(str::len), Some(36), "{said}");
        // A rejected request, and a message that is no request.
        for (payload, why) in [
            (r#"{"sku":"a","quantity":101}"#, "not that many left"),
            (r#"{"sku":3}"#, "invalid type"),
        ] {
            let (code, said) = app.run(script, &["stock.wanted", payload]);
            assert_eq!(code, 1, "{script}: {said}");
            assert!(said.contains(why), "{script}: {said}");
        }
    }
    let letters = |reason: &str| {
        app.metric(&format!(
            r#"brickwork_dead_letters_total{{service="stock",reason="{reason}"}}"#
        ))
    };
    assert_eq!((letters("reject"), letters("error")), (4.0, 0.0));
}

#[test]
fn outside_programs_answer_requests_of_the_app() {
    let app = Polyglot::start(&brickwork(), "poly-asks", "");
    let quote = |order: &str| {
        let answer = http::post(app.quote, "/quotes", &[JSON], order.as_bytes());
        answer.expect("it answers")
    };
    for (script, order, field, value) in [
        ("service.py", r#"{"price":10}"#, "total", json!(12.0)),
        ("service.js", r#"{"quantity":3}"#, "price", json!(15)),
    ] {
        let service = app.service(script, &[("IN", "quotes.wanted")]);
        let answer = quote(order);
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(answer.json()[field], value, "{script}: {}", answer.body);
        // The service reports that it can't answer: the asker gets an error without internal
        // details.
        let answer = quote("{}");
        assert_eq!(answer.code, 502, "{script}: {}", answer.body);
        service.stop();
        // The queue belongs to the program and would be fed further.
        let queue = match script {
            "service.js" => format!("{}-{script}.quotes.wanted", app.name),
            _ => format!("{}-{script}", app.name),
        };
        Broker::shared().ctl(&["delete_queue", &queue]);
    }
}

#[tokio::test]
async fn messages_without_headers_are_accepted_and_counted() {
    let app = Polyglot::start(&brickwork(), "poly-nameless", "");
    let stranger = Stranger::connect().await;
    for n in 0..3 {
        let order = json!({ "n": n, "price": 5 }).to_string();
        let properties = BasicProperties::default();
        stranger
            .publish(&app.name, "orders.taxed", order.as_bytes(), properties)
            .await;
    }
    assert_eq!(app.keeps(3).len(), 3);
    let anonymous = app.metric(r#"brickwork_messages_anonymous_total{service="keep"}"#);
    assert_eq!(anonymous, 3.0);
}

/// Client libraries of some languages send text in any encoding, and the broker carries it.
#[tokio::test]
async fn invalid_utf8_in_any_field_does_no_harm() {
    let broker = Broker::start();
    let app = Polyglot::start_on(&broker, &brickwork(), "poly-bytes", "");
    let stranger = Stranger::connect_to(&broker.url()).await;
    let bytes: &[u8] = b"caf\xe9 \xff\xfe\xc3";
    let mut raw = Raw::connect(broker.port());
    // Each place alone first; then all at once.
    let places = Place::ALL.map(|place| vec![place]);
    let all = std::iter::once(Place::ALL.to_vec());
    let mut sent = 0;
    for places in places.into_iter().chain(all) {
        let order = json!({ "n": sent, "price": 5 }).to_string();
        raw.publish(&app.name, "orders.taxed", &places, bytes, order.as_bytes());
        sent += 1;
        assert_eq!(app.keeps(sent).len(), sent, "{places:?}");
    }
    let properties = BasicProperties::default();
    stranger
        .publish(&app.name, "orders.taxed", br#"{"n":99}"#, properties)
        .await;
    app.keeps(sent + 1);
    let reconnects = r#"brickwork_transport_reconnects_total{transport="amqp"}"#;
    assert_eq!(app.metric(reconnects), 0.0);
}

/// Any publisher may nest headers: a reader that recurses without bound ends its process.
#[tokio::test]
async fn headers_that_are_nested_too_deep_do_no_harm() {
    let broker = Broker::start();
    let app = Polyglot::start_on(&broker, &brickwork(), "poly-deep", "");
    let mut raw = Raw::connect(broker.port());
    let not_text = text_header(b"caf\xe9", b"value");
    for (sent, table) in [
        nested_header("deep", 10),
        nested_header("deep", 20_000),
        [nested_header("deep", 100), not_text].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let order = json!({ "n": sent, "price": 5 }).to_string();
        raw.publish_headers(&app.name, "orders.taxed", &table, order.as_bytes());
        assert_eq!(app.keeps(sent + 1).len(), sent + 1);
    }
    let reconnects = r#"brickwork_transport_reconnects_total{transport="amqp"}"#;
    assert_eq!(app.metric(reconnects), 0.0);
}
