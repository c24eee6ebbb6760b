//! Converts JSON and envelopes to values of the language, and values back to JSON.
//!
//! Bytes are converted directly, without an intermediate JSON value. Texts without escapes
//! borrow from the message.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use brickwork::Message;
use cel::Value;
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp,
    CelUInt,
};
use cel::common::value::Val;
use chrono::{DateTime, SecondsFormat};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

type Boxed<'v> = Box<dyn Val + 'v>;

/// The payload as a value.
pub(super) fn payload(bytes: &[u8]) -> Result<Boxed<'_>, String> {
    if bytes.is_empty() {
        return Err("the payload is empty, JSON was expected".to_owned());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = AnyJson.deserialize(&mut deserializer);
    value
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| format!("the payload is not JSON: {error}"))
}

/// The envelope as a value.
pub(super) fn envelope(message: &Message, attempt: u32) -> Boxed<'_> {
    let text = |text: &'_ str| -> Boxed<'_> { Box::new(CelString::from(text.to_owned())) };
    let headers: HashMap<CelMapKey<'_>, Boxed<'_>> = message
        .headers
        .iter()
        .map(|(name, value)| (CelMapKey::from(&**name), borrowed(value)))
        .collect();
    let time_ms = i64::try_from(message.time_ms).unwrap_or(i64::MAX);
    let time = DateTime::from_timestamp_millis(time_ms).unwrap_or(DateTime::UNIX_EPOCH);
    let entries: [(&str, Boxed<'_>); 7] = [
        ("id", text(&message.id.to_string())),
        ("type", borrowed(&message.kind)),
        ("source", borrowed(&message.source)),
        ("time", Box::new(CelTimestamp::from(time.fixed_offset()))),
        ("topic", borrowed(&message.topic)),
        ("attempt", Box::new(CelInt::from(i64::from(attempt)))),
        ("headers", Box::new(CelMap::from(headers))),
    ];
    let entries: HashMap<CelMapKey<'_>, Boxed<'_>> = entries
        .into_iter()
        .map(|(name, value)| (CelMapKey::from(name), value))
        .collect();
    Box::new(CelMap::from(entries))
}

fn borrowed(text: &str) -> Boxed<'_> {
    Box::new(CelString::from(text))
}

/// Converts a value to JSON. The keys of maps are sorted, so that equal messages give equal
/// bytes.
pub(super) fn to_json(value: &Value) -> Result<serde_json::Value, String> {
    Ok(match value {
        Value::List(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(to_json).collect();
            items?.into()
        }
        Value::Map(map) => {
            let mut entries = BTreeMap::new();
            for (key, value) in map.map.iter() {
                entries.insert(key.to_string(), to_json(value)?);
            }
            serde_json::Value::Object(entries.into_iter().collect())
        }
        Value::Float(number) if !number.is_finite() => {
            return Err(format!("is {number}, which JSON can't represent"));
        }
        Value::Timestamp(time) => {
            let utc = time.to_utc();
            utc.to_rfc3339_opts(SecondsFormat::AutoSi, true).into()
        }
        Value::Duration(duration) => format!("{}s", duration.as_seconds_f64()).into(),
        Value::Int(_)
        | Value::UInt(_)
        | Value::Float(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Bool(_)
        | Value::Null => value.json().map_err(|error| error.to_string())?,
        other => {
            return Err(format!(
                "is a {}, which JSON can't represent",
                other.type_of()
            ));
        }
    })
}

/// Deserializes any JSON as a value of the language. `serde_json` limits the depth.
#[derive(Clone, Copy)]
struct AnyJson;

impl<'v> DeserializeSeed<'v> for AnyJson {
    type Value = Boxed<'v>;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<Boxed<'v>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'v> Visitor<'v> for AnyJson {
    type Value = Boxed<'v>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Boxed<'v>, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Boxed<'v>, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Boxed<'v>, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    /// An integer is an `int` if it fits, as in the language's literals.
    fn visit_u64<E>(self, value: u64) -> Result<Boxed<'v>, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Box::new(CelInt::from(value)),
            Err(_) => Box::new(CelUInt::from(value)),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Boxed<'v>, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Boxed<'v>, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'v str) -> Result<Boxed<'v>, E> {
        Ok(borrowed(value))
    }

    fn visit_seq<A: SeqAccess<'v>>(self, mut items: A) -> Result<Boxed<'v>, A::Error> {
        let mut list: Vec<Boxed<'v>> = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'v>>(self, mut entries: A) -> Result<Boxed<'v>, A::Error> {
        let mut map: HashMap<CelMapKey<'v>, Boxed<'v>> = HashMap::new();
        while let Some(Name(name)) = entries.next_key()? {
            let key = match name {
                Cow::Borrowed(name) => CelMapKey::from(name),
                Cow::Owned(name) => CelMapKey::from(name),
            };
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Box::new(CelMap::from(map)))
    }
}

/// A key that borrows from the input if it has no escapes.
struct Name<'v>(Cow<'v, str>);

impl<'v> Deserialize<'v> for Name<'v> {
    fn deserialize<D: Deserializer<'v>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'v> Visitor<'v> for Text {
            type Value = Name<'v>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'v>, E> {
                Ok(Name(name.to_owned().into()))
            }

            fn visit_borrowed_str<E>(self, name: &'v str) -> Result<Name<'v>, E> {
                Ok(Name(name.into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}
