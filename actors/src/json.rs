//! JSON as text: checked, cut and compacted without parsing it into values.
//!
//! A payload that only passes through keeps its numbers, its order of keys and its escapes:
//! only whitespace between tokens may change. Also owns JSON pointers (RFC 6901).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use crate::json_reader::{Reader, Unreadable, plain_until};

/// Maximum nesting of a payload that only passes through.
const DEPTH_MAX: usize = 128;

/// A text that is one valid JSON value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonText<'a>(&'a str);

impl<'a> JsonText<'a> {
    /// Checks that bytes are one JSON value, not nested too deep.
    ///
    /// # Errors
    /// The bytes are empty, not JSON, or nested too deep.
    pub(crate) fn check(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err("it is empty, JSON was expected".to_owned());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not JSON: {error}"))?;
        if read(text).is_ok() {
            return Ok(Self(text));
        }
        let _: IgnoredAny =
            serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        if depth(text.as_bytes()) > DEPTH_MAX {
            return Err(format!("the JSON is nested deeper than {DEPTH_MAX}"));
        }
        Ok(Self(text))
    }

    /// Checks that bytes are one JSON value that every service can read: within the limits of
    /// nesting, with numbers in the range of a double, without halves of surrogate pairs.
    ///
    /// # Errors
    /// As [`check`](Self::check), or a part can't be read.
    pub(crate) fn check_readable(bytes: &'a [u8]) -> Result<Self, String> {
        let json = Self::check(bytes)?;
        let unreadable =
            |error: Unreadable| format!("it can't be read: {}", error.describe(json.0));
        read(json.0).map(|()| json).map_err(unreadable)
    }

    /// Whether the value may be nested this many levels deep in another value.
    pub(crate) fn fits_inside(self, levels: usize) -> bool {
        depth(self.0.as_bytes()) + levels <= DEPTH_MAX
    }

    /// Appends the text to `line` without the whitespace between its tokens. The result is one
    /// line, since a JSON string contains no raw line break.
    pub(crate) fn compact_into(self, line: &mut Vec<u8>) {
        let bytes = self.0.as_bytes();
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            match bytes[at] {
                b'"' => at = string_end(bytes, at),
                b' ' | b'\t' | b'\r' | b'\n' => {
                    line.extend_from_slice(&bytes[from..at]);
                    at += 1;
                    from = at;
                }
                _ => at += 1,
            }
        }
        line.extend_from_slice(&bytes[from..]);
    }

    /// The range of the value that a pointer names. Of repeated keys the last one counts, as
    /// in every common parser.
    pub(crate) fn find(self, pointer: &JsonPointer) -> Option<Range<usize>> {
        let mut value: &RawValue = serde_json::from_str(self.0).ok()?;
        for token in &pointer.0 {
            value = match value.get().as_bytes()[0] {
                b'{' => {
                    let object: HashMap<String, &RawValue> =
                        serde_json::from_str(value.get()).ok()?;
                    object.get(token).copied()?
                }
                b'[' => {
                    let canonical = token == "0" || !token.starts_with(['0', '+']);
                    let index: usize = token.parse().ok().filter(|_| canonical)?;
                    let list: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                    list.get(index).copied()?
                }
                _ => return None,
            };
        }
        let start = value.get().as_ptr().addr() - self.0.as_ptr().addr();
        Some(start..start + value.get().len())
    }

    /// The text of a range that [`find`](Self::find) returned.
    pub(crate) fn at(self, range: Range<usize>) -> &'a str {
        &self.0[range]
    }
}

/// A JSON pointer (RFC 6901), such as `/payload` or `/items/0/id`. `""` names the whole value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

impl JsonPointer {
    /// Parses a pointer.
    ///
    /// # Errors
    /// The text is neither empty nor starts with `/`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "{text:?} is not a JSON pointer: it starts with /, such as /payload"
            ));
        };
        let token = |token: &str| token.replace("~1", "/").replace("~0", "~");
        Ok(Self(rest.split('/').map(token).collect()))
    }
}

impl<'de> Deserialize<'de> for JsonPointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl JsonSchema for JsonPointer {
    fn schema_name() -> Cow<'static, str> {
        "JsonPointer".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "json-pointer" })
    }
}

/// Reads a text to its end, more strictly than the grammar of JSON.
fn read(text: &str) -> Result<(), Unreadable> {
    let mut reader = Reader::new(text);
    reader.skip()?;
    reader.end()
}

/// A JSON string without its quotes and escapes.
pub(crate) fn unescape(quoted: &str) -> Cow<'_, str> {
    let inner = &quoted[1..quoted.len() - 1];
    if !inner.contains('\\') {
        return inner.into();
    }
    // A lone surrogate is valid JSON but not valid text: the string stays as it is written.
    serde_json::from_str::<String>(quoted).map_or(inner.into(), Cow::Owned)
}

/// The type of a JSON text, with its article.
pub(crate) fn kind_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Cuts a text at a character boundary, and marks the cut.
pub(crate) fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let mut end = bytes_max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut most, mut at) = (0usize, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' => now -= 1,
            _ => {}
        }
        at += 1;
    }
    most
}

/// The index past the closing quote of the string that starts at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        at = plain_until(bytes, at);
        match bytes[at] {
            b'"' => return at + 1,
            _ => at += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, pointer: &str) -> Option<String> {
        let text = JsonText::check(text.as_bytes()).unwrap();
        let range = text.find(&JsonPointer::parse(pointer).unwrap())?;
        Some(text.at(range).to_owned())
    }

    #[test]
    fn a_pointer_finds_the_unchanged_text_of_a_value() {
        let text = r#" { "a" : { "b\"}" : [ 1.50, {"c":"x]"} , null ] }, "e~/f": 1e400, "":2 } "#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(find(text, "").as_deref(), Some(text.trim()));
        assert_eq!(find(text, "/a/b\"}/0"), some("1.50"));
        assert_eq!(find(text, "/a/b\"}/1/c"), some("\"x]\""));
        assert_eq!(find(text, "/a/b\"}/2"), some("null"));
        assert_eq!(find(text, "/e~0~1f"), some("1e400"));
        assert_eq!(find(text, "/"), some("2"));
        for missing in ["/b", "/a/b", "/a/b\"}/3", "/a/b\"}/01", "/a/b\"}/-", "//x"] {
            assert_eq!(find(text, missing), None, "{missing}");
        }
        assert_eq!(find("[]", "/0"), None);
        assert_eq!(find("{}", "/a"), None);
    }

    #[test]
    fn a_pointer_agrees_with_serde_json_on_real_payloads() {
        let lines = include_str!("../../examples/2-github-alerts/github-webhooks.jsonl");
        for line in lines.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            for pointer in [
                "/event",
                "/payload/repository/full_name",
                "/payload/commits/0",
            ] {
                let found = find(line, pointer).map(|text| serde_json::from_str(&text).unwrap());
                assert_eq!(found.as_ref(), value.pointer(pointer), "{pointer}");
            }
        }
    }

    #[test]
    fn compacting_removes_only_whitespace_between_tokens() {
        let text = "\n{ \"a b\" : [ 1.0 , \"x \\\" , \\n y\" ] ,\t\"z\":null }\r\n";
        let mut line = Vec::new();
        JsonText::check(text.as_bytes())
            .unwrap()
            .compact_into(&mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"a b":[1.0,"x \" , \n y"],"z":null}"#
        );
    }

    #[test]
    fn text_that_is_not_json_is_refused_with_a_reason() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let cases: [(&[u8], &str); 6] = [
            (b"", "it is empty, JSON was expected"),
            (b" \n", "it is empty, JSON was expected"),
            (b"nonsense", "not JSON: expected ident at line 1 column 2"),
            (b"{} {}", "not JSON: trailing characters at line 1 column 4"),
            (b"\"\xff\"", "not JSON: invalid utf-8 sequence"),
            (deep.as_bytes(), "deeper than 128"),
        ];
        for (bytes, expected) in cases {
            let error = JsonText::check(bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        // A raw line break inside a string would split the line.
        assert!(JsonText::check(b"\"a\nb\"").is_err());
    }

    #[test]
    fn json_that_no_service_could_read_is_refused_where_messages_come_in() {
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        for (text, reason) in [
            ("[1e400]", "number out of range"),
            ("\"\\ud83d\"", "unexpected end of hex escape"),
            (&deep, "recursion limit exceeded"),
            ("[1", "not JSON"),
        ] {
            let error = JsonText::check_readable(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for text in [
            "[1e300, \"\\ud83d\\ude00\"]",
            &deep[1..255],
            "18446744073709551617",
        ] {
            assert!(JsonText::check_readable(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_wrong_pointer_is_refused() {
        assert!(
            JsonPointer::parse("payload")
                .unwrap_err()
                .contains("/payload")
        );
    }
}
