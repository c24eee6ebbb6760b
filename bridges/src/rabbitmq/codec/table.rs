//! AMQP header tables: written within a size limit, read as text.

use std::borrow::Cow;
use std::fmt::Write as _;

use brickwork::transport::TransportError;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::{refused, rfc3339};

/// A header table under construction, with its size.
#[derive(Default)]
pub(super) struct Table {
    pub(super) table: FieldTable,
    bytes: usize,
}

impl Table {
    pub(super) fn text(&mut self, name: &str, value: &str) -> Result<(), TransportError> {
        self.put(name, AMQPValue::LongString(value.into()), value.len())
    }

    pub(super) fn number(&mut self, name: &str, value: u64) -> Result<(), TransportError> {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.put(name, AMQPValue::LongLongInt(value), 8)
    }

    fn put(&mut self, name: &str, value: AMQPValue, bytes: usize) -> Result<(), TransportError> {
        self.bytes += weight(name, bytes);
        self.table.insert(short("header name", name)?, value);
        Ok(())
    }

    /// Adds headers until the table has `bytes_max` bytes and leaves the largest out. Returns
    /// how many were left out.
    pub(super) fn put_all<'a>(
        &mut self,
        headers: impl Iterator<Item = (Cow<'a, str>, &'a str)> + Clone,
        bytes_max: usize,
    ) -> Result<u64, TransportError> {
        let weight_of = |(name, value): &(Cow<'a, str>, &'a str)| weight(name, value.len());
        let all: usize = headers.clone().map(|header| weight_of(&header)).sum();
        if self.bytes + all <= bytes_max {
            for (name, value) in headers {
                self.text(&name, value)?;
            }
            return Ok(0);
        }
        let mut headers: Vec<_> = headers.collect();
        headers.sort_by_key(weight_of);
        let mut left_out = headers.len() as u64;
        for header in &headers {
            if self.bytes + weight_of(header) + LEFT_OUT_BYTES > bytes_max {
                break;
            }
            self.text(&header.0, header.1)?;
            left_out -= 1;
        }
        Ok(left_out)
    }
}

/// Space for the header that counts the left-out headers.
const LEFT_OUT_BYTES: usize = 64;

fn weight(name: &str, value_bytes: usize) -> usize {
    // A length and the name, a type, a length and the value.
    1 + name.len() + 1 + 4 + value_bytes
}

pub(super) fn short(what: &str, value: &str) -> Result<ShortString, TransportError> {
    ShortString::try_new(value).map_err(|_| {
        refused(format!(
            "a {what} has at most 255 bytes in AMQP: {value:.40}…"
        ))
    })
}

/// Returns any value as text.
pub(super) fn text(value: &AMQPValue) -> String {
    if let AMQPValue::LongString(text) = value {
        // The usual case.
        return String::from_utf8_lossy(text.as_bytes()).into_owned();
    }
    let mut out = String::new();
    write_text(value, &mut out);
    out
}

fn write_text(value: &AMQPValue, out: &mut String) {
    // Writing to a string can't fail.
    let _always = match value {
        AMQPValue::Boolean(v) => write!(out, "{v}"),
        AMQPValue::ShortShortInt(v) => write!(out, "{v}"),
        AMQPValue::ShortShortUInt(v) => write!(out, "{v}"),
        AMQPValue::ShortInt(v) => write!(out, "{v}"),
        AMQPValue::ShortUInt(v) => write!(out, "{v}"),
        AMQPValue::LongInt(v) => write!(out, "{v}"),
        AMQPValue::LongUInt(v) => write!(out, "{v}"),
        AMQPValue::LongLongInt(v) => write!(out, "{v}"),
        AMQPValue::Float(v) => write!(out, "{v}"),
        AMQPValue::Double(v) => write!(out, "{v}"),
        AMQPValue::DecimalValue(v) => write!(out, "{}e-{}", v.value, v.scale),
        AMQPValue::ShortString(v) => write!(out, "{v}"),
        AMQPValue::LongString(v) => write!(out, "{v}"),
        AMQPValue::Timestamp(v) => match rfc3339::from_seconds(*v) {
            Some(unix_ms) => write!(out, "{}", rfc3339::format(unix_ms)),
            None => write!(out, "{v}"),
        },
        AMQPValue::ByteArray(v) => {
            write!(out, "{}", String::from_utf8_lossy(v.as_slice()))
        }
        AMQPValue::FieldArray(values) => {
            out.push('[');
            for (index, value) in values.as_slice().iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_text(value, out);
            }
            out.push(']');
            Ok(())
        }
        AMQPValue::FieldTable(table) => {
            out.push('{');
            for (index, (name, value)) in table.into_iter().enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                let _always = write!(out, "{separator}{name}: ");
                write_text(value, out);
            }
            out.push('}');
            Ok(())
        }
        AMQPValue::Void => Ok(()),
    };
}
