//! Hides secrets in manifest lines and error texts.
//!
//! Three rules apply, one after the other:
//!
//! 1. places that hold a secret according to the config schema;
//! 2. texts that are known secrets, wherever they occur;
//! 3. values that look like a secret by their key, and passwords in URLs.
//!
//! A file that can't be parsed has few known places, so the third rule covers it. In doubt a
//! value is hidden. A secret of less than four bytes is hidden only at its known place.

use std::collections::BTreeSet;
use std::ops::Range;

use super::source::{SourceFile, Span};
use super::suggest::nearest;
use crate::redact::REDACTED;

/// A key that contains one of these words holds a secret, in any table.
const SECRET_WORDS: [&str; 6] = [
    "secret",
    "passw",
    "token",
    "credential",
    "api-key",
    "api_key",
];
/// A shorter secret is hidden only at its known place.
const SECRET_BYTES_MIN: usize = 4;

/// Known places, texts and keys of secrets.
#[derive(Default)]
pub(super) struct Redactions {
    places: Vec<Span>,
    secrets: BTreeSet<String>,
    keys: BTreeSet<String>,
    /// A file can't be parsed, so secrets in it are found by their keys.
    pub(super) broken: bool,
}

impl Redactions {
    /// Adds the place of a secret.
    pub(super) fn place(&mut self, span: Span) {
        self.places.push(span);
    }

    /// Adds the text of a secret, to be hidden wherever it occurs.
    pub(super) fn secret(&mut self, text: &str) {
        if !text.is_empty() {
            self.secrets.insert(text.to_owned());
            // Error texts quote the escaped form.
            let quoted = text.escape_debug().to_string();
            self.secrets.insert(quoted);
        }
    }

    /// Adds a key whose values are secrets.
    pub(super) fn key(&mut self, key: &str) {
        self.keys.insert(key.to_owned());
    }

    /// Returns an error text without secrets of `SECRET_BYTES_MIN` or more.
    pub(super) fn clean(&self, text: &str) -> String {
        self.replace(text, SECRET_BYTES_MIN)
    }

    /// Returns an error text without secrets of any length.
    pub(super) fn clean_of_all(&self, text: &str) -> String {
        self.replace(text, 1)
    }

    fn replace(&self, text: &str, bytes_min: usize) -> String {
        let mut secrets: Vec<&String> = self
            .secrets
            .iter()
            .filter(|secret| secret.len() >= bytes_min)
            .collect();
        // The longest first, since a secret may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut text = secrets.iter().fold(text.to_owned(), |text, secret| {
            text.replace(secret.as_str(), REDACTED)
        });
        let mut found = Vec::new();
        passwords_in_urls(&text, &mut found);
        for range in merged(found).into_iter().rev() {
            text.replace_range(range, REDACTED);
        }
        text
    }

    /// Returns the text of a file without secrets, and the new range of a place in it.
    pub(super) fn apply(&self, index: usize, file: &SourceFile, span: Span) -> RedactedSource {
        let mut text = String::with_capacity(file.text.len());
        let (mut start, mut end) = (span.start, span.end);
        let mut copied = 0;
        for range in self.ranges(index, file) {
            text.push_str(&file.text[copied..range.start]);
            let new = text.len();
            text.push_str(REDACTED);
            let moved = text.len();
            // A place inside a hidden range becomes the whole replacement.
            if span.start >= range.end {
                start = moved + (span.start - range.end);
            } else if span.start >= range.start {
                start = new;
            }
            if span.end >= range.end {
                end = moved + (span.end - range.end);
            } else if span.end > range.start {
                end = moved;
            }
            copied = range.end;
        }
        text.push_str(&file.text[copied..]);
        RedactedSource {
            text,
            range: start..end.max(start),
        }
    }

    /// Returns the hidden ranges of a file, in order and without overlaps.
    fn ranges(&self, index: usize, file: &SourceFile) -> Vec<Range<usize>> {
        let text = &file.text;
        let mut found: Vec<Range<usize>> = Vec::new();
        for place in self.places.iter().filter(|place| place.file == index) {
            if text
                .get(place.start..place.end)
                .is_some_and(|raw| !is_reference(raw))
            {
                found.push(place.start..place.end);
            }
        }
        for secret in &self.secrets {
            if secret.len() >= SECRET_BYTES_MIN {
                let hits = text.match_indices(secret.as_str());
                found.extend(hits.map(|(at, hit)| at..at + hit.len()));
            }
        }
        self.by_key(text, &mut found);
        passwords_in_urls(text, &mut found);
        merged(found)
    }

    /// Finds values whose key names a secret.
    fn by_key(&self, text: &str, found: &mut Vec<Range<usize>>) {
        for (at, _) in text.match_indices('=') {
            let (before, after) = (&text[..at], &text[at + 1..]);
            // This `=` is a comparison in an expression.
            if after.starts_with('=') || before.ends_with(['=', '!', '<', '>']) {
                continue;
            }
            let before = before.trim_end_matches([' ', '\t']);
            let before = before.trim_end_matches(['"', '\'']);
            let key_start = before
                .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-')))
                .map_or(0, |other| {
                    other + before[other..].chars().next().map_or(1, char::len_utf8)
                });
            let key = &before[key_start..];
            if self.is_secret_key(key) || (self.broken && self.is_like_secret_key(key)) {
                let start = text.len() - after.trim_start_matches([' ', '\t']).len();
                // Other values of a file that was parsed have known places.
                if !self.broken && !text[start..].starts_with(['"', '\'']) {
                    continue;
                }
                let end = start + value_length(&text[start..]);
                if start < end && !is_reference(&text[start..end]) {
                    found.push(start..end);
                }
            }
        }
    }

    /// Returns whether a key names a secret.
    pub(super) fn is_secret_key(&self, key: &str) -> bool {
        let lower = key.to_ascii_lowercase();
        self.keys.contains(key) || SECRET_WORDS.iter().any(|word| lower.contains(word))
    }

    /// Returns whether a key is similar to one that names a secret.
    pub(super) fn is_like_secret_key(&self, key: &str) -> bool {
        !key.is_empty() && nearest(key, self.keys.iter().map(String::as_str)).is_some()
    }
}

/// Returns the ranges in order, with overlapping ones merged.
fn merged(mut found: Vec<Range<usize>>) -> Vec<Range<usize>> {
    found.sort_by_key(|range| (range.start, range.end));
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for range in found {
        match ranges.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => ranges.push(range),
        }
    }
    ranges
}

/// The text of a file without secrets, and the range of the requested place in it.
pub(super) struct RedactedSource {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// Estimates the length of a TOML value. A malformed value ends with its line.
fn value_length(text: &str) -> usize {
    let line = text.find(['\n', '\r']).unwrap_or(text.len());
    for quotes in ["\"\"\"", "'''"] {
        if let Some(rest) = text.strip_prefix(quotes) {
            return rest.find(quotes).map_or(text.len(), |at| at + 6);
        }
    }
    match text.chars().next() {
        Some('[') => text.find(']').map_or(text.len(), |at| at + 1).max(line),
        Some(quote @ ('"' | '\'')) => {
            let mut escaped = false;
            let close = text[1..line].char_indices().find(|(_, c)| {
                let closes = *c == quote && !escaped;
                escaped = quote == '"' && *c == '\\' && !escaped;
                closes
            });
            close.map_or(line, |(at, _)| at + 2)
        }
        _ => line,
    }
}

/// Returns whether a value, as written, only names a variable or a file. A name is no secret.
fn is_reference(raw: &str) -> bool {
    let inner = raw.trim().trim_matches(['"', '\'']);
    inner
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.contains([':', '$', '{', '}']) || is_file(name))
}

fn is_file(name: &str) -> bool {
    name.strip_prefix("file:")
        .is_some_and(|path| !path.contains(['$', '{', '}']))
}

fn passwords_in_urls(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let rest = &text[start..];
        let line = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
        if let Some(host) = line.rfind('@')
            && let Some(colon) = line[..host].find(':')
            && !is_reference(&line[colon + 1..host])
            && colon + 1 < host
        {
            found.push(start + colon + 1..start + host);
        }
    }
}

/// Returns the password of a URL, or of a text that may be a malformed URL.
pub(super) fn password_of_anything(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn shown(masks: &Redactions, text: &str) -> String {
        let file = SourceFile {
            name: String::new(),
            folder: PathBuf::new(),
            text: text.into(),
        };
        masks.apply(0, &file, Span::top(0)).text
    }

    #[test]
    fn a_value_that_looks_like_a_secret_is_hidden_even_in_a_malformed_file() {
        let mut masks = Redactions {
            broken: true,
            ..Redactions::default()
        };
        masks.key("pin");
        for (text, expected) in [
            ("pin = 1234\nx = 1", "pin = [redacted]\nx = 1"),
            ("pni = 1234", "pni = [redacted]"),
            ("c.pin=\"a\\\"b\", x = 1", "c.pin=[redacted], x = 1"),
            ("\"my-token\" = 'abc' # x", "\"my-token\" = [redacted] # x"),
            ("password = \"abc", "password = [redacted]"),
            (
                "password = \"\"\"\nabc\n\"\"\"\n",
                "password = [redacted]\n",
            ),
            ("tokens = [\n'a',\n'b'\n]\n", "tokens = [redacted]\n"),
            ("pin = \"${PIN}\"", "pin = \"${PIN}\""),
            ("pin = \"${PIN:-1234}\"", "pin = [redacted]"),
            ("pin = \"${file:pin.txt}\"", "pin = \"${file:pin.txt}\""),
            ("when = \"msg.token == 'a'\"", "when = \"msg.token == 'a'\""),
            ("u = 'amqp://u:p/w@h/v'", "u = 'amqp://u:[redacted]@h/v'"),
            ("u = 'amqp://u:${P}@h'", "u = 'amqp://u:${P}@h'"),
            ("u = 'amqp://u:${P:-x}@h'", "u = 'amqp://u:[redacted]@h'"),
        ] {
            assert_eq!(shown(&masks, text), expected);
        }
    }

    #[test]
    fn a_known_secret_is_hidden_wherever_it_occurs() {
        let mut masks = Redactions::default();
        masks.secret("hunter2");
        masks.secret("abc");
        assert_eq!(
            shown(&masks, "x = 1 # hunter2 abc"),
            "x = 1 # [redacted] abc"
        );
        assert_eq!(masks.clean("got hunter2, abc"), "got [redacted], abc");
        assert_eq!(
            masks.clean("no `amqp://u:pass@host`"),
            "no `amqp://u:[redacted]@host`"
        );
        assert_eq!(masks.clean_of_all("got abc"), "got [redacted]");
    }

    #[test]
    fn a_place_moves_with_the_hidden_text_before_it() {
        let mut masks = Redactions::default();
        masks.secret("hunter2-hunter2");
        let file = SourceFile {
            name: String::new(),
            folder: PathBuf::new(),
            text: "a = 'hunter2-hunter2', b = 1".into(),
        };
        let show = |start, end| {
            let shown = masks.apply(
                0,
                &file,
                Span {
                    file: 0,
                    start,
                    end,
                },
            );
            shown.text[shown.range].to_owned()
        };
        assert_eq!(show(27, 28), "1");
        assert_eq!(show(0, 1), "a");
        assert_eq!(show(4, 21), "'[redacted]'");
        assert_eq!(show(7, 9), "[redacted]");
    }
}
