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

/// Asks itself for every answer, without end.
struct Endless;

impl Service for Endless {
    const NAME: &'static str = "endless";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ITEMS).request(&NEXT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item, Item> for Endless {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<Item, Failure> {
        Ok(cx.ask(&NEXT, Item { n: item.n + 1 }).await?)
    }
}

#[test]
fn asks_that_follow_from_one_another_have_no_more_time_than_the_first() {
    virtually(async {
        let manifest = r#"
            [app]
            name = "asks"
            transport = "memory:"
            workers = 1
            [admin]
            listen = "off"
            [topics.items]
            external = "in"
            [services.endless]
            in = "items"
            out.next = "items"
            instances = 2
            handler_timeout = "2s"
            retry.attempts = 1
        "#;
        let catalog = Catalog::new().with::<Endless>();
        let app = TestApp::start(manifest, &catalog).await;
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

/// Never starts.
struct Down;

impl Service for Down {
    const NAME: &'static str = "down";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ITEMS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Err(Failure::retry("no connection"))
    }
}

impl Handle<Item, Item> for Down {
    async fn handle(&mut self, item: Item, _: &mut Context) -> Result<Item, Failure> {
        Ok(item)
    }
}

/// Emits the error of each of its requests.
struct Asker;

const WORK: Input<Item> = Input::new("in");
const ERRORS: Output<String> = Output::new("errors");

impl Service for Asker {
    const NAME: &'static str = "asker";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&WORK).request(&NEXT).output(&ERRORS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item> for Asker {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        let error = match cx.ask(&NEXT, item).await {
            Err(AskError::Unavailable(why)) => why,
            other => format!("{other:?}"),
        };
        cx.emit(&ERRORS, error)
    }
}

#[test]
fn an_ask_to_a_service_that_was_given_up_fails_at_once() {
    virtually(async {
        let manifest = r#"
            [app]
            name = "asks"
            transport = "memory:"
            workers = 1
            [admin]
            listen = "off"
            [topics]
            items.external = "in"
            errors.external = "out"
            [services.asker]
            in = "items"
            out.next = "queries"
            out.errors = "errors"
            [services.down]
            in = "queries"
            restart = { max_restarts = 0, backoff = { min = "1m", max = "1m" } }
        "#;
        let catalog = Catalog::new().with::<Asker>().with::<Down>();
        let app = TestApp::start(manifest, &catalog).await;
        let mut errors = app.probe("errors").await;
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
