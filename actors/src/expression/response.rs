//! Expressions that also see the answer of an outside service.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

use super::Expression;

/// Name of the variable.
pub(super) const VARIABLE: &str = "response";

/// An expression over `msg`, `meta` and `response`: `status`, a number; `headers`, whose names are
/// in lower case; `body`, the JSON or the text; `time`, in seconds since 1970 by the clock of the
/// other side.
#[derive(Clone)]
pub struct ResponseExpression(Expression);

impl ResponseExpression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The text is not a valid expression. The error names the place, and often a fix.
    pub fn compile(source: &str) -> Result<Self, String> {
        Expression::compile_with(source, VARIABLE).map(Self)
    }
}

impl Deref for ResponseExpression {
    type Target = Expression;

    fn deref(&self) -> &Expression {
        &self.0
    }
}

impl fmt::Debug for ResponseExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for ResponseExpression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Cow::<'de, str>::deserialize(deserializer)?;
        Self::compile(&source).map_err(de::Error::custom)
    }
}

impl JsonSchema for ResponseExpression {
    fn schema_name() -> Cow<'static, str> {
        "ResponseExpression".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Expression::json_schema(generator)
    }
}
