//! Results of PostgreSQL as JSON, from the binary form of their types.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde_json::Value;
use tokio_postgres::types::{FromSql, Kind, Type};
use tokio_postgres::{Column, Row};

use super::encode::base;

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days from the year 1 to 2000.
const EPOCH_DAYS: i32 = 730_120;
const MICROS_PER_SECOND: i64 = 1_000_000;

type Decoded = Result<(), Box<dyn Error + Sync + Send>>;

/// The columns of a result.
///
/// # Errors
/// A column can't be read, or two have one name.
pub(super) fn check(columns: &[Column]) -> Result<(), String> {
    for (nth, column) in columns.iter().enumerate() {
        let name = column.name();
        if !is_supported(column.type_()) {
            let ty = column.type_().name();
            return Err(format!(
                "the column {name} has the type {ty}, which has no form in JSON: cast it, {name}::text"
            ));
        }
        if columns[..nth].iter().any(|before| before.name() == name) {
            return Err(format!("two columns have the name {name}: use AS"));
        }
    }
    Ok(())
}

/// A row as a JSON object.
///
/// # Errors
/// A value can't be read.
pub(super) fn object(row: &Row) -> Result<String, String> {
    object_of(row, row.columns().len())
}

/// The first columns of a row as a JSON object.
///
/// # Errors
/// A value can't be read.
pub(super) fn object_of(row: &Row, columns: usize) -> Result<String, String> {
    let mut out = String::from("{");
    for (nth, column) in row.columns().iter().take(columns).enumerate() {
        if nth > 0 {
            out.push(',');
        }
        push_text(&mut out, column.name());
        out.push(':');
        let Cell(json) = row.try_get(nth).map_err(|error| {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            format!("the column {} can't be read: {cause}", column.name())
        })?;
        out.push_str(&json);
    }
    out.push('}');
    Ok(out)
}

/// A value as JSON.
struct Cell(String);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let mut out = String::new();
        write_json(&mut out, ty, raw)?;
        Ok(Self(out))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self("null".to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        is_supported(ty)
    }
}

fn is_supported(ty: &Type) -> bool {
    match ty.kind() {
        Kind::Array(element) => !matches!(element.kind(), Kind::Array(_)) && is_supported(element),
        Kind::Domain(inner) => is_supported(inner),
        Kind::Enum(_) => true,
        _ => {
            is_text(ty)
                || matches!(
                    *ty,
                    Type::BOOL
                        | Type::INT2
                        | Type::INT4
                        | Type::INT8
                        | Type::OID
                        | Type::FLOAT4
                        | Type::FLOAT8
                        | Type::NUMERIC
                        | Type::JSON
                        | Type::JSONB
                        | Type::UUID
                        | Type::DATE
                        | Type::TIME
                        | Type::TIMESTAMP
                        | Type::TIMESTAMPTZ
                        | Type::BYTEA
                        | Type::VOID
                )
        }
    }
}

fn is_text(ty: &Type) -> bool {
    let texts = [
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::UNKNOWN,
        Type::XML,
    ];
    texts.contains(ty) || ty.name() == "citext"
}

fn write_json(out: &mut String, ty: &Type, raw: &[u8]) -> Decoded {
    let ty = base(ty);
    if let Kind::Array(element) = ty.kind() {
        return write_array(out, element, raw);
    }
    match *ty {
        Type::BOOL => out.push_str(if bool::from_sql(ty, raw)? {
            "true"
        } else {
            "false"
        }),
        Type::INT2 => write!(out, "{}", i16::from_sql(ty, raw)?)?,
        Type::INT4 => write!(out, "{}", i32::from_sql(ty, raw)?)?,
        Type::INT8 => write!(out, "{}", i64::from_sql(ty, raw)?)?,
        Type::OID => write!(out, "{}", u32::from_sql(ty, raw)?)?,
        Type::FLOAT4 => {
            let number = f32::from_sql(ty, raw)?;
            push_float(out, number.is_finite(), &number);
        }
        Type::FLOAT8 => {
            let number = f64::from_sql(ty, raw)?;
            push_float(out, number.is_finite(), &number);
        }
        Type::NUMERIC => push_numeric(out, raw)?,
        Type::JSON => out.push_str(std::str::from_utf8(raw)?),
        // The first byte is the version.
        Type::JSONB => out.push_str(std::str::from_utf8(raw.get(1..).unwrap_or_default())?),
        Type::UUID => push_text(out, &uuid(raw)?),
        Type::DATE => push_text(out, &date(i32::from_be_bytes(raw.try_into()?))?),
        Type::TIME => push_text(out, &time(i64::from_be_bytes(raw.try_into()?))),
        Type::TIMESTAMP => push_text(out, &moment(i64::from_be_bytes(raw.try_into()?), false)?),
        Type::TIMESTAMPTZ => push_text(out, &moment(i64::from_be_bytes(raw.try_into()?), true)?),
        Type::BYTEA => push_text(out, &BASE64.encode(raw)),
        Type::VOID => out.push_str("null"),
        // Texts and enums.
        _ => push_text(out, std::str::from_utf8(raw)?),
    }
    Ok(())
}

fn push_text(out: &mut String, text: &str) {
    // Writing to a string can't fail.
    let _infallible = write!(out, "{}", Value::from(text));
}

fn push_float(out: &mut String, is_finite: bool, number: &impl std::fmt::Debug) {
    // Writing to a string can't fail. `inf` and `NaN` have no form in JSON.
    let _infallible = match is_finite {
        true => write!(out, "{number:?}"),
        false => write!(
            out,
            "\"{}\"",
            format!("{number:?}").replace("inf", "Infinity")
        ),
    };
}

/// Reads big-endian numbers from the front of some bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or("the value is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16, &'static str> {
        Ok(i16::from_be_bytes(
            self.take(2)?.try_into().unwrap_or_default(),
        ))
    }

    fn i32(&mut self) -> Result<i32, &'static str> {
        Ok(i32::from_be_bytes(
            self.take(4)?.try_into().unwrap_or_default(),
        ))
    }
}

/// Writes a numeric: digits to the base 10,000, as `numeric_send` of PostgreSQL.
fn push_numeric(out: &mut String, raw: &[u8]) -> Decoded {
    let mut reader = Reader(raw);
    let count = reader.i16()?;
    let weight = i32::from(reader.i16()?);
    let sign = reader.i16()? as u16;
    let scale = usize::try_from(reader.i16()?)?;
    match sign {
        0x0000 => {}
        0x4000 => out.push('-'),
        0xD000 => out.push_str("\"Infinity\""),
        0xF000 => out.push_str("\"-Infinity\""),
        _ => out.push_str("\"NaN\""),
    }
    if sign & 0x8000 != 0 {
        return Ok(());
    }
    let digits: Result<Vec<i16>, _> = (0..count).map(|_| reader.i16()).collect();
    let digits = digits?;
    let digit = |place: i32| {
        let index = usize::try_from(weight - place).ok();
        index
            .and_then(|index| digits.get(index))
            .copied()
            .unwrap_or(0)
    };
    let mut whole = String::new();
    for place in (0..=weight.max(0)).rev() {
        write!(whole, "{:04}", digit(place))?;
    }
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut fraction = String::new();
        for group in 1..=scale.div_ceil(4) {
            write!(fraction, "{:04}", digit(-i32::try_from(group)?))?;
        }
        out.push('.');
        out.push_str(&fraction[..scale]);
    }
    Ok(())
}

fn uuid(raw: &[u8]) -> Result<String, Box<dyn Error + Sync + Send>> {
    let digits: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    if digits.len() != 32 {
        return Err("a uuid has 16 bytes".into());
    }
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    Ok(parts.join("-"))
}

fn date(days: i32) -> Result<String, Box<dyn Error + Sync + Send>> {
    match days {
        i32::MAX => Ok("infinity".to_owned()),
        i32::MIN => Ok("-infinity".to_owned()),
        _ => {
            let days = days.checked_add(EPOCH_DAYS);
            let date = days.and_then(NaiveDate::from_num_days_from_ce_opt);
            Ok(date.ok_or("the date is out of range")?.to_string())
        }
    }
}

fn time(micros: i64) -> String {
    let (seconds, micros) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = match micros {
        0 => String::new(),
        _ => format!(".{micros:06}"),
    };
    format!("{hours:02}:{minutes:02}:{seconds:02}{fraction}")
}

fn moment(micros: i64, with_zone: bool) -> Result<String, Box<dyn Error + Sync + Send>> {
    match micros {
        i64::MAX => return Ok("infinity".to_owned()),
        i64::MIN => return Ok("-infinity".to_owned()),
        _ => {}
    }
    let moment: Option<DateTime<Utc>> = micros
        .checked_add(EPOCH_MICROS)
        .and_then(DateTime::from_timestamp_micros);
    let moment = moment.ok_or("the time is out of range")?;
    let mut text = moment.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    if !with_zone {
        text.pop();
    }
    Ok(text)
}

/// Writes an array of any number of dimensions: number of dimensions, flag, type, then length and
/// lower bound of each dimension, then length and bytes of each element.
fn write_array(out: &mut String, element: &Type, raw: &[u8]) -> Decoded {
    let mut reader = Reader(raw);
    let dimensions = reader.i32()?;
    let _flags_and_type = reader.take(8)?;
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        lengths.push(reader.i32()?);
        let _lower_bound = reader.i32()?;
    }
    if lengths.is_empty() {
        out.push_str("[]");
        return Ok(());
    }
    write_dimension(out, element, &lengths, &mut reader)
}

fn write_dimension(
    out: &mut String,
    element: &Type,
    lengths: &[i32],
    reader: &mut Reader<'_>,
) -> Decoded {
    let Some((length, inner)) = lengths.split_first() else {
        let bytes = reader.i32()?;
        match usize::try_from(bytes) {
            Ok(bytes) => write_json(out, element, reader.take(bytes)?)?,
            Err(_) => out.push_str("null"),
        }
        return Ok(());
    };
    out.push('[');
    for nth in 0..*length {
        if nth > 0 {
            out.push(',');
        }
        write_dimension(out, element, inner, reader)?;
    }
    out.push(']');
    Ok(())
}
