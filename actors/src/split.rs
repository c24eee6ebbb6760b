//! `split`: makes one message of each item of a list.
//!
//! All parts of a message are published together, before the message is acked. Their ids are
//! derived from the message's id and their index, so a redelivery emits the same ids.

use std::sync::Arc;

use brickwork::prelude::*;
use brickwork::{Headers, JSON, Message};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::expression::{Expression, Scope};
use crate::json::kind_of;
use crate::ports::current_message;

/// Maximum of `max`: all parts of a message are in memory at once.
const PARTS_MAX: usize = 10_000;
/// Maximum bytes of all parts of a message, in multiples of `app.max_message`.
const GROWTH_MAX: usize = 16;

/// Emits each item of a list as a message.
#[derive(Debug)]
pub struct Split {
    config: SplitConfig,
    kind: Option<Arc<str>>,
}

/// Config of `split`.
#[config]
pub struct SplitConfig {
    /// An expression over `msg` and `meta` for the list; by default the whole payload.
    #[default(Expression::compile("msg").expect("a variable is an expression"))]
    pub list: Expression,
    /// Payload of the parts: the item alone, or an object with the item and its place.
    #[serde(rename = "as")]
    pub form: PartForm,
    /// An expression over `msg` and `meta` for a value that every part carries in its field
    /// `keep`. It needs `as = "object"`.
    pub keep: Option<Expression>,
    /// Whether the parts have the headers `split-index` (from 0), `split-count` and
    /// `split-parent` (the id of the message).
    pub headers: bool,
    /// Maximum number of parts. A message with more is dead-lettered.
    #[default(1000)]
    pub max: usize,
    /// A message whose list is empty: `drop` acks it, `reject` dead-letters it.
    pub empty: EmptyList,
    /// Message type of the parts; by default the type of the incoming message.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// The payload of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartForm {
    /// The item of the list.
    #[default]
    Item,
    /// An object: `index` (from 0), `count`, `parent` (the id of the message), `item`, and
    /// `keep` if the config sets it.
    Object,
}

/// The treatment of a message whose list is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmptyList {
    /// Ack it.
    #[default]
    Drop,
    /// Dead-letter it.
    Reject,
}

impl Split {
    /// The payloads of all parts.
    fn parts(
        &self,
        message: &Message,
        attempt: u32,
        bytes_max: usize,
    ) -> Result<Vec<String>, Failure> {
        let scope = &mut Scope::new(message, attempt);
        let list = self.config.list.json(scope)?;
        let source = self.config.list.source();
        if !list.starts_with('[') {
            return Err(Failure::reject(format!(
                "the value of {source:?} is {}, a list was expected",
                kind_of(&list)
            )));
        }
        let items: Vec<&RawValue> = serde_json::from_str(&list)?;
        let count = items.len();
        if count == 0 && self.config.empty == EmptyList::Reject {
            return Err(Failure::reject(format!("the list {source:?} is empty")));
        }
        if count > self.config.max {
            return Err(Failure::reject(format!(
                "the list {source:?} has {count} items, `max` allows {}",
                self.config.max
            )));
        }
        let keep = match &self.config.keep {
            Some(keep) if count > 0 => Some(keep.json(scope)?),
            _ => None,
        };
        let id = serde_json::Value::from(message.id.to_string()).to_string();
        let around = keep.as_ref().map_or(0, String::len) + bytes_of(&message.headers);
        let bytes = list.len() + count.saturating_mul(around);
        if bytes > bytes_max {
            return Err(Failure::reject(format!(
                "the {count} parts of the list {source:?} would have about {bytes} bytes in all, \
                 {bytes_max} are allowed: {GROWTH_MAX} times app.max_message"
            )));
        }
        let part = |(index, item): (usize, &&RawValue)| match self.config.form {
            PartForm::Item => item.get().to_owned(),
            PartForm::Object => {
                let keep = keep.as_ref().map(|keep| format!(r#","keep":{keep}"#));
                format!(
                    r#"{{"index":{index},"count":{count},"parent":{id},"item":{}{}}}"#,
                    item.get(),
                    keep.unwrap_or_default()
                )
            }
        };
        Ok(items.iter().enumerate().map(part).collect())
    }
}

fn bytes_of(headers: &Headers) -> usize {
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len());
    bytes.sum()
}

#[service(
    summary = "makes one message of each item of a list",
    example = r#"[services.lines]
use = "split"
in = "orders"
out = "order.lines"
config.list = "msg.lines"
config.as = "object"
config.keep = "{'order': msg.id}"
"#,
    failures = [
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if an expression uses msg",
        "dead-letters a message without a list at `list`, or with more than `max` items",
        "dead-letters a message whose parts would have more than 16 times app.max_message in all",
        "dead-letters a message with an empty list, if `empty` is reject",
    ]
)]
impl Split {
    fn check(config: &SplitConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if !(1..=PARTS_MAX).contains(&config.max) {
            let text = format!("it is from 1 to {PARTS_MAX}");
            errors.push(ConfigError::new("max", text));
        }
        if config.keep.is_some() && config.form == PartForm::Item {
            let text = "the parts have no place for it: set as = \"object\"";
            errors.push(ConfigError::new("keep", text));
        }
        crate::config_errors::result(errors)
    }

    fn start(config: &SplitConfig) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            kind: config.kind.as_deref().map(Arc::from),
        })
    }

    #[input("in")]
    fn split(&mut self, mut raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, attempt) = current_message(cx);
        let bytes_max = cx.payload_bytes_max().saturating_mul(GROWTH_MAX);
        let parts = self.parts(message, attempt, bytes_max)?;
        raw.content_type = raw.content_type.and(Some(JSON.into()));
        if let Some(kind) = &self.kind {
            raw.kind = kind.clone();
        }
        if self.config.headers {
            let id = message.id.to_string();
            raw.headers.insert("split-parent".into(), id.into());
            let count = parts.len().to_string();
            raw.headers.insert("split-count".into(), count.into());
        }
        for (index, part) in parts.into_iter().enumerate() {
            let mut raw = raw.clone();
            raw.payload = part.into();
            if self.config.headers {
                let index = index.to_string();
                raw.headers.insert("split-index".into(), index.into());
            }
            out.emit(raw)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const IN: Input<Value> = Input::new("in");
    const BYTES: Input<Raw> = Input::new("in");
    const OUT: Output<Value> = Output::new("out");

    fn config(config: Value) -> SplitConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn each_item_is_a_message_with_an_id_of_message_and_index() {
        let app = TestApp::of::<Split>(config(json!({"list": "msg.l", "type": "line"})));
        let id = "order-1".parse::<brickwork::MessageId>().unwrap();
        for _ in 0..2 {
            let message = MessageBuilder::new(json!({"l": [1, {"a": null}, "x"]}));
            app.send(&IN, message.id(id.clone()));
            for (index, item) in [json!(1), json!({"a": null}), json!("x")]
                .into_iter()
                .enumerate()
            {
                let part = app.expect_message(&OUT);
                let payload: Value = serde_json::from_slice(&part.payload).unwrap();
                assert_eq!((payload, &*part.kind), (item, "line"));
                assert_eq!(part.id, id.child("split", "out", index as u32));
            }
        }
        app.expect_nothing(&OUT);
        app.stop();
    }

    #[test]
    fn a_part_can_carry_its_place_and_a_value_of_the_whole() {
        let app = TestApp::of::<Split>(config(json!({
            "list": "msg.l", "as": "object", "keep": "msg.o", "headers": true,
        })));
        let sent = app.send(&IN, json!({"l": ["a", "b"], "o": 7}));
        let parent = sent.id.to_string();
        for (index, item) in ["a", "b"].into_iter().enumerate() {
            let part = app.expect_message(&OUT);
            let payload: Value = serde_json::from_slice(&part.payload).unwrap();
            let expected =
                json!({"index": index, "count": 2, "parent": parent, "item": item, "keep": 7});
            assert_eq!(payload, expected);
            let header = |name: &str| part.headers[name].to_string();
            assert_eq!(header("split-index"), index.to_string());
            assert_eq!(
                (header("split-count"), header("split-parent")),
                ("2".to_owned(), parent.clone())
            );
        }
        app.stop();
    }

    #[test]
    fn a_message_without_a_usable_list_is_dead_lettered_with_the_reason() {
        let app = TestApp::of::<Split>(config(json!({"list": "msg.l", "max": 2})));
        app.send(&BYTES, Raw::bytes("t", &b"nonsense"[..]));
        app.send(&IN, json!({}));
        app.send(&IN, json!({"l": {"a": [1]}}));
        app.send(&IN, json!({"l": null}));
        app.send(&IN, json!({"l": [1, 2, 3]}));
        app.send(&IN, json!({"l": []}));
        for expected in [
            "not JSON",
            "\"l\" is missing",
            "is an object, a list was expected",
            "is null, a list was expected",
            "has 3 items, `max` allows 2",
        ] {
            let letter = app.expect_dead_letter();
            assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
        }
        app.expect_nothing(&OUT);
        app.stop();
        let app = TestApp::of::<Split>(config(json!({"empty": "reject"})));
        app.send(&IN, json!([]));
        let letter = app.expect_dead_letter();
        assert!(letter.dead_letter.error.contains("is empty"), "{letter:?}");
        app.stop();
    }

    #[test]
    fn the_parts_together_are_bounded() {
        let split = Split {
            config: config(json!({"list": "msg.l", "as": "object", "keep": "msg.k"})),
            kind: None,
        };
        let payload = json!({"l": vec![0; 1000], "k": "x".repeat(1000)}).to_string();
        let message = brickwork::Envelope::new("t", payload).into();
        assert_eq!(split.parts(&message, 1, 2_000_000).unwrap().len(), 1000);
        let failure = split.parts(&message, 1, 1_000_000).unwrap_err();
        assert!(failure.text().contains("1000000 are allowed"), "{failure}");
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for (wrong, path) in [
            (json!({"max": 0}), "max"),
            (json!({"max": 10_001}), "max"),
            (json!({"keep": "msg.a"}), "keep"),
        ] {
            assert_eq!(Split::check(&config(wrong)).unwrap_err()[0].path, path);
        }
    }

    proptest! {
        /// Joined again, the parts are the list: nothing is lost, added, changed or reordered.
        #[test]
        fn the_parts_are_the_items_of_the_list(items in prop::collection::vec(any::<Option<i64>>(), 0..50)) {
            let split = Split { config: config(json!({})), kind: None };
            let message = brickwork::Envelope::new("t", json!(items).to_string()).into();
            let parts = split.parts(&message, 1, usize::MAX).unwrap();
            prop_assert_eq!(format!("[{}]", parts.join(",")), json!(items).to_string());
        }
    }
}
