//! `batch`: makes one message of many, by their number, size and age.
//!
//! The rules, the store and the guarantees are those of `aggregate`; `batch` has the defaults
//! and the forms for receivers that take many records in one call.

use std::time::Duration;

use brickwork::config::{ByteSize, HumanDuration};
use brickwork::prelude::*;

use crate::aggregate::{Aggregate, AggregateConfig, Form};
use crate::expression::Expression;
use crate::ports::{IN, OUT};

/// Collects messages in its store and emits them as one.
#[derive(Debug)]
pub struct Batches(Aggregate);

/// Config of `batch`. The first of the rules `count`, `size` and `within` that applies emits the
/// batch.
#[config]
pub struct BatchConfig {
    /// Maximum messages per batch.
    #[default(100)]
    pub count: u64,
    /// Total size of the messages at which a batch is emitted; by default only
    /// `app.max_message` limits it.
    pub size: Option<ByteSize>,
    /// Time after its first message at which a batch is emitted, full or not.
    #[default(HumanDuration(Duration::from_secs(5)))]
    pub within: HumanDuration,
    /// An expression over `msg` and `meta`: messages with equal values are in one batch. A
    /// missing field dead-letters the message. By default all messages are.
    pub key: Option<Expression>,
    /// An expression over `msg` and `meta` for the part of each message that is kept; by
    /// default its payload.
    pub each: Option<Expression>,
    /// Form of the payload: a `list`, `lines` (one JSON value a line), or an `object` with the
    /// key, the count and the times of the batch beside its `messages`.
    #[serde(rename = "as")]
    #[default(Form::List)]
    pub form: Form,
    /// Message type of the batches.
    #[serde(rename = "type")]
    #[default("batch".to_owned())]
    pub kind: String,
    /// Maximum number of open batches, one for each key. Beyond it, the oldest is emitted early.
    #[default(10_000)]
    pub keys: u64,
}

impl BatchConfig {
    /// The same rules as config of `aggregate`.
    fn rules(&self) -> AggregateConfig {
        AggregateConfig {
            key: self.key.clone(),
            count: Some(self.count),
            size: self.size,
            within: Some(self.within),
            idle: None,
            until: None,
            each: self.each.clone(),
            form: self.form,
            kind: self.kind.clone(),
            groups: self.keys,
        }
    }
}

impl Service for Batches {
    const NAME: &'static str = "batch";
    const SUMMARY: &'static str = "makes one message of many, by their number, size and age";
    const EXAMPLE: &'static str = r#"[services.bulk]
use = "batch"
store = true
in = "orders"
out = "orders.bulk"
config.count = 500
config.within = "2s"
config.as = "lines"
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message whose payload is not JSON, unless `each` makes JSON of it",
        "dead-letters a message whose key is null or longer than 1024 bytes, or that lacks a field that has() doesn't guard",
        "dead-letters a message that is too large for a batch of its own, by app.max_message",
        "emits a batch early, before it outgrows app.max_message",
        "emits the oldest batch early when more than `keys` are open",
    ];
    const STORE: &'static [Migration] = Aggregate::STORE;
    type Config = BatchConfig;

    fn ports(config: &BatchConfig, ports: &mut Ports<Self>) {
        ports.batch(&IN, Aggregate::BATCH).output(&OUT);
        if let Some(tick) = Aggregate::tick_of(&config.rules()) {
            ports.tick(tick.0, tick.1);
        }
    }

    fn check(config: &BatchConfig) -> Result<(), Vec<ConfigError>> {
        let errors = config.rules().check().err().unwrap_or_default();
        let renamed = errors.into_iter().map(|error| ConfigError {
            path: error.path.replace("groups", "keys"),
            ..error
        });
        crate::config_errors::result(renamed.collect())
    }

    async fn start(config: &BatchConfig, cx: &mut Context) -> Result<Self, Failure> {
        Aggregate::start(&config.rules(), cx).await.map(Self)
    }

    async fn tick(&mut self, tick: Tick, cx: &mut Context) -> Result<(), Failure> {
        self.0.tick(tick, cx).await
    }
}

impl HandleBatch<Raw> for Batches {
    async fn handle_batch(
        &mut self,
        batch: Vec<Raw>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        self.0.handle_batch(batch, cx).await
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const VALUES: Input<Value> = Input::new("in");
    const LISTS: Output<Value> = Output::new("out");

    fn config(config: Value) -> BatchConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn a_batch_is_emitted_when_it_is_full_or_old() {
        let app = TestApp::of::<Batches>(config(json!({"count": 2, "within": "10s"})));
        for n in 1..=3 {
            app.send(&VALUES, json!(n));
        }
        assert_eq!(app.expect(&LISTS), json!([1, 2]));
        let began = app.now();
        assert_eq!(app.expect(&LISTS), json!([3]));
        let took = app.now().duration_since(began).unwrap().as_millis();
        assert!((9_500..11_000).contains(&took), "{took} ms");
        app.expect_nothing(&LISTS);
        app.stop();
    }

    #[test]
    fn a_batch_has_one_key_and_can_be_lines() {
        let app = TestApp::of::<Batches>(config(json!({
            "count": 2, "key": "msg.k", "each": "{'n': msg.n}", "as": "lines", "type": "bulk",
        })));
        for (key, n) in [("a", 1), ("b", 2), ("b", 3), ("a", 4)] {
            app.send(&VALUES, json!({"k": key, "n": n}));
        }
        for lines in ["{\"n\":2}\n{\"n\":3}\n", "{\"n\":1}\n{\"n\":4}\n"] {
            let batch = app.expect_message(&LISTS);
            assert_eq!(&*batch.payload, lines.as_bytes());
            let content_type = batch.content_type.as_deref();
            assert_eq!(
                (&*batch.kind, content_type),
                ("bulk", Some("application/x-ndjson"))
            );
        }
        app.stop();
    }

    #[test]
    fn a_redelivered_message_is_in_one_batch() {
        let app = TestApp::of::<Batches>(config(json!({"count": 2})));
        for id in ["a", "a", "b", "a", "b"] {
            let message = MessageBuilder::new(json!(id)).id(id.parse().unwrap());
            app.send(&VALUES, message);
        }
        assert_eq!(app.expect(&LISTS), json!(["a", "b"]));
        app.advance(Duration::from_secs(60));
        app.expect_nothing(&LISTS);
        app.stop();
    }

    #[test]
    fn a_message_that_fits_no_batch_is_dead_lettered_with_the_reason() {
        let app = Setup::of::<Batches>(config(json!({"key": "msg.k"})))
            .with("app.max_message = \"2000B\"")
            .start();
        let bytes: Input<Raw> = Input::new("in");
        app.send(&bytes, Raw::bytes("t", &b"nonsense"[..]));
        app.send(&VALUES, json!({"k": null}));
        app.send(&VALUES, json!({"k": 1, "t": "x".repeat(1985)}));
        for expected in ["not JSON", "is null", "max_message allows 2000"] {
            let letter = app.expect_dead_letter();
            assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
        }
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused_with_the_names_of_this_type() {
        let wrong = json!({"count": 0, "within": "0s", "size": "0B", "keys": 0, "type": ""});
        let errors = Batches::check(&config(wrong)).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["count", "size", "within", "keys", "type"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// Whatever fails in between, each message is in one batch, in order.
        #[test]
        fn batches_hold_each_message_once(messages in 1usize..60, count in 1u64..9) {
            let app = Setup::of::<Batches>(config(json!({"count": count, "within": "1s"})))
                .inject(Fault::panic(FaultPoint::Handle))
                .inject(Fault::fail(FaultPoint::Publish))
                .start();
            for n in 0..messages {
                app.send(&VALUES, json!(n));
            }
            let mut seen: Vec<u64> = Vec::new();
            while seen.len() < messages {
                let batch: Vec<u64> = serde_json::from_value(app.expect(&LISTS)).unwrap();
                prop_assert!(batch.len() as u64 <= count);
                seen.extend(batch);
            }
            app.expect_nothing(&LISTS);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..messages as u64).collect::<Vec<_>>());
            app.stop();
        }
    }
}
