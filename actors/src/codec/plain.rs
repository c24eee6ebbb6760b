//! Forms, lines, lines of JSON, text and JSON.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::{self, Output};
use super::{Format, text_of};
use crate::json::{JsonText, kind_of};

/// Characters that a form escapes; a space becomes a plus.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'*')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b' ');

pub(super) fn decode(format: Format, bytes: &[u8], bytes_max: usize) -> Result<String, String> {
    let mut output = Output::new(bytes_max);
    match format {
        Format::Form => decode_form(text_of(format, bytes)?, &mut output)?,
        Format::Lines => {
            let lines = text_of(format, bytes)?.lines().enumerate();
            list(&mut output, lines, |output, line, _| output.string(line))?;
        }
        Format::Ndjson => {
            let lines = text_of(format, bytes)?.lines().enumerate();
            let lines = lines.filter(|(_, line)| !line.trim().is_empty());
            list(&mut output, lines, |output, line, nth| {
                let json = JsonText::check_readable(line.as_bytes());
                let json = json.and_then(|json| match json.fits_inside(1) {
                    true => Ok(json),
                    false => Err("its JSON is nested too deep".to_owned()),
                });
                json.map_err(|error| format!("ndjson: line {}: {error}", nth + 1))?;
                output.raw(line.trim())
            })?;
        }
        Format::Text => output.string(text_of(format, bytes)?)?,
        _ => {
            let json = JsonText::check_readable(bytes).map_err(|error| format!("json: {error}"))?;
            let mut line = Vec::new();
            json.compact_into(&mut line);
            output.raw(text_of(Format::Json, &line)?)?;
        }
    }
    Ok(output.finish())
}

fn list<'t>(
    output: &mut Output,
    lines: impl Iterator<Item = (usize, &'t str)>,
    mut write: impl FnMut(&mut Output, &'t str, usize) -> Result<(), String>,
) -> Result<(), String> {
    output.raw("[")?;
    for (count, (nth, line)) in lines.enumerate() {
        if count > 0 {
            output.raw(",")?;
        }
        write(output, line, nth)?;
    }
    output.raw("]")
}

fn decode_form(form: &str, output: &mut Output) -> Result<(), String> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let pairs = form.trim_end().split('&').filter(|pair| !pair.is_empty());
    for (nth, pair) in pairs.enumerate() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| {
            let spaced = text.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8();
            let decoded = decoded.map(std::borrow::Cow::into_owned);
            decoded.map_err(|_| format!("form: field {} is not UTF-8 text", nth + 1))
        };
        fields.entry(text(name)?).or_default().push(text(value)?);
    }
    output.raw("{")?;
    for (nth, (name, values)) in fields.iter().enumerate() {
        if nth > 0 {
            output.raw(",")?;
        }
        output.string(name)?;
        output.raw(":")?;
        match values.as_slice() {
            [value] => output.string(value)?,
            values => {
                let values = values.iter().map(String::as_str).enumerate();
                list(output, values, |output, value, _| output.string(value))?;
            }
        }
    }
    output.raw("}")
}

pub(super) fn encode(format: Format, json: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let wrong = |expected: &str| {
        let kind = kind_of(json.trim_start());
        format!(
            "{}: the payload is {kind}, {expected} was expected",
            format.name()
        )
    };
    let mut text = String::new();
    match format {
        Format::Form => {
            let fields: BTreeMap<String, Value> =
                serde_json::from_str(json).map_err(|_| wrong("an object"))?;
            for (name, value) in &fields {
                encode_field(name, value, &mut text)?;
                output::check(text.len(), bytes_max)?;
            }
        }
        Format::Lines | Format::Ndjson => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| wrong("a list"))?;
            for (nth, item) in items.into_iter().enumerate() {
                match format {
                    Format::Ndjson => {
                        let mut line = Vec::new();
                        JsonText::check(item.get().as_bytes())?.compact_into(&mut line);
                        text.push_str(text_of(format, &line)?);
                    }
                    _ => text.push_str(&line(nth, item)?),
                }
                text.push('\n');
                output::check(text.len(), bytes_max)?;
            }
        }
        Format::Text => text = serde_json::from_str(json).map_err(|_| wrong("a text"))?,
        _ => json.clone_into(&mut text),
    }
    output::check(text.len(), bytes_max)?;
    Ok(text.into_bytes())
}

/// A text of a list, as a line.
fn line(nth: usize, item: &RawValue) -> Result<String, String> {
    let text: String = serde_json::from_str(item.get()).map_err(|_| {
        let kind = kind_of(item.get());
        format!("lines: item {nth} is {kind}, a text was expected")
    })?;
    match text.contains(['\n', '\r']) {
        true => Err(format!("lines: item {nth} contains a line break")),
        false => Ok(text),
    }
}

fn encode_field(name: &str, value: &Value, text: &mut String) -> Result<(), String> {
    let escape = |text: &str| {
        let escaped = utf8_percent_encode(text, ESCAPED).to_string();
        escaped.replace(' ', "+")
    };
    let mut add = |value: &Value| {
        let value = scalar(value).ok_or_else(|| {
            format!("form: the field {name:?} is an object or a list: a text was expected")
        })?;
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&escape(name));
        text.push('=');
        text.push_str(&escape(&value));
        Ok(())
    };
    match value {
        Value::Array(values) => values.iter().try_for_each(add),
        value => add(value),
    }
}

/// The text of a value that contains no others; that of null is empty.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_read_as_json() {
        for (format, bytes, expected) in [
            (
                Format::Form,
                "a=1&b=x+y%26&a=2",
                r#"{"a":["1","2"],"b":"x y&"}"#,
            ),
            (Format::Lines, "a\r\n\"b\"\n\nc", r#"["a","\"b\"","","c"]"#),
            (Format::Ndjson, "{\"a\": 1}\n\n 2 \n", r#"[{"a": 1},2]"#),
            (Format::Text, "a\n", r#""a\n""#),
            (Format::Json, " [1.50, 2] ", "[1.50,2]"),
        ] {
            assert_eq!(decode(format, bytes.as_bytes(), 100).unwrap(), expected);
        }
    }

    #[test]
    fn wrong_bytes_are_refused_with_their_place() {
        for (format, bytes, expected) in [
            (Format::Ndjson, &b"1\n{\n3"[..], "ndjson: line 2: not JSON"),
            (Format::Form, b"a=1&b=%ff", "form: field 2 is not UTF-8"),
            (Format::Text, b"ab\xff", "text: not UTF-8 text at byte 3"),
            (Format::Json, b"[1", "json: not JSON"),
            (
                Format::Lines,
                b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "more than 30 bytes",
            ),
        ] {
            let error = decode(format, bytes, 30).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_that_a_format_lacks_are_refused_with_their_place() {
        for (format, json, expected) in [
            (Format::Form, "[]", "form: the payload is a list, an object"),
            (Format::Form, r#"{"a":{}}"#, "the field \"a\" is an object"),
            (
                Format::Lines,
                "{}",
                "lines: the payload is an object, a list",
            ),
            (Format::Lines, r#"["a",1]"#, "lines: item 1 is a number"),
            (
                Format::Lines,
                r#"["a","b\nc"]"#,
                "item 1 contains a line break",
            ),
            (Format::Text, "1", "text: the payload is a number"),
        ] {
            let error = encode(format, json, 100).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
