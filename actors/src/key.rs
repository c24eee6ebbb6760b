//! Keys of messages: for `aggregate` and `dedup`, and for `services.S.key` of manifests.
//!
//! In `aggregate` and `dedup` a key is the value of an expression, of any type but null, as JSON:
//! `1` and `"1"` are different keys, `1` and `1.0` are the same. A key of a manifest is a text, a
//! number or a boolean, and has no quotes: `1` and `"1"` are the same.

use std::sync::Arc;

use brickwork::{Failure, Key, Message, ReadKey};

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

/// Compiles `services.S.key`: an expression whose value is a text, a number or a boolean.
///
/// # Errors
/// As [`Expression::compile`].
pub(crate) fn key_reader(source: &str) -> Result<Arc<dyn ReadKey>, String> {
    Ok(Arc::new(ByExpression(Expression::compile(source)?)))
}

/// Reads keys by an expression.
struct ByExpression(Expression);

impl ReadKey for ByExpression {
    fn read(&self, message: &Message) -> Result<Key, String> {
        // The key is the same in each attempt.
        let value = self.0.key(&mut Scope::new(message, 1));
        let value = value.map_err(|failure| failure.text().to_owned())?;
        let of_value = |text: &str| match serde_json::from_str(text) {
            Ok(value) => Key::of_value(&value),
            Err(error) => Err(error.to_string()),
        };
        let key = match value.as_bytes().first() {
            // Numbers are written exactly, and equal ones equally.
            Some(b'-' | b'0'..=b'9') => Key::new(&value),
            _ => of_value(&value),
        };
        key.map_err(|why| format!("{:?}: {why}", self.0.source()))
    }
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

    #[test]
    fn a_key_of_a_manifest_is_a_text_or_a_number() {
        let key = |expression: &str, payload: &'static str| {
            let message: Message = Envelope::new("t", payload).into();
            let key = key_reader(expression).unwrap().read(&message);
            key.map(|key| key.to_string())
        };
        for (payload, expected) in [
            (r#"{"k":"a b"}"#, "a b"),
            (r#"{"k":7}"#, "7"),
            (r#"{"k":7.0}"#, "7"),
            (r#"{"k":true}"#, "true"),
            (
                r#"{"k":123456789012345678901234567890}"#,
                "123456789012345678901234567890",
            ),
        ] {
            assert_eq!(key("msg.k", payload).unwrap(), expected, "{payload}");
        }
        assert_eq!(
            key("msg.a + '/' + msg.b", r#"{"a":"x","b":"y"}"#).unwrap(),
            "x/y"
        );
        for (payload, expected) in [
            (r#"{"k":null}"#, "the key is null"),
            (r#"{"k":[1]}"#, "the key is an array"),
            (r#"{"k":""}"#, "the key is empty"),
            ("{}", "missing"),
        ] {
            let error = key("msg.k", payload).unwrap_err();
            assert!(error.contains(expected), "{payload}: {error}");
        }
        assert!(key_reader("msg.").is_err());
    }
}
