//! JSON values of expressions, as texts whose numbers keep their digits.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// A JSON value by its form.
#[derive(Debug, PartialEq)]
pub(super) enum Form<'a> {
    Null,
    Bool(bool),
    /// The number as it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// A list, as JSON.
    List(&'a str),
    /// An object, as JSON.
    Object(&'a str),
}

impl<'a> Form<'a> {
    /// Reads valid JSON without whitespace around it.
    pub(super) fn of(json: &'a str) -> Result<Self, String> {
        Ok(match json.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'"') => Self::Text(text(json)?),
            Some(b'[') => Self::List(json),
            Some(b'{') => Self::Object(json),
            _ => Self::Number(json),
        })
    }

    /// The name of the form, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

fn text(json: &str) -> Result<Cow<'_, str>, String> {
    let inner = &json[1..json.len() - 1];
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let owned: String = serde_json::from_str(json).map_err(|error| error.to_string())?;
    Ok(Cow::Owned(owned))
}

/// The elements of a list.
pub(super) fn elements(json: &str) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// A whole number without a fraction of zeros: `12.0` is `12`. Other numbers stay.
pub(super) fn without_zero_fraction(number: &str) -> &str {
    match number.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|digit| digit == b'0') => whole,
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_keep_their_value() {
        let number = "123456789012345678901234567890.10";
        assert_eq!(Form::of(number), Ok(Form::Number(number)));
        assert_eq!(Form::of("\"a\\n\\u00e4\""), Ok(Form::Text("a\nä".into())));
        assert_eq!(Form::of("\"\""), Ok(Form::Text("".into())));
        let list = elements("[1.50,\"x\",[2]]").unwrap();
        let list: Vec<&str> = list.iter().map(|it| it.get()).collect();
        assert_eq!(list, ["1.50", "\"x\"", "[2]"]);
    }

    #[test]
    fn a_fraction_of_zeros_is_none() {
        for (number, whole) in [
            ("12.0", "12"),
            ("-3.00", "-3"),
            ("1.5", "1.5"),
            ("7", "7"),
            ("1.0e3", "1.0e3"),
        ] {
            assert_eq!(without_zero_fraction(number), whole);
        }
    }
}
