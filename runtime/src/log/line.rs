//! Format of a log line: text for people, JSON for programs.
//!
//! A line stays one line: control characters and characters that change the direction of
//! text are escaped.

use std::fmt::Write as _;

use tracing::{Level, Metadata};

use super::fields::Value;
use crate::clock::Rfc3339;

/// A line under construction.
pub(super) struct Line<'a> {
    buffer: &'a mut String,
    json: bool,
    fields: usize,
}

impl<'a> Line<'a> {
    pub(super) fn start(
        buffer: &'a mut String,
        json: bool,
        unix_ms: u64,
        metadata: &Metadata<'_>,
        message: &str,
    ) -> Self {
        let (time, level) = (Rfc3339 { unix_ms }, name_of(*metadata.level()));
        if json {
            // Writing to a string can't fail.
            let _infallible = write!(
                buffer,
                "{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"target\":"
            );
            push_json(buffer, metadata.target());
            buffer.push_str(",\"message\":");
            push_json(buffer, message);
            buffer.push_str(",\"fields\":{");
        } else {
            let _infallible = write!(buffer, "{time} {level:<5} ");
            push_escaped(buffer, message, false);
        }
        Self {
            buffer,
            json,
            fields: 0,
        }
    }

    pub(super) fn field(&mut self, name: &str, value: Value<'_>) {
        let buffer = &mut *self.buffer;
        if self.json {
            if self.fields > 0 {
                buffer.push(',');
            }
            push_json(buffer, name);
            buffer.push(':');
            if value.literal {
                buffer.push_str(value.text);
            } else {
                push_json(buffer, value.text);
            }
        } else {
            buffer.push(' ');
            push_escaped(buffer, name, false);
            buffer.push('=');
            if is_plain(value.text) {
                buffer.push_str(value.text);
            } else {
                buffer.push('"');
                push_escaped(buffer, value.text, true);
                buffer.push('"');
            }
        }
        self.fields += 1;
    }

    pub(super) fn finish(self) {
        self.buffer.push_str(if self.json { "}}\n" } else { "\n" });
    }
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// Returns whether a value needs no quotes.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=' | '\\') && !is_hidden(c);
    !text.is_empty() && text.chars().all(plain)
}

pub(super) fn push_escaped(buffer: &mut String, text: &str, quoted: bool) {
    for character in text.chars() {
        match character {
            '"' | '\\' if quoted => {
                buffer.push('\\');
                buffer.push(character);
            }
            hidden if is_hidden(hidden) => buffer.extend(hidden.escape_default()),
            plain => buffer.push(plain),
        }
    }
}

/// Returns whether a character is a control character, a line separator, or a mark that
/// changes the direction of text.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_json(buffer: &mut String, text: &str) {
    buffer.push('"');
    for character in text.chars() {
        match character {
            '"' => buffer.push_str("\\\""),
            '\\' => buffer.push_str("\\\\"),
            '\n' => buffer.push_str("\\n"),
            '\t' => buffer.push_str("\\t"),
            hidden if is_hidden(hidden) => {
                // Each has four hexadecimal digits. Writing to a string can't fail.
                let _infallible = write!(buffer, "\\u{:04x}", u32::from(hidden));
            }
            plain => buffer.push(plain),
        }
    }
    buffer.push('"');
}
