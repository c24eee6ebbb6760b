//! Keys of messages, for `aggregate` and `dedup`.
//!
//! A key is the value of an expression, of any type but null, as JSON: `1` and `"1"` are
//! different keys, `1` and `1.0` are the same.

use brickwork::Failure;

use crate::expression::{Expression, Scope};

/// The key of a message, as JSON.
///
/// # Errors
/// A reject, if the expression fails or its value is null.
pub(crate) fn key_of(expression: &Expression, scope: &mut Scope<'_>) -> Result<String, Failure> {
    let key = expression.key(scope)?;
    if key == "null" {
        let text = format!("the key {:?} is null", expression.source());
        return Err(Failure::reject(text));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use brickwork::{Envelope, FailureKind, Message};

    use super::*;

    fn key(expression: &str, payload: &'static str) -> Result<String, Failure> {
        let message: Message = Envelope::new("t", payload).into();
        let expression = Expression::compile(expression).unwrap();
        key_of(&expression, &mut Scope::new(&message, 1))
    }

    #[test]
    fn values_of_different_types_are_different_keys() {
        assert_eq!(key("msg.k", r#"{"k":1}"#).unwrap(), "1");
        assert_eq!(key("msg.k", r#"{"k":"1"}"#).unwrap(), "\"1\"");
        assert_eq!(
            key("[msg.b, msg.a]", r#"{"a":1,"b":"x"}"#).unwrap(),
            "[\"x\",1]"
        );
    }

    #[test]
    fn a_message_without_a_key_is_rejected() {
        for payload in [r#"{"k":null}"#, "{}", "nonsense"] {
            let failure = key("msg.k", payload).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject, "{payload}");
        }
    }
}
