//! Expressions in the Common Expression Language (CEL), for use in configs.
//!
//! An expression sees two variables: `msg`, the JSON payload, and `meta`, the envelope (`id`,
//! `type`, `source`, `time`, `topic`, `attempt`, `headers`). Expressions are compiled, and
//! their names looked up, when the config is read, so a wrong expression is a config error. The
//! language is that of the `cel` crate with its strings extension (`lowerAscii`, `split`,
//! `join`, `replace`, …).

mod compile;
mod names;
mod values;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brickwork::{Failure, Message};
use cel::common::types::CelBool;
use cel::common::value::CowVal;
use cel::{ExecutionError, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use compile::Compiled;

/// `format` of expressions in a JSON Schema.
const EXPRESSION_FORMAT: &str = "cel";

/// An expression with a value.
///
/// ```
/// use brickwork::{Envelope, Message};
/// use brickwork_actors::{Expression, Scope};
///
/// let message: Message = Envelope::new("order", r#"{"items": [1, 2]}"#).into();
/// let size = Expression::compile("size(msg.items)").unwrap();
/// assert_eq!(size.value(&mut Scope::new(&message, 1)).unwrap(), 2);
/// ```
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

/// An expression whose value is true or false. A missing field makes it false.
#[derive(Clone)]
pub struct Condition {
    expression: Expression,
    missing: Arc<AtomicU64>,
}

/// The variables of one message. Payload and envelope are converted when an expression first
/// uses them, once for all expressions.
pub struct Scope<'m> {
    context: cel::Context<'m, 'm>,
    message: &'m Message,
    attempt: u32,
    has_msg: bool,
    has_meta: bool,
}

impl<'m> Scope<'m> {
    /// The variables of a message and the number of the attempt.
    pub fn new(message: &'m Message, attempt: u32) -> Self {
        Self {
            context: cel::Context::with_env(compile::environment()),
            message,
            attempt,
            has_msg: false,
            has_meta: false,
        }
    }

    fn provide(&mut self, expression: &Compiled) -> Result<(), Failure> {
        if expression.uses_msg && !self.has_msg {
            let value = values::payload(&self.message.payload).map_err(Failure::reject)?;
            self.context.add_variable_as_val("msg", value);
            self.has_msg = true;
        }
        if expression.uses_meta && !self.has_meta {
            let value = values::envelope(self.message, self.attempt);
            self.context.add_variable_as_val("meta", value);
            self.has_meta = true;
        }
        Ok(())
    }
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The text is not a valid expression. The error names the place, and often a fix.
    pub fn compile(source: &str) -> Result<Self, String> {
        compile::compile(source).map(|compiled| Self(Arc::new(compiled)))
    }

    /// The source text.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Evaluates the expression for a message. Returns the value as JSON.
    ///
    /// # Errors
    /// A reject, if the payload is not JSON, a field is missing that `has()` does not guard,
    /// or an operation does not fit its types.
    pub fn value(&self, scope: &mut Scope<'_>) -> Result<serde_json::Value, Failure> {
        scope.provide(&self.0)?;
        let value = self.evaluate(scope).map_err(|error| {
            Failure::reject(match missing(&error) {
                Some(missing) => format!("{missing}, in {:?}: guard it with has()", self.source()),
                None => self.failed(&error),
            })
        })?;
        let value = Value::try_from(value.as_ref())
            .map_err(|error| Failure::reject(self.failed(&error)))?;
        values::to_json(&value)
            .map_err(|text| Failure::reject(format!("the value of {:?} {text}", self.source())))
    }

    fn evaluate<'e>(&'e self, scope: &'e Scope<'_>) -> Result<CowVal<'e, 'e>, ExecutionError> {
        Value::resolve_val(self.0.program.expression(), &scope.context)
    }

    fn failed(&self, error: &ExecutionError) -> String {
        format!(
            "{:?} can't be evaluated: {}",
            self.source(),
            describe(error)
        )
    }
}

impl Condition {
    /// Compiles a condition.
    ///
    /// # Errors
    /// As [`Expression::compile`].
    pub fn compile(source: &str) -> Result<Self, String> {
        Ok(Self {
            expression: Expression::compile(source)?,
            missing: Arc::default(),
        })
    }

    /// The source text.
    pub fn source(&self) -> &str {
        self.expression.source()
    }

    /// Whether the message satisfies the condition.
    ///
    /// # Errors
    /// A reject, if the payload is not JSON, an operation does not fit its types, or the value
    /// is neither true nor false.
    pub fn holds(&self, scope: &mut Scope<'_>) -> Result<bool, Failure> {
        scope.provide(&self.expression.0)?;
        match self.expression.evaluate(scope) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(yes) => Ok(*yes.inner()),
                None => Err(Failure::reject(format!(
                    "the value of the condition {:?} has type {}, it is not true or false",
                    self.source(),
                    value.get_type().name()
                ))),
            },
            Err(error) => match missing(&error) {
                Some(missing) => {
                    self.missing.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(condition = self.source(), %missing, "condition is false: a field is missing");
                    Ok(false)
                }
                None => Err(Failure::reject(self.expression.failed(&error))),
            },
        }
    }

    /// How often a missing field made the condition false.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }
}

/// Describes the missing key, index or field, if that is the error. A field is also missing
/// if its parent has no fields, such as `null`.
fn missing(error: &ExecutionError) -> Option<Cow<'static, str>> {
    match error {
        ExecutionError::NoSuchKey(key) => Some(format!("the field {key:?} is missing").into()),
        ExecutionError::IndexOutOfBounds(_) => Some("an index is beyond the end of a list".into()),
        ExecutionError::NoSuchOverload(overload) if overload.function() == "_._" => {
            let of = overload.argument_types().first().map_or("value", |name| {
                if name == "null_type" { "null" } else { name }
            });
            Some(format!("a field is missing: a {of} has none").into())
        }
        _ => None,
    }
}

/// Describes an error without the values, which may be large or confidential.
fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::ValuesNotComparable(left, right) => {
            format!(
                "{} can't be compared to {}",
                left.type_of(),
                right.type_of()
            )
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!(
                "no {operator:?} of {} and {}",
                left.type_of(),
                right.type_of()
            )
        }
        ExecutionError::UnsupportedIndex(index, of) => {
            format!("{} is not an index of {}", index.type_of(), of.type_of())
        }
        ExecutionError::UnsupportedTargetType { target }
        | ExecutionError::NotSupportedAsMethod { target, .. } => {
            format!("the operation does not exist for {}", target.type_of())
        }
        ExecutionError::UnsupportedKeyType(key) => format!("{} can't be a key", key.type_of()),
        ExecutionError::Overflow(operator, ..) => format!("{operator:?} overflows"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "remainder by zero".to_owned(),
        ExecutionError::DuplicateKey(_) => "a map contains a key twice".to_owned(),
        other => other.to_string(),
    }
}

impl Default for Expression {
    /// `true`.
    fn default() -> Self {
        Self::compile("true").expect("a literal is an expression")
    }
}

impl Default for Condition {
    /// `true`.
    fn default() -> Self {
        Self {
            expression: Expression::default(),
            missing: Arc::default(),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source())
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source())
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Cow::<'de, str>::deserialize(deserializer)?;
        Self::compile(&source).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Cow::<'de, str>::deserialize(deserializer)?;
        Self::compile(&source).map_err(de::Error::custom)
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": EXPRESSION_FORMAT })
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Expression::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use brickwork::FailureKind;
    use serde_json::json;

    use super::*;

    fn message(payload: &str) -> Message {
        let mut envelope = Envelope::new("issues", payload.to_owned());
        envelope.id = "d-1".parse().unwrap();
        envelope.source = "/github/intake".into();
        envelope.topic = "github.deliveries".into();
        envelope.time_ms = 1_500;
        envelope.headers.insert("x-hub".into(), "abc".into());
        envelope.into()
    }

    fn holds(condition: &Condition, payload: &str) -> Result<bool, Failure> {
        condition.holds(&mut Scope::new(&message(payload), 2))
    }

    fn value(expression: &str, payload: &str) -> Result<serde_json::Value, Failure> {
        let message = message(payload);
        Expression::compile(expression)
            .unwrap()
            .value(&mut Scope::new(&message, 2))
    }

    #[test]
    fn a_condition_sees_payload_and_envelope() {
        let yes = [
            "meta.type == 'issues' && msg.action == 'opened'",
            "meta.id == 'd-1' && meta.source == '/github/intake' && meta.attempt == 2",
            "meta.topic.startsWith('github.') && meta.headers['x-hub'] == 'abc'",
            "meta.time == timestamp('1970-01-01T00:00:01.5Z')",
            "msg.n == 3 && msg.n > 2 && msg.n + 1 == 4 && msg.f > 1.0 && msg.n < 3.5",
            "msg.labels.exists(l, l.name == 'bug') && size(msg.labels) == 2",
            "has(msg.action) && !has(msg.nothing)",
            "msg.title.matches('^Sp.*r$') && msg.title.lowerAscii().contains('spell')",
            "msg.none == null",
            "true",
        ];
        let payload = r#"{"action":"opened","n":3,"f":1.5,"title":"Spell \"err\" or",
            "labels":[{"name":"a"},{"name":"bug"}],"none":null}"#;
        for source in yes {
            let condition = Condition::compile(source).unwrap();
            assert_eq!(holds(&condition, payload), Ok(true), "{source}");
            assert_eq!(condition.missing(), 0, "{source}");
        }
    }

    #[test]
    fn a_missing_field_makes_a_condition_false_and_is_counted() {
        for (source, payload) in [
            ("msg.a.b == 1", r#"{}"#),
            ("msg.a.b == 1", r#"{"a":{}}"#),
            ("msg.a.b == 1", r#"{"a":null}"#),
            ("msg.a.b == 1", r#"{"a":7}"#),
            ("msg.a[0] == 1", r#"{"a":[]}"#),
            ("msg['a'] == 1", r#"{}"#),
            ("meta.headers.nothing == 'x'", "{}"),
            ("!(msg.a == 1)", "{}"),
            ("msg.a == 1", "[]"),
        ] {
            let condition = Condition::compile(source).unwrap();
            assert_eq!(
                holds(&condition, payload),
                Ok(false),
                "{source} on {payload}"
            );
            assert_eq!(condition.missing(), 1, "{source} on {payload}");
        }
        // The result does not depend on the missing field.
        let either = Condition::compile("msg.a == 1 || msg.b == 2").unwrap();
        assert_eq!(holds(&either, r#"{"b":2}"#), Ok(true));
        assert_eq!(either.missing(), 0);
    }

    #[test]
    fn a_condition_without_a_boolean_value_rejects_the_message_with_the_reason() {
        for (source, payload, expected) in [
            (
                "msg.a",
                r#"{"a":"x"}"#,
                "has type string, it is not true or false",
            ),
            ("msg.a > 1", r#"{"a":"x"}"#, "can't be evaluated"),
            ("msg.a == 1", "", "the payload is empty, JSON was expected"),
            (
                "msg.a == 1",
                "nonsense",
                "the payload is not JSON: expected ident at line 1",
            ),
            (
                "msg.a == 1",
                "{} x",
                "the payload is not JSON: trailing characters",
            ),
        ] {
            let condition = Condition::compile(source).unwrap();
            let failure = holds(&condition, payload).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject);
            assert!(failure.text().contains(expected), "{source}: {failure}");
        }
    }

    #[test]
    fn an_error_contains_no_values_of_the_message() {
        let condition = Condition::compile("msg.card - msg.pin > 1").unwrap();
        let failure = holds(&condition, r#"{"card":"4111","pin":"0000"}"#).unwrap_err();
        assert!(!failure.text().contains("4111"), "{failure}");
        let condition = Condition::compile("msg.card < msg.pin").unwrap();
        let failure = holds(&condition, r#"{"card":"4111","pin":{}}"#).unwrap_err();
        assert!(!failure.text().contains("4111"), "{failure}");
    }

    #[test]
    fn a_payload_that_no_expression_uses_may_be_anything() {
        let condition = Condition::compile("meta.type == 'issues'").unwrap();
        assert_eq!(holds(&condition, "\u{0}not json"), Ok(true));
    }

    #[test]
    fn a_payload_that_is_nested_too_deep_is_rejected_without_a_stack_overflow() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let condition = Condition::compile("msg == 1").unwrap();
        let failure = holds(&condition, &deep).unwrap_err();
        assert!(failure.text().contains("recursion limit"), "{failure}");
    }

    #[test]
    fn a_value_is_converted_to_json() {
        let payload = r#"{"n":3,"f":1.0,"big":18446744073709551615,"s":"x","l":[1,null],
            "o":{"b":true}}"#;
        for (source, expected) in [
            ("msg.n", json!(3)),
            ("msg.f", json!(1.0)),
            ("msg.big", json!(18446744073709551615u64)),
            ("msg.l", json!([1, null])),
            ("msg.o", json!({"b": true})),
            ("msg.s + '-' + string(msg.n)", json!("x-3")),
            ("{'b': 1, 'a': [msg.s]}", json!({"a": ["x"], "b": 1})),
            ("has(msg.none) ? msg.none : 'default'", json!("default")),
            ("meta.time", json!("1970-01-01T00:00:01.500Z")),
            ("meta.headers", json!({"x-hub": "abc"})),
            ("msg.l.map(x, x == null)", json!([false, true])),
        ] {
            assert_eq!(value(source, payload), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_missing_field_rejects_the_message_and_is_named() {
        let failure = value("msg.issue.title", r#"{"issue":{}}"#).unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert_eq!(
            failure.text(),
            "the field \"title\" is missing, in \"msg.issue.title\": guard it with has()"
        );
    }

    #[test]
    fn the_deepest_allowed_expression_can_be_evaluated() {
        let chain = |terms: usize| format!("1{}", " + 1".repeat(terms - 1));
        let deepest = compile::DEPTH_MAX;
        assert!(Expression::compile(&chain(deepest + 1)).is_err());
        // Smaller than the default stack, in a debug build, whose frames are the largest.
        let thread = std::thread::Builder::new().stack_size(1_500 << 10);
        let evaluated = thread.spawn(move || value(&chain(deepest), "{}")).unwrap();
        assert_eq!(evaluated.join().unwrap(), Ok(json!(deepest)));
        // Operands of the same operator do not nest.
        let many = vec!["msg.a == 1"; 200].join(" || ");
        assert_eq!(value(&many, r#"{"a":2}"#), Ok(json!(false)));
    }

    #[test]
    fn configs_contain_expressions_as_strings() {
        let condition: Condition = serde_json::from_str("\"msg.a == 1\"").unwrap();
        assert_eq!(condition.source(), "msg.a == 1");
        let error = serde_json::from_str::<Condition>("\"msg.a = 1\"").unwrap_err();
        assert!(error.to_string().contains("=="), "{error}");
        assert!(serde_json::from_str::<Expression>("17").is_err());
    }
}
