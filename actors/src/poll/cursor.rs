//! Values of a cursor: their order, and the distance that a lag moves them back.

use std::cmp::Ordering;

use chrono::{DateTime, SecondsFormat, TimeDelta};
use serde_json::Value;

use brickwork::prelude::*;

/// Meaning of the values of a cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CursorForm {
    /// Numbers, compared as numbers, or texts, compared by their characters.
    #[default]
    Plain,
    /// Times as text of RFC 3339, such as `2026-11-30T07:00:00Z`, with any offset.
    Time,
    /// Times as seconds since 1970-01-01 UTC.
    Seconds,
    /// Times as milliseconds since 1970-01-01 UTC.
    Milliseconds,
}

/// A value of a cursor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CursorValue {
    /// The value as the API wrote it.
    pub(super) json: Value,
    order: Order,
}

#[derive(Debug, Clone, PartialEq)]
enum Order {
    Integer(i128),
    Float(f64),
    Text(String),
    /// Nanoseconds since 1970-01-01 UTC.
    Time(i128),
}

const NANOS_PER_MS: i128 = 1_000_000;

impl CursorForm {
    /// Returns whether the values are times, so that they have a lag and an upper bound.
    pub(super) fn is_time(self) -> bool {
        self != Self::Plain
    }

    /// Reads a value.
    ///
    /// # Errors
    /// The value has another form.
    pub(super) fn read(self, json: &Value) -> Result<CursorValue, String> {
        let wrong = |form: &str| format!("the cursor's value {json} is not {form}");
        let order = match (self, json) {
            (Self::Plain, Value::Number(number)) => match number.as_i64() {
                Some(integer) => Order::Integer(integer.into()),
                None => match number.as_u64() {
                    Some(integer) => Order::Integer(integer.into()),
                    None => Order::Float(number.as_f64().unwrap_or(f64::NAN)),
                },
            },
            (Self::Plain, Value::String(text)) => Order::Text(text.clone()),
            (Self::Plain, _) => return Err(wrong("a number or a text")),
            (Self::Time, Value::String(text)) => {
                let time = DateTime::parse_from_rfc3339(text);
                let time = time.map_err(|_| wrong("a time such as 2026-11-30T07:00:00Z"))?;
                let nanos = i128::from(time.timestamp_subsec_nanos());
                Order::Time(i128::from(time.timestamp()) * 1_000 * NANOS_PER_MS + nanos)
            }
            (Self::Time, _) => return Err(wrong("a time such as 2026-11-30T07:00:00Z")),
            (Self::Seconds | Self::Milliseconds, json) => {
                let unit = if self == Self::Seconds { 1_000 } else { 1 };
                let number = json.as_f64().ok_or_else(|| wrong("a number"))?;
                match json.as_i64() {
                    Some(whole) => Order::Time(i128::from(whole) * unit * NANOS_PER_MS),
                    None => Order::Time((number * unit as f64 * NANOS_PER_MS as f64) as i128),
                }
            }
        };
        Ok(CursorValue {
            json: json.clone(),
            order,
        })
    }

    /// Returns a time as a value of this form; `None` if the values are no times.
    pub(super) fn at(self, unix_ms: i64) -> Option<CursorValue> {
        let json = match self {
            Self::Plain => return None,
            Self::Seconds => Value::from(unix_ms.div_euclid(1_000)),
            Self::Milliseconds => Value::from(unix_ms),
            Self::Time => time_text(i128::from(unix_ms) * NANOS_PER_MS)?,
        };
        self.read(&json).ok()
    }

    /// Moves a value back by a lag. Values that are no times stay.
    pub(super) fn back(self, value: &CursorValue, lag: TimeDelta) -> CursorValue {
        let lag_nanos = i128::from(lag.num_milliseconds()) * NANOS_PER_MS;
        let Order::Time(nanos) = value.order else {
            return value.clone();
        };
        if lag_nanos == 0 {
            return value.clone();
        }
        let moved = nanos - lag_nanos;
        let json = match self {
            Self::Plain => None,
            // Rounded down, so that nothing falls between.
            Self::Seconds => i64::try_from(moved.div_euclid(1_000 * NANOS_PER_MS))
                .ok()
                .map(Value::from),
            Self::Milliseconds => i64::try_from(moved.div_euclid(NANOS_PER_MS))
                .ok()
                .map(Value::from),
            Self::Time => time_text(moved),
        };
        json.and_then(|json| self.read(&json).ok())
            .unwrap_or_else(|| value.clone())
    }
}

fn time_text(nanos: i128) -> Option<Value> {
    let per_second = 1_000 * NANOS_PER_MS;
    let seconds = i64::try_from(nanos.div_euclid(per_second)).ok()?;
    let rest = u32::try_from(nanos.rem_euclid(per_second)).ok()?;
    let time = DateTime::from_timestamp(seconds, rest)?;
    let format = match rest {
        0 => SecondsFormat::Secs,
        _ if i128::from(rest) % NANOS_PER_MS == 0 => SecondsFormat::Millis,
        _ => SecondsFormat::Nanos,
    };
    Some(Value::from(time.to_rfc3339_opts(format, true)))
}

impl CursorValue {
    /// Compares two values; `None` if one is a text and the other a number.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (&self.order, &other.order) {
            (Order::Integer(a), Order::Integer(b)) | (Order::Time(a), Order::Time(b)) => {
                Some(a.cmp(b))
            }
            (Order::Text(a), Order::Text(b)) => Some(a.cmp(b)),
            (Order::Float(a), Order::Float(b)) => a.partial_cmp(b),
            (Order::Integer(a), Order::Float(b)) => (*a as f64).partial_cmp(b),
            (Order::Float(a), Order::Integer(b)) => a.partial_cmp(&(*b as f64)),
            _ => None,
        }
    }

    /// Returns whether this value is less; values of different kinds are not.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: CursorForm, json: Value) -> CursorValue {
        form.read(&json).unwrap()
    }

    #[test]
    fn values_are_ordered_by_their_form() {
        for (form, less, more) in [
            (CursorForm::Plain, json!(9), json!(10)),
            (CursorForm::Plain, json!("10"), json!("9")),
            (CursorForm::Plain, json!(u64::MAX - 1), json!(u64::MAX)),
            (CursorForm::Plain, json!(1), json!(1.5)),
            (
                CursorForm::Time,
                json!("2026-11-30T08:00:00+02:00"),
                json!("2026-11-30T07:00:00.000001Z"),
            ),
            (CursorForm::Seconds, json!(1), json!(1.5)),
        ] {
            assert!(
                read(form, less.clone()).is_before(&read(form, more.clone())),
                "{less} {more}"
            );
        }
        let (text, number) = (
            read(CursorForm::Plain, json!("1")),
            read(CursorForm::Plain, json!(1)),
        );
        assert_eq!(text.compare(&number), None);
        for (form, wrong) in [
            (CursorForm::Plain, json!(null)),
            (CursorForm::Time, json!("yesterday")),
            (CursorForm::Seconds, json!("1")),
        ] {
            assert!(form.read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_lag_moves_times_back_and_nothing_else() {
        let lag = TimeDelta::milliseconds(1_500);
        for (form, value, moved) in [
            (CursorForm::Plain, json!(17), json!(17)),
            (
                CursorForm::Time,
                json!("2026-11-30T07:00:00Z"),
                json!("2026-11-30T06:59:58.500Z"),
            ),
            (CursorForm::Seconds, json!(100), json!(98)),
            (CursorForm::Milliseconds, json!(100_000), json!(98_500)),
        ] {
            assert_eq!(form.back(&read(form, value), lag).json, moved);
        }
    }
}
