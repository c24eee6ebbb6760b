//! Keys of messages: messages of one key are handled in order.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::message::Message;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The key of a message, such as a customer number.
///
/// A number is written as in JSON, and a whole one without a fraction: `1.0` and `1` are one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// Makes a key.
    ///
    /// # Errors
    /// The text is empty or longer than [`KEY_BYTES_MAX`].
    pub fn new(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("the key is empty".into()),
            1..=KEY_BYTES_MAX => Ok(Self(text.into())),
            bytes => Err(format!(
                "the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}"
            )),
        }
    }

    /// Makes a key from a JSON value: a text, a number or a boolean.
    ///
    /// # Errors
    /// The value has another type, or its text is no key.
    pub fn of_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Self::new(text),
            Value::Bool(value) => Self::new(if *value { "true" } else { "false" }),
            Value::Number(number) => Self::new(&number_text(number)),
            Value::Null => Err("the key is null".into()),
            Value::Array(_) => Err("the key is an array; it must be a text or a number".into()),
            Value::Object(_) => Err("the key is an object; it must be a text or a number".into()),
        }
    }

    /// Returns the text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the partition of the key, of `partitions`. The same in every process, version and
    /// run.
    ///
    /// # Panics
    /// `partitions` is 0.
    pub fn partition(&self, partitions: u16) -> u16 {
        // FNV-1a, whose high bits differ more than its low ones.
        let hash = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 32) % u64::from(partitions)) as u16
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a whole number without a fraction.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() < 9.0e15 => {
            (value as i64).to_string()
        }
        _ => number.to_string(),
    }
}

/// Reads the key of a message.
pub trait ReadKey: Send + Sync {
    /// Returns the key.
    ///
    /// # Errors
    /// The message has no key, with the reason.
    fn read(&self, message: &Message) -> Result<Key, String>;
}

/// Compiles an expression that reads keys: `services.S.key`.
///
/// # Errors
/// The text is no expression, with the place in it.
pub type CompileKey = fn(&str) -> Result<Arc<dyn ReadKey>, String>;

/// How messages of an input get their keys: a field of their payload, or an expression.
#[derive(Clone)]
pub struct KeyRule {
    text: Arc<str>,
    reader: Arc<dyn ReadKey>,
}

impl KeyRule {
    /// Makes the rule that the key is a field of a JSON payload.
    pub fn field(name: &str) -> Self {
        Self::new(name, Arc::new(Field(name.into())))
    }

    /// Makes a rule. Rules of the same `text` are equal.
    pub fn new(text: &str, reader: Arc<dyn ReadKey>) -> Self {
        let text = text.into();
        Self { text, reader }
    }

    /// Returns the field or the expression.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the key of a message.
    ///
    /// # Errors
    /// The message has no key, with the reason.
    pub fn key(&self, message: &Message) -> Result<Key, String> {
        self.reader.read(message)
    }
}

impl fmt::Debug for KeyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRule({})", self.text)
    }
}

impl PartialEq for KeyRule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for KeyRule {}

/// A top-level field of a JSON object.
struct Field(Box<str>);

impl ReadKey for Field {
    fn read(&self, message: &Message) -> Result<Key, String> {
        let mut json = serde_json::Deserializer::from_slice(&message.payload);
        let found = json
            .deserialize_map(OneField(&self.0))
            .map_err(|error| format!("no key: {error}"))?;
        match found.map(RawValue::get) {
            // As a `Value`, an integer of more than 64 bits would be rounded.
            Some(digits) if is_integer(digits) => Key::new(digits),
            Some(json) => {
                let value =
                    serde_json::from_str(json).map_err(|error| format!("no key: {error}"))?;
                Key::of_value(&value)
            }
            None => Err(format!("the message has no field `{}`", self.0)),
        }
    }
}

fn is_integer(json: &str) -> bool {
    let digits = json.strip_prefix('-').unwrap_or(json);
    digits != "0" && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads one field of an object and skips the others.
struct OneField<'a>(&'a str);

impl<'de> Visitor<'de> for OneField<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // Escaped names are not borrowed.
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::message::Envelope;

    fn key(payload: &'static str) -> Result<Key, String> {
        KeyRule::field("customer").key(&Envelope::new("order", payload).into())
    }

    #[test]
    fn a_key_is_a_field_of_the_payload() {
        for (payload, expected) in [
            (r#"{"a": [1, {"customer": 2}], "customer": "x"}"#, "x"),
            (r#"{"customer": 7}"#, "7"),
            (r#"{"customer": 7.0}"#, "7"),
            (r#"{"customer": 7.5}"#, "7.5"),
            (r#"{"customer": -0}"#, "0"),
            (
                r#"{"customer": 36893488147419103233}"#,
                "36893488147419103233",
            ),
            (r#"{"customer": true}"#, "true"),
            (r#"{"\u0063ustomer": "escaped"}"#, "escaped"),
        ] {
            assert_eq!(key(payload).unwrap().as_str(), expected, "{payload}");
        }
    }

    #[test]
    fn a_message_without_a_key_says_why() {
        for (payload, expected) in [
            ("{}", "the message has no field `customer`"),
            (r#"{"customer": null}"#, "the key is null"),
            (r#"{"customer": ""}"#, "the key is empty"),
            (r#"{"customer": []}"#, "array"),
            ("[1]", "an object with the field `customer`"),
            ("{", "no key: "),
        ] {
            let error = key(payload).unwrap_err();
            assert!(error.contains(expected), "{payload}: {error}");
        }
    }

    /// Messages are in partitions of a broker: the place of a key never changes.
    #[test]
    fn partitions_are_even_and_the_same_for_ever() {
        let mut counts = BTreeMap::new();
        for number in 0..16_000 {
            let key = Key::new(&format!("customer-{number}")).unwrap();
            *counts.entry(key.partition(16)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 16);
        assert!(
            counts.values().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
        let of = |text| Key::new(text).unwrap().partition(16);
        assert_eq!([of("a"), of("customer-1"), of("42")], [12, 14, 8]);
    }
}
