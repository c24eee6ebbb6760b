//! Expressions in the Common Expression Language (CEL), for use in configs.
//!
//! An expression sees two variables: `msg`, the JSON payload, and `meta`, the envelope (`id`,
//! `type`, `source`, `time`, `topic`, `attempt`, `headers`). Expressions are compiled, and
//! their names looked up, when the config is read, so a wrong expression is a config error. The
//! language is that of the `cel` crate with its strings extension (`lowerAscii`, `split`,
//! `join`, `replace`, …), whose operators and some functions are replaced: numbers keep their
//! value, and an evaluation has a bound.

mod budget;
mod compile;
mod functions;
mod header_names;
mod names;
mod numbers;
mod operators;
mod reads;
mod response;
mod rewrite;
mod values;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brickwork::{Failure, Message};
use cel::common::types::CelBool;
use cel::common::value::{CowVal, Val};
use cel::{ExecutionError, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use compile::Compiled;
pub(crate) use reads::Reads;
pub use response::ResponseExpression;

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
/// assert_eq!(size.json(&mut Scope::new(&message, 1)).unwrap(), "2");
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
/// uses them; of the payload, only the parts that expressions read.
pub struct Scope<'m> {
    context: cel::Context<'m, 'm>,
    message: &'m Message,
    attempt: u32,
    /// The parts of the payload that all expressions of a service read.
    planned: Option<Arc<Reads>>,
    /// The parts of the payload that were converted.
    read: Option<Arc<Reads>>,
    has_meta: bool,
}

impl<'m> Scope<'m> {
    /// The variables of a message and the number of the attempt.
    pub fn new(message: &'m Message, attempt: u32) -> Self {
        Self {
            context: cel::Context::with_env(compile::environment()),
            message,
            attempt,
            planned: None,
            read: None,
            has_meta: false,
        }
    }

    /// Converts these parts of the payload at once, for expressions that share the scope.
    pub(crate) fn planned(self, reads: &Arc<Reads>) -> Self {
        Self {
            planned: Some(reads.clone()),
            ..self
        }
    }

    /// Adds the variable `response` for a [`ResponseExpression`], from its JSON.
    ///
    /// # Errors
    /// A reject, if the text is not JSON.
    pub(crate) fn with_response(mut self, json: &'m str) -> Result<Self, Failure> {
        let value = values::payload(json.as_bytes(), &Reads::Everything);
        let value = value.map_err(|text| Failure::reject(format!("response: {text}")))?;
        self.context.add_variable_as_val(response::VARIABLE, value);
        Ok(self)
    }

    fn provide(&mut self, expression: &Compiled) -> Result<(), Failure> {
        let is_read = |read: &Arc<Reads>| read.covers(&expression.reads);
        if expression.uses_msg && !self.read.as_ref().is_some_and(is_read) {
            let reads = match (&self.read, &self.planned) {
                (None, None) => expression.reads.clone(),
                (None, Some(planned)) if is_read(planned) => planned.clone(),
                (read, _) => {
                    let read = read.as_deref().cloned().unwrap_or_else(Reads::nothing);
                    Arc::new(read.and(&expression.reads))
                }
            };
            let value = values::payload(&self.message.payload, &reads).map_err(Failure::reject)?;
            self.context.add_variable_as_val("msg", value);
            self.read = Some(reads);
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
        compile::compile(source, None).map(|compiled| Self(Arc::new(compiled)))
    }

    /// Compiles an expression that may use one more variable.
    fn compile_with(source: &str, variable: &'static str) -> Result<Self, String> {
        compile::compile(source, Some(variable)).map(|compiled| Self(Arc::new(compiled)))
    }

    /// The source text.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Evaluates the expression for a message. Returns the value as JSON without whitespace.
    /// The names of objects are sorted; numbers of the payload keep their value.
    ///
    /// # Errors
    /// A reject, if the payload is not JSON, a field is missing that `has()` does not guard,
    /// or an operation does not fit its types.
    pub fn json(&self, scope: &mut Scope<'_>) -> Result<String, Failure> {
        self.write(scope, values::write_json)
    }

    /// As [`json`](Self::json), but `None` if a field is missing.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub(crate) fn json_if_present(&self, scope: &mut Scope<'_>) -> Result<Option<String>, Failure> {
        scope.provide(&self.0)?;
        let is_missing = matches!(self.evaluate(scope)?, Err(error) if missing(&error).is_some());
        match is_missing {
            true => Ok(None),
            false => self.json(scope).map(Some),
        }
    }

    /// Evaluates the expression for a message. Values that are equal in the language, such as
    /// `1` and `1.0`, have equal texts.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub(crate) fn key(&self, scope: &mut Scope<'_>) -> Result<String, Failure> {
        self.write(scope, values::write_key)
    }

    /// The parts of the payload that some expressions read.
    pub(crate) fn reads<'e>(expressions: impl IntoIterator<Item = &'e Self>) -> Arc<Reads> {
        let reads = expressions
            .into_iter()
            .map(|expression| &expression.0.reads);
        Arc::new(reads.fold(Reads::nothing(), |all, reads| all.and(reads)))
    }

    fn write(
        &self,
        scope: &mut Scope<'_>,
        write: fn(&dyn Val) -> Result<String, String>,
    ) -> Result<String, Failure> {
        scope.provide(&self.0)?;
        let value = self.evaluate(scope)?.map_err(|error| {
            Failure::reject(match missing(&error) {
                Some(missing) => format!("{missing}, in {:?}: guard it with has()", self.source()),
                None => self.failed(&error),
            })
        })?;
        write(value.as_ref())
            .map_err(|text| Failure::reject(format!("the value of {:?} {text}", self.source())))
    }

    /// Evaluates the expression.
    ///
    /// # Errors
    /// A reject, if the evaluation would take too long or too much memory. The inner result is
    /// the evaluation's own.
    fn evaluate<'e>(
        &'e self,
        scope: &'e Scope<'_>,
    ) -> Result<Result<CowVal<'e, 'e>, ExecutionError>, Failure> {
        budget::bounded(|| Value::resolve_val(&self.0.expression, &scope.context))
            .map_err(|spent| Failure::reject(format!("{:?} is stopped: {spent}", self.source())))
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

    pub(crate) fn expression(&self) -> &Expression {
        &self.expression
    }

    /// Whether the message satisfies the condition.
    ///
    /// # Errors
    /// A reject, if the payload is not JSON, an operation does not fit its types, or the value
    /// is neither true nor false.
    pub fn holds(&self, scope: &mut Scope<'_>) -> Result<bool, Failure> {
        scope.provide(&self.expression.0)?;
        match self.expression.evaluate(scope)? {
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
        ExecutionError::NoSuchOverload(overload) => {
            let name = overload.function().trim_matches(['_', '@']);
            let types = overload.argument_types().join(" and ");
            format!("there is no {name} for {types}")
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
mod tests;
