//! Converts JSON and envelopes to values of the language, and values back to JSON.
//!
//! Bytes are converted directly, without an intermediate JSON value: it would round numbers.
//! Texts without escapes borrow from the message.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use brickwork::Message;
use cel::Value;
use cel::common::types::{
    CelBool, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp,
};
use cel::common::value::Val;
use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use super::numbers::{self, Number};
use super::reads::Reads;
use crate::json_reader::{DEPTH_MAX, Kind, Reader, Unreadable};

type Boxed<'v> = Box<dyn Val + 'v>;

/// The payload as a value, with the parts that are read. The rest is checked.
pub(super) fn payload<'v>(bytes: &'v [u8], reads: &Reads) -> Result<Boxed<'v>, String> {
    if bytes.is_empty() {
        return Err("the payload is empty, JSON was expected".to_owned());
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| format!("the payload is not JSON: {error}"))?;
    let mut reader = Reader::new(text);
    let value = read(&mut reader, reads);
    value
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| format!("the payload is not JSON: {}", error.describe(text)))
}

/// Reads the next value, or parts of it.
fn read<'v>(reader: &mut Reader<'v>, reads: &Reads) -> Result<Boxed<'v>, Unreadable> {
    Ok(match reader.kind()? {
        Kind::Null => {
            reader.word("null")?;
            Box::new(CelNull)
        }
        Kind::True => {
            reader.word("true")?;
            Box::new(CelBool::from(true))
        }
        Kind::False => {
            reader.word("false")?;
            Box::new(CelBool::from(false))
        }
        Kind::Number => numbers::value(reader.number()?),
        Kind::Text => Box::new(CelString::from(reader.string()?)),
        Kind::List => {
            let mut list: Vec<Boxed<'v>> = Vec::new();
            let mut more = reader.enter(b']')?;
            while more {
                match reads {
                    Reads::Everything => list.push(read(reader, reads)?),
                    Reads::Fields(_) => reader.skip()?,
                }
                more = reader.next(b']')?;
            }
            Box::new(CelList::from(list))
        }
        Kind::Object => {
            let mut map: HashMap<CelMapKey<'v>, Boxed<'v>> = HashMap::new();
            let mut more = reader.enter(b'}')?;
            while more {
                let name = reader.name()?;
                match reads.field(&name) {
                    Some(reads) => {
                        let name = CelMapKey::String(CelString::from(name));
                        map.insert(name, read(reader, reads)?);
                    }
                    None => reader.skip()?,
                }
                more = reader.next(b'}')?;
            }
            Box::new(CelMap::from(map))
        }
    })
}

/// The envelope as a value. The names of headers are in lower case.
pub(super) fn envelope(message: &Message, attempt: u32) -> Boxed<'_> {
    let text = |text: &'_ str| -> Boxed<'_> { Box::new(CelString::from(text.to_owned())) };
    let headers: HashMap<CelMapKey<'_>, Boxed<'_>> = message
        .headers
        .iter()
        .map(|(name, value)| {
            let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => CelMapKey::from(name.to_ascii_lowercase()),
                false => CelMapKey::from(&**name),
            };
            (name, borrowed(value))
        })
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

/// Writes a value as JSON. The names of objects are sorted, so that equal messages give equal
/// bytes.
pub(super) fn write_json(value: &dyn Val) -> Result<String, String> {
    let number = |number: Number<'_>| match number {
        Number::Integer(value) => value.to_string(),
        Number::Double(value) => json!(value).to_string(),
        Number::Long(long) => long.text().to_owned(),
    };
    write(value, number)
}

/// Writes a value as JSON in which equal numbers have equal texts.
pub(super) fn write_key(value: &dyn Val) -> Result<String, String> {
    write(value, |number| number.canonical())
}

fn write(value: &dyn Val, number: fn(Number<'_>) -> String) -> Result<String, String> {
    let mut writer = Writer {
        text: String::new(),
        depth: 0,
        number,
    };
    writer.value(value)?;
    Ok(writer.text)
}

/// Writes a value as JSON.
struct Writer {
    text: String,
    depth: usize,
    number: fn(Number<'_>) -> String,
}

impl Writer {
    fn value(&mut self, value: &dyn Val) -> Result<(), String> {
        if let Some(number) = Number::of(value) {
            match number {
                Number::Double(value) if !value.is_finite() => {
                    return Err(format!("is {value}, which JSON can't represent"));
                }
                _ => self.text.push_str(&(self.number)(number)),
            }
        } else if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            self.string(text.inner());
        } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
            self.list(list)?;
        } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
            self.map(map)?;
        } else {
            self.scalar(value)?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.text.push_str(&json!(text).to_string());
    }

    fn list(&mut self, list: &CelList<'_>) -> Result<(), String> {
        self.enter('[')?;
        for (nth, item) in list.inner().iter().enumerate() {
            if nth > 0 {
                self.text.push(',');
            }
            self.value(item.as_ref())?;
        }
        self.leave(']');
        Ok(())
    }

    fn map(&mut self, map: &CelMap<'_>) -> Result<(), String> {
        let mut entries = BTreeMap::new();
        for (key, value) in map.inner() {
            let name = match key {
                CelMapKey::String(name) => Cow::Borrowed(name.inner()),
                CelMapKey::Int(key) => key.inner().to_string().into(),
                CelMapKey::UInt(key) => key.inner().to_string().into(),
                CelMapKey::Bool(key) => key.inner().to_string().into(),
            };
            entries.insert(name, value);
        }
        self.enter('{')?;
        for (nth, (name, value)) in entries.iter().enumerate() {
            if nth > 0 {
                self.text.push(',');
            }
            self.string(name);
            self.text.push(':');
            self.value(value.as_ref())?;
        }
        self.leave('}');
        Ok(())
    }

    /// A value that contains no others, and is neither a number nor a text.
    fn scalar(&mut self, value: &dyn Val) -> Result<(), String> {
        let unknown = || {
            let name = value.get_type().name();
            format!("is a {name}, which JSON can't represent")
        };
        match Value::try_from(value).map_err(|_| unknown())? {
            Value::Timestamp(time) => {
                let utc = time.to_utc();
                self.string(&utc.to_rfc3339_opts(SecondsFormat::AutoSi, true));
            }
            Value::Duration(duration) => self.string(&format!("{}s", duration.as_seconds_f64())),
            value @ (Value::Bytes(_) | Value::Bool(_) | Value::Null) => {
                let json = value.json().map_err(|_| unknown())?;
                self.text.push_str(&json.to_string());
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Begins a list or an object. JSON that is nested deeper could not be read again.
    fn enter(&mut self, open: char) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("is nested deeper than {DEPTH_MAX}"));
        }
        self.text.push(open);
        Ok(())
    }

    fn leave(&mut self, close: char) {
        self.depth -= 1;
        self.text.push(close);
    }
}
