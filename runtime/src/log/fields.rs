//! Fields of spans and events, kept until a line is written.
//!
//! Secrets are replaced here, before a value is kept, escaped or shortened.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};

use crate::failure::truncate;
use crate::redact::Redactor;

/// Maximum length of a value, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Name of the field that holds an event's message.
const MESSAGE: &str = "message";

/// Names and values. All values share one string.
#[derive(Debug, Default)]
pub(super) struct Fields {
    text: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    start: usize,
    end: usize,
    /// Whether JSON takes the text without quotes: a number or a boolean.
    literal: bool,
    /// Whether this is the message of an event, which is not printed as a field.
    message: bool,
}

/// A value, without secrets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) text: &'a str,
    /// Whether JSON takes the text without quotes: a number or a boolean.
    pub(super) literal: bool,
}

impl Fields {
    /// Returns the message of the event.
    pub(super) fn message(&self) -> &str {
        let entry = self.entries.iter().find(|entry| entry.message);
        entry.map_or("", |entry| &self.text[entry.start..entry.end])
    }

    /// Returns all fields but the message, in the order of recording.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        let entries = self.entries.iter().filter(|entry| !entry.message);
        entries.map(|entry| {
            let text = &self.text[entry.start..entry.end];
            let literal = entry.literal;
            (entry.name, Value { text, literal })
        })
    }

    /// Removes a value, so that a value recorded repeatedly takes no more memory.
    fn remove(&mut self, name: &str) {
        let is_field = |entry: &Entry| entry.name == name && !entry.message;
        let Some(place) = self.entries.iter().position(is_field) else {
            return;
        };
        let removed = self.entries.remove(place);
        self.text.replace_range(removed.start..removed.end, "");
        let bytes = removed.end - removed.start;
        for entry in &mut self.entries[place..] {
            entry.start -= bytes;
            entry.end -= bytes;
        }
    }

    fn has_message(&self) -> bool {
        self.entries.iter().any(|entry| entry.message)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.name == name && !entry.message)
    }
}

/// Records values into fields. A later value replaces an earlier one of the same name.
pub(super) struct Recorder<'a> {
    fields: &'a mut Fields,
    redactor: &'a Redactor,
    /// Whether the fields are those of an event, which has a message, or of a span.
    of_event: bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn of_event(fields: &'a mut Fields, redactor: &'a Redactor) -> Self {
        Self {
            fields,
            redactor,
            of_event: true,
        }
    }

    pub(super) fn of_span(fields: &'a mut Fields, redactor: &'a Redactor) -> Self {
        Self {
            fields,
            redactor,
            of_event: false,
        }
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>, literal: bool) {
        let name = field.name();
        // The text of an event comes first. A later field of the same name must not replace it:
        // its value may be foreign, such as the id of a message.
        let message = self.of_event && name == MESSAGE && !self.fields.has_message();
        if !message {
            self.fields.remove(name);
        }
        let Fields { text, entries } = &mut *self.fields;
        let start = text.len();
        if text.write_fmt(value).is_err() {
            text.push_str("(can't be printed)");
        }
        let mut literal = literal;
        if let Cow::Owned(clean) = self.redactor.clean(&text[start..]) {
            literal = false;
            text.truncate(start);
            text.push_str(&clean);
        }
        truncate(text, start + VALUE_BYTES_MAX);
        entries.push(Entry {
            name,
            start,
            end: text.len(),
            literal,
            message,
        });
    }
}

impl Visit for Recorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format_args!("{value}"), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, format_args!("{value}"), true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format_args!("{value}"), true);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        self.put(field, format_args!("{value}"), value.is_finite());
    }
}
