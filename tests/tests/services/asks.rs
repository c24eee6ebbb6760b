//! Promises on requests between services, for an app in this process.

use std::time::Duration;

use brickwork::Catalog;
use brickwork::prelude::*;
use brickwork::transport::AskError;
use brickwork_tests::app::{TestApp, virtually};
use serde_json::json;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u32,
}

const ITEMS: Input<Item, Item> = Input::new("in");
const NEXT: Request<Item, Item> = Request::new("next");

/// Returns a manifest: items come from outside, errors go there.
fn manifest(services: &str) -> String {
    let head = "[app]\nname = 'asks'\ntransport = 'memory:'\nworkers = 1\n\
                [admin]\nlisten = 'off'\n[topics]\nitems.external = 'in'\n";
    head.to_owned() + services
}

/// A service type without config and state.
macro_rules! service {
    ($type:ident, $name:literal, $ports:expr $(, start: $start:expr)?) => {
        struct $type;

        impl Service for $type {
            const NAME: &'static str = $name;
            type Config = NoConfig;

            fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
                let name: fn(&mut Ports<Self>) = $ports;
                name(ports);
            }

            async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
                $($start?;)?
                Ok(Self)
            }
        }
    };
}

// Asks itself for every answer, without end.
service!(Endless, "endless", |ports| {
    ports.input(&ITEMS).request(&NEXT);
});

impl Handle<Item, Item> for Endless {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<Item, Failure> {
        Ok(cx.ask(&NEXT, Item { n: item.n + 1 }).await?)
    }
}

#[test]
fn asks_that_follow_from_one_another_have_no_more_time_than_the_first() {
    virtually(async {
        let manifest = manifest(
            r#"
            [services.endless]
            in = "items"
            out.next = "items"
            instances = 2
            handler_timeout = "2s"
            retry.attempts = 1
            "#,
        );
        let catalog = Catalog::new().with::<Endless>();
        let app = TestApp::start(&manifest, &catalog).await;
        app.send("items", json!({ "n": 0 })).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let early = app.summary("endless");
        tokio::time::sleep(Duration::from_secs(600)).await;
        let late = app.summary("endless");
        assert!(early.attempts > 0, "{early:?}");
        assert_eq!(early.attempts, late.attempts);
        app.idle().await;
    });
}

// Never starts.
service!(
    Down,
    "down",
    |ports| {
        ports.input(&ITEMS);
    },
    start: Err::<(), _>(Failure::retry("no connection"))
);

impl Handle<Item, Item> for Down {
    async fn handle(&mut self, item: Item, _: &mut Context) -> Result<Item, Failure> {
        Ok(item)
    }
}

const WORK: Input<Item> = Input::new("in");
const RESULTS: Output<String> = Output::new("results");

// Emits the result of each of its requests.
service!(Asker, "asker", |ports| {
    ports.input(&WORK).request(&NEXT).output(&RESULTS);
});

impl Handle<Item> for Asker {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        let result = match cx.ask(&NEXT, item).await {
            Err(AskError::Unavailable(why)) => why,
            other => format!("{other:?}"),
        };
        cx.emit(&RESULTS, result)
    }
}

const ASKER: &str = r#"
    results.external = "out"
    [services.asker]
    in = "items"
    out.next = "queries"
    out.results = "results"
"#;

#[test]
fn an_ask_to_a_service_that_was_given_up_fails_at_once() {
    virtually(async {
        let down = r#"
            [services.down]
            in = "queries"
            restart = { max_restarts = 0, backoff = { min = "1m", max = "1m" } }
        "#;
        let manifest = manifest(&(ASKER.to_owned() + down));
        let catalog = Catalog::new().with::<Asker>().with::<Down>();
        let app = TestApp::start(&manifest, &catalog).await;
        let mut errors = app.probe("results").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = tokio::time::Instant::now();
        app.send("items", json!({ "n": 1 })).await;
        let error = errors.next_json().await;
        let error = error.as_str().expect("a text");
        assert!(error.contains("service down is isolated"), "{error}");
        assert!(error.contains("no connection"), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(1));
        app.stop().await;
    });
}

// Answers with the longest time, in milliseconds, that the links from here on may take. The last
// link asks no other.
service!(Link, "link", |ports| {
    ports.input(&ITEMS).request(&NEXT);
});

impl Handle<Item, Item> for Link {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<Item, Failure> {
        let own = cx.remaining().expect("every handler has a deadline");
        let own = own.as_millis() as u32;
        if item.n == 0 {
            return Ok(Item { n: own });
        }
        let next = cx.ask(&NEXT, Item { n: item.n - 1 }).await?;
        Ok(Item { n: next.n.max(own) })
    }
}

#[test]
fn no_link_of_a_chain_of_asks_may_take_longer_than_the_first() {
    virtually(async {
        let links = r#"
            handler_timeout = "2s"
            [services.first]
            use = "link"
            in = "queries"
            out = "more-queries"
            [services.second]
            use = "link"
            in = "more-queries"
            out = "queries"
        "#;
        let manifest = manifest(&(ASKER.to_owned() + links));
        let catalog = Catalog::new().with::<Asker>().with::<Link>();
        let app = TestApp::start(&manifest, &catalog).await;
        let mut results = app.probe("results").await;
        app.send("items", json!({ "n": 1 })).await;
        assert_eq!(results.next_json().await, "Ok(Item { n: 2000 })");
        app.stop().await;
    });
}
