//! Parameters for PostgreSQL: JSON values in the text form of their SQL type.
//!
//! PostgreSQL reads the text by the input function of the type, so that every type works, numbers
//! keep all digits, and wrong values have PostgreSQL's own errors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::error::Error;
use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::sql::json_value::{Form, elements, without_zero_fraction};

/// A parameter in its text form; `None` is NULL.
#[derive(Clone, PartialEq)]
pub(in crate::sql) struct Text(pub(in crate::sql) Option<String>);

impl std::fmt::Debug for Text {
    /// Values may be confidential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("value")
    }
}

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.put_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The text form of a JSON value for a type.
///
/// # Errors
/// The value has no form in this type, and the reason.
pub(in crate::sql) fn encode(json: &str, ty: &Type) -> Result<Text, String> {
    let form = Form::of(json)?;
    if form == Form::Null {
        return Ok(Text(None));
    }
    if is_json(ty) {
        return Ok(Text(Some(json.to_owned())));
    }
    if let (Kind::Array(element), Form::List(list)) = (ty.kind(), &form) {
        let mut out = String::new();
        write_array(&mut out, list, element)?;
        return Ok(Text(Some(out)));
    }
    let is_text = is_text(ty);
    let text = match form {
        Form::Text(text) if base(ty) == &Type::BYTEA => bytea(&text)?,
        Form::Text(text) => text.into_owned(),
        Form::Bool(yes) => yes.to_string(),
        Form::Number(number) if is_integer(ty) => without_zero_fraction(number).to_owned(),
        Form::Number(number) => number.to_owned(),
        Form::List(json) | Form::Object(json) if is_text => json.to_owned(),
        other => {
            let (name, form) = (ty.name(), other.name());
            return Err(format!("{form} is no value of the type {name}"));
        }
    };
    Ok(Text(Some(text)))
}

/// The text form of an array of values that are encoded already.
pub(in crate::sql) fn array<'a>(values: impl Iterator<Item = &'a Text>) -> Text {
    let mut out = String::from("{");
    for (nth, value) in values.enumerate() {
        if nth > 0 {
            out.push(',');
        }
        push_element(&mut out, value.0.as_deref());
    }
    out.push('}');
    Text(Some(out))
}

/// Writes a JSON list as an array; lists in it are its further dimensions.
fn write_array(out: &mut String, list: &str, element: &Type) -> Result<(), String> {
    out.push('{');
    for (nth, value) in elements(list)?.into_iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        match Form::of(value.get())? {
            Form::List(inner) if !is_json(element) => write_array(out, inner, element)?,
            _ => push_element(out, encode(value.get(), element)?.0.as_deref()),
        }
    }
    out.push('}');
    Ok(())
}

fn push_element(out: &mut String, value: Option<&str>) {
    let Some(text) = value else {
        out.push_str("NULL");
        return;
    };
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\\']) {
        out.push_str(&rest[..at]);
        out.push('\\');
        out.push_str(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn bytea(text: &str) -> Result<String, String> {
    let bytes = BASE64
        .decode(text)
        .map_err(|error| format!("a bytea is written as base64: {error}"))?;
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("\\x");
    for byte in bytes {
        // Writing to a string can't fail.
        let _infallible = write!(out, "{byte:02x}");
    }
    Ok(out)
}

/// The type below domains.
pub(super) fn base(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(inner) => base(inner),
        _ => ty,
    }
}

fn is_json(ty: &Type) -> bool {
    matches!(*base(ty), Type::JSON | Type::JSONB)
}

fn is_integer(ty: &Type) -> bool {
    matches!(*base(ty), Type::INT2 | Type::INT4 | Type::INT8 | Type::OID)
}

fn is_text(ty: &Type) -> bool {
    let ty = base(ty);
    matches!(*ty, Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME) || ty.name() == "citext"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str, ty: &Type) -> Option<String> {
        encode(json, ty).unwrap().0
    }

    #[test]
    fn values_have_the_text_form_of_their_type() {
        for (json, ty, expected) in [
            ("12", Type::INT4, "12"),
            ("12.0", Type::INT8, "12"),
            ("12.50", Type::NUMERIC, "12.50"),
            ("true", Type::BOOL, "true"),
            ("\"a\\\"b\"", Type::TEXT, "a\"b"),
            ("5", Type::TEXT, "5"),
            ("{\"a\":1}", Type::TEXT, "{\"a\":1}"),
            ("{\"a\":1}", Type::JSONB, "{\"a\":1}"),
            ("\"a\"", Type::JSONB, "\"a\""),
            ("\"AP8=\"", Type::BYTEA, "\\x00ff"),
            ("[1,2.0,null]", Type::INT4_ARRAY, "{\"1\",\"2\",NULL}"),
            ("[[1],[2]]", Type::INT4_ARRAY, "{{\"1\"},{\"2\"}}"),
            (
                "[\"a,\\\"b\\\\\",\"\"]",
                Type::TEXT_ARRAY,
                "{\"a,\\\"b\\\\\",\"\"}",
            ),
            ("[[1],{}]", Type::JSONB_ARRAY, "{\"[1]\",\"{}\"}"),
            (
                "\"2026-01-02T03:04:05Z\"",
                Type::TIMESTAMPTZ,
                "2026-01-02T03:04:05Z",
            ),
        ] {
            assert_eq!(text(json, &ty).as_deref(), Some(expected), "{json} {ty}");
        }
        assert_eq!(text("null", &Type::JSONB), None);
    }

    #[test]
    fn a_value_without_a_form_in_the_type_is_refused() {
        for (json, ty) in [
            ("{}", Type::INT4),
            ("[1]", Type::BOOL),
            ("\"%\"", Type::BYTEA),
        ] {
            assert!(encode(json, &ty).is_err(), "{json}");
        }
    }

    #[test]
    fn an_array_of_rows_quotes_its_elements() {
        let values = [
            Text(Some("NULL".into())),
            Text(None),
            Text(Some("a\\".into())),
        ];
        let array = array(values.iter()).0;
        assert_eq!(array.as_deref(), Some("{\"NULL\",NULL,\"a\\\\\"}"));
    }
}
