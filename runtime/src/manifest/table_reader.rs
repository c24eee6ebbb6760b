//! Typed access to a table of the manifest.
//!
//! A value that is absent or wrong is `None`. A wrong value is reported here, so the caller
//! continues with the default.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::spanned_toml::{Entry, Table, Value};
use super::suggest::{self, list, quote};
use crate::config::{HumanDuration, parse_duration, parse_size};

static EMPTY: Table = Table {
    entries: Vec::new(),
};

/// A table and its path.
pub(super) struct Section<'a> {
    /// Path of the table, with dots; empty for the root.
    path: String,
    pub(super) table: &'a Table,
    /// Place of the table, for reports.
    pub(super) place: Span,
}

impl<'a> Section<'a> {
    pub(super) fn top(table: &'a Table) -> Self {
        Self {
            path: String::new(),
            table,
            place: Span::top(0),
        }
    }

    /// Returns the full path of a key.
    pub(super) fn name(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// Reports keys that are not in `known`. Keys in `later` are reported as not supported yet.
    pub(super) fn check_keys(&self, known: &[&str], later: &[&str], out: &mut Problems) {
        for entry in &self.table.entries {
            let key = entry.key.as_str();
            if later.contains(&key) {
                self.unsupported(entry, out);
            } else if !known.contains(&key) {
                let message = format!("unknown key {}", quote(&self.name(key)));
                let names = known.iter().chain(later).copied();
                // The value may be a secret in the wrong place.
                out.hide(&entry.node);
                let help = suggest::help(key, names, "the keys here");
                out.add(codes::UNKNOWN_KEY, entry.key_span, message, help);
            }
        }
    }

    /// Returns the place of the value at a path of keys.
    pub(super) fn find(&self, keys: &[&str]) -> Option<Span> {
        let (mut table, mut place) = (Some(self.table), None);
        for key in keys {
            let entry = table?.get(key)?;
            place = Some(entry.place());
            table = match &entry.node.value {
                Value::Table(inner) => Some(inner),
                _ => None,
            };
        }
        place
    }

    /// Returns the place of the value at a path of keys, or of the last key that exists.
    pub(super) fn place_at(&self, keys: &[&str]) -> Span {
        let mut shorter = (1..=keys.len()).rev();
        let place = shorter.find_map(|count| self.find(&keys[..count]));
        place.unwrap_or(self.place)
    }

    pub(super) fn unsupported(&self, entry: &Entry, out: &mut Problems) {
        let message = format!(
            "`{}` is not supported yet by this version",
            self.name(&entry.key)
        );
        let help = Some("remove it".to_owned());
        out.add(codes::UNSUPPORTED, entry.key_span, message, help);
    }

    /// Returns an inner table, or an empty one if the key is absent.
    pub(super) fn section(&self, key: &str, out: &mut Problems) -> Section<'a> {
        let (table, place) = match self.table.get(key) {
            None => (&EMPTY, self.place),
            Some(entry) => match &entry.node.value {
                Value::Table(table) => (table, entry.place()),
                _ => {
                    self.wrong_type(entry, "a table", out);
                    (&EMPTY, entry.place())
                }
            },
        };
        Section {
            path: self.name(key),
            table,
            place,
        }
    }

    pub(super) fn wrong_type(&self, entry: &Entry, expected: &str, out: &mut Problems) {
        let got = entry.node.kind();
        self.wrong_value_type(&entry.key, entry.place(), got, expected, out);
    }

    pub(super) fn wrong_value_type(
        &self,
        key: &str,
        span: Span,
        got: &str,
        expected: &str,
        out: &mut Problems,
    ) {
        if got != "broken" {
            let message = format!("`{}` must be {expected}, not {got}", self.name(key));
            out.add(codes::WRONG_TYPE, span, message, None);
        }
    }

    pub(super) fn missing(&self, key: &str, help: &str, out: &mut Problems) {
        let message = format!("`{}` is missing", self.name(key));
        out.add(codes::MISSING_KEY, self.place, message, Some(help.into()));
    }

    pub(super) fn bad(&self, entry: &Entry, why: impl Display, out: &mut Problems) {
        let message = format!("`{}`: {why}", self.name(&entry.key));
        out.add(codes::BAD_VALUE, entry.place(), message, None);
    }

    /// Reads a string and returns it with its entry.
    pub(super) fn text(&self, key: &str, out: &mut Problems) -> Option<(&'a str, &'a Entry)> {
        self.text_of(key, "a string", out)
    }

    fn text_of(
        &self,
        key: &str,
        expected: &str,
        out: &mut Problems,
    ) -> Option<(&'a str, &'a Entry)> {
        let entry = self.table.get(key)?;
        match &entry.node.value {
            Value::String(text) => Some((text, entry)),
            _ => {
                self.wrong_type(entry, expected, out);
                None
            }
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self, key: &str, out: &mut Problems) -> Option<bool> {
        let entry = self.table.get(key)?;
        match entry.node.literal() {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(entry, "true or false", out);
                None
            }
        }
    }

    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        out: &mut Problems,
    ) -> Option<u64> {
        let entry = self.table.get(key)?;
        let Value::Integer(integer) = entry.node.literal() else {
            self.wrong_type(entry, "an integer", out);
            return None;
        };
        match u64::try_from(integer) {
            Ok(integer) if range.contains(&integer) => Some(integer),
            _ => {
                let (min, max) = range.into_inner();
                let why = match max {
                    u64::MAX => format!("must be {min} or more"),
                    _ => format!("must be from {min} to {max}"),
                };
                self.bad(entry, why, out);
                None
            }
        }
    }

    /// Reads a number from 0 to 1.
    pub(super) fn share(&self, key: &str, out: &mut Problems) -> Option<f64> {
        let entry = self.table.get(key)?;
        let number = match entry.node.literal() {
            Value::Float(float) => float,
            Value::Integer(integer) => integer as f64,
            _ => {
                self.wrong_type(entry, "a number from 0 to 1", out);
                return None;
            }
        };
        if (0.0..=1.0).contains(&number) {
            return Some(number);
        }
        self.bad(entry, "must be from 0 to 1", out);
        None
    }

    /// Reads a duration of at least `min`.
    pub(super) fn duration(
        &self,
        key: &str,
        min: Duration,
        out: &mut Problems,
    ) -> Option<Duration> {
        let (text, entry) = self.text_of(key, "a duration such as \"5s\"", out)?;
        match parse_duration(text) {
            Ok(duration) if duration >= min => return Some(duration),
            Ok(_) => self.bad(
                entry,
                format!("must be {} or longer", HumanDuration(min)),
                out,
            ),
            Err(why) => self.bad(entry, why, out),
        }
        None
    }

    /// Reads a size in bytes.
    pub(super) fn size(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        out: &mut Problems,
    ) -> Option<u64> {
        let (text, entry) = self.text_of(key, "a size such as \"1MiB\"", out)?;
        match parse_size(text) {
            Ok(size) if range.contains(&size) => return Some(size),
            Ok(_) => {
                let size = crate::config::ByteSize;
                let (min, max) = (size(*range.start()), size(*range.end()));
                self.bad(entry, format!("must be from {min} to {max}"), out);
            }
            Err(why) => self.bad(entry, why, out),
        }
        None
    }

    /// Reads one of `texts` and returns its index.
    pub(super) fn one_of(&self, key: &str, texts: &[&str], out: &mut Problems) -> Option<usize> {
        let (text, entry) = self.text(key, out)?;
        let found = texts.iter().position(|known| *known == text);
        if found.is_none() {
            let all = list(texts.iter().copied());
            let message = format!("`{}`: {} is not one of {all}", self.name(key), quote(text));
            let help = suggest::nearest(text, texts.iter().copied())
                .map(|near| format!("did you mean `{near}`?"));
            out.add(codes::BAD_VALUE, entry.node.span, message, help);
        }
        found
    }
}
