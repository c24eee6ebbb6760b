//! `enrich`: asks another service of the app and merges its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use brickwork::{JSON, Message};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::expression::{Expression, Scope};
use crate::json::{JsonText, kind_of};
use crate::map::Form;
use crate::ports::{IN, OUT, current_message};

/// The question to the other service.
const ASK: Request<Raw, Raw> = Request::new("ask");
/// Header with the reason, if a message is passed on without an answer.
const FAILED: &str = "enrich-failed";
/// Maximum bytes of the reason in the header.
const REASON_BYTES_MAX: usize = 500;

/// Asks for each message, and emits it with the answer.
#[derive(Debug)]
pub struct Enrich {
    question: Option<Expression>,
    into: String,
    form: Option<Form>,
    timeout: Duration,
    on_failure: OnFailure,
}

/// Config of `enrich`.
#[config]
pub struct EnrichConfig {
    /// An expression over `msg` and `meta` for the question; by default the payload. It goes to
    /// the topic of the output `ask`, whose service replies.
    pub question: Option<Expression>,
    /// Field of the payload that gets the answer.
    #[default("answer".to_owned())]
    pub into: String,
    /// Fields of the new payload, each with an expression over `msg` and `meta`, where `msg` is
    /// the payload with the answer. By default that is the new payload.
    pub to: BTreeMap<String, Expression>,
    /// One such expression for the whole new payload, instead of `to`.
    pub value: Option<Expression>,
    /// Maximum time for an answer; at most the rest of the handler timeout.
    #[default(HumanDuration(Duration::from_secs(5)))]
    pub timeout: HumanDuration,
    /// A message without an answer: `fail` tries again later, `pass` passes it on unchanged, with
    /// the reason in the header `enrich-failed`.
    pub on_failure: OnFailure,
}

/// The treatment of a message for which no answer came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Retry it, and dead-letter it in the end.
    #[default]
    Fail,
    /// Pass it on unchanged.
    Pass,
}

impl Service for Enrich {
    const NAME: &'static str = "enrich";
    const SUMMARY: &'static str = "asks another service and merges its answer";
    const EXAMPLE: &'static str = r#"[services.customer]
use = "enrich"
in = "orders"
out.out = "orders.full"
out.ask = "customers"
[services.customer.config]
question = "{'id': msg.customer}"
into = "customer"
timeout = "2s"
on_failure = "pass"
"#;
    const FAILURES: &'static [&'static str] = &[
        "retries a message for which no answer came within `timeout`, or passes it on, by `on_failure`",
        "dead-letters a message whose payload is not a JSON object, or whose answer is not JSON",
        "dead-letters a message without a field that an expression needs and has() doesn't guard",
        "dead-letters a message that is larger than app.max_message with its answer",
    ];
    type Config = EnrichConfig;

    fn ports(_: &EnrichConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT).request(&ASK);
    }

    fn check(config: &EnrichConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.into.is_empty() {
            errors.push(ConfigError::new("into", "it is empty: name a field"));
        }
        if config.timeout.0.is_zero() {
            errors.push(ConfigError::new("timeout", "must be more than 0"));
        }
        if config.value.is_some() && !config.to.is_empty() {
            let text = "to and value exclude each other: leave one out";
            errors.push(ConfigError::new("", text));
        }
        crate::config_errors::result(errors)
    }

    async fn start(config: &EnrichConfig, _: &mut Context) -> Result<Self, Failure> {
        let is_plain = config.to.is_empty() && config.value.is_none();
        Ok(Self {
            question: config.question.clone(),
            into: config.into.clone(),
            form: (!is_plain).then(|| Form::new(&config.to, config.value.as_ref())),
            timeout: config.timeout.0,
            on_failure: config.on_failure,
        })
    }
}

impl Enrich {
    /// Asks, and returns the answer or the reason for none.
    async fn ask(&self, cx: &Context, question: Raw) -> Result<Bytes, String> {
        let request = ASK;
        let asked = cx.ask(&request, question);
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {}", HumanDuration(self.timeout))),
        }
    }

    /// The payload with the answer.
    fn merge(&self, message: &Message, attempt: u32, answer: &[u8]) -> Result<Bytes, Failure> {
        let check = |name: &str, json| {
            JsonText::check_readable(json)
                .and_then(|json| match json.fits_inside(1) {
                    true => Ok(()),
                    false => Err("its JSON is nested too deep".to_owned()),
                })
                .map_err(|text| Failure::reject(format!("{name}: {text}")))
        };
        check("the payload", &message.payload)?;
        check("the answer", answer)?;
        let mut fields = fields(&message.payload)?;
        let answer = serde_json::from_slice(answer)?;
        fields.insert(self.into.clone(), answer);
        let payload = Bytes::from(serde_json::to_vec(&fields)?);
        match &self.form {
            None => Ok(payload),
            Some(form) => {
                let mut envelope = message.edit();
                envelope.payload = payload;
                Ok(form.apply(&envelope.into(), attempt)?.into())
            }
        }
    }
}

/// The fields of a payload, each as it is written.
fn fields(payload: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>, Failure> {
    serde_json::from_slice(payload).map_err(|_| {
        let text = String::from_utf8_lossy(payload);
        let kind = kind_of(text.trim_start());
        Failure::reject(format!("the payload is {kind}, an object was expected"))
    })
}

impl Handle<Raw> for Enrich {
    async fn handle(&mut self, mut raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = current_message(cx);
        fields(&message.payload)?;
        let question = match &self.question {
            None => raw.payload.clone(),
            Some(question) => question.json(&mut Scope::new(message, attempt))?.into(),
        };
        let question = Raw::bytes(message.kind.clone(), question);
        match (self.ask(cx, question).await, self.on_failure) {
            (Ok(answer), _) => {
                raw.payload = self.merge(message, attempt, &answer)?;
                raw.content_type = raw.content_type.and(Some(JSON.into()));
            }
            (Err(mut reason), OnFailure::Pass) => {
                reason.retain(|character| !character.is_control());
                crate::json::cut(&mut reason, REASON_BYTES_MAX);
                raw.headers.insert(FAILED.into(), reason.into());
            }
            (Err(reason), OnFailure::Fail) => return Err(Failure::retry(reason)),
        }
        cx.emit(&OUT, raw)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::Setup;
    use serde_json::{Value, json};

    use super::*;

    const VALUES: Input<Value> = Input::new("in");
    const FULL: Output<Value> = Output::new("out");
    const QUESTION: Request<Value, Value> = Request::new("ask");

    fn set_up(config: Value) -> Setup {
        let config = serde_json::from_value(config).unwrap();
        Setup::of::<Enrich>(config)
    }

    #[test]
    fn the_answer_is_a_field_of_the_message() {
        let app = set_up(json!({"question": "msg.c", "into": "customer"}))
            .answer(&QUESTION, |id| json!({"name": format!("n{id}")}))
            .start();
        let payload = r#"{"c":7,"big":12345678901234567890123}"#;
        app.send(&IN, Raw::bytes("t", payload));
        let message = app.expect_message(&FULL);
        let expected = r#"{"big":12345678901234567890123,"c":7,"customer":{"name":"n7"}}"#;
        assert_eq!(message.payload, expected);
        app.stop();
    }

    #[test]
    fn an_expression_merges_the_answer() {
        let to = json!({"total": "msg.n * msg.answer.price", "id": "meta.id"});
        let app = set_up(json!({"to": to}))
            .answer(&QUESTION, |order| json!({"price": order["n"]}))
            .start();
        let sent = app.send(&VALUES, json!({"n": 3}));
        let expected = json!({"total": 9, "id": sent.id.to_string()});
        assert_eq!(app.expect(&FULL), expected);
        app.stop();
    }

    #[test]
    fn without_an_answer_a_message_fails_or_passes_on_by_the_policy() {
        let no_answer = json!({"timeout": "1s", "on_failure": "pass"});
        let app = set_up(no_answer).start();
        app.send(&VALUES, json!({"n": 1}));
        let message = app.expect_message(&FULL);
        assert_eq!(&*message.payload, br#"{"n":1}"#);
        assert_eq!(&*message.headers[FAILED], "no answer within 1s");
        app.stop();
        let app = set_up(json!({"timeout": "1s"}))
            .with("services.enrich.retry.attempts = 2")
            .start();
        app.send(&VALUES, json!({"n": 1}));
        let letter = app.expect_dead_letter();
        assert_eq!(letter.dead_letter.error, "no answer within 1s");
        assert_eq!(letter.dead_letter.attempts, 2);
        app.stop();
    }

    #[test]
    fn a_message_that_cannot_hold_the_answer_is_dead_lettered_before_it_asks() {
        let app = set_up(json!({})).start();
        app.send(&VALUES, json!([1]));
        let letter = app.expect_dead_letter();
        let expected = "the payload is a list, an object was expected";
        assert_eq!(letter.dead_letter.error, expected);
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for (wrong, path) in [
            (json!({"into": ""}), "into"),
            (json!({"timeout": "0s"}), "timeout"),
            (json!({"to": {"a": "1"}, "value": "1"}), ""),
        ] {
            let config = serde_json::from_value(wrong).unwrap();
            assert_eq!(Enrich::check(&config).unwrap_err()[0].path, path);
        }
    }
}
