//! The log: one line per event, on stderr, without secrets.
//!
//! One call writes one line, so that lines of threads don't mix, and no value can start
//! another line. Only the command line installs this log; a program with its own subscriber
//! keeps it.
//!
//! `tracing_subscriber::fmt` is not used: it formats span fields into one string per span, so
//! that a later value can't replace an earlier one, and secrets would have to be found in
//! escaped text.

mod fields;
mod line;

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::Arc;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry, Scope};

use self::fields::{Fields, Recorder};
use self::line::Line;
use crate::clock::Clock;
use crate::redact::Redactor;
use crate::stderr;

/// Largest line buffer that a thread keeps for its next line, in bytes.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// `app.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) level: tracing::Level,
    pub(crate) json: bool,
}

thread_local! {
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// Appends a text with control characters escaped.
pub(crate) fn push_visible(buffer: &mut String, text: &str) {
    line::push_escaped(buffer, text, false);
}

/// Returns a JSON text with control characters escaped, except for its line breaks. Other control
/// characters occur only within strings, where an escape has the same meaning.
pub(crate) fn visible_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if line::is_hidden(character) && character != '\n' {
            // Each has four hexadecimal digits. Writing to a string can't fail.
            let _infallible = write!(text, "\\u{:04x}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

/// Installs this log, on stderr, unless the process already has a subscriber.
pub(crate) fn init(settings: LogSettings, redactor: Arc<Redactor>) {
    let log = subscriber(settings, redactor, stderr::write);
    // An earlier subscriber stays.
    let _set_before = tracing::subscriber::set_global_default(log);
}

/// Returns the log as a subscriber. `write` gets one whole line per call.
pub(crate) fn subscriber(
    settings: LogSettings,
    redactor: Arc<Redactor>,
    write: impl Fn(&str) + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let lines = Lines {
        json: settings.json,
        redactor,
        write,
    };
    // lapin logs whole messages that a broker returned, and several lines per lost
    // connection. The bridges log these events themselves, once.
    let level = Targets::new()
        .with_default(settings.level)
        .with_target("lapin", LevelFilter::OFF);
    Registry::default().with(level).with(lines)
}

/// Formats events as lines.
struct Lines<W> {
    json: bool,
    redactor: Arc<Redactor>,
    write: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&str) + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut Recorder::of_span(&mut fields, &self.redactor));
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(&mut Recorder::of_span(fields, &self.redactor));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut Recorder::of_event(&mut own, &self.redactor));
        // A field may log while it is printed, so the buffer is taken, not borrowed.
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
        buffer.clear();
        let mut line = Line::start(
            &mut buffer,
            self.json,
            Clock::SYSTEM.unix_ms(),
            event.metadata(),
            own.message(),
        );
        let scope = context.event_scope(event);
        for span in scope.into_iter().flat_map(Scope::from_root) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                // A field of the event replaces the field of a span.
                for (name, value) in fields.iter().filter(|(name, _)| !own.has(name)) {
                    line.field(name, value);
                }
            }
        }
        for (name, value) in own.iter() {
            line.field(name, value);
        }
        line.finish();
        (self.write)(&buffer);
        if buffer.capacity() <= BUFFER_BYTES_KEPT {
            // A thread that is ending has no thread-locals left.
            let _ending = BUFFER.try_with(|kept| kept.set(buffer));
        }
    }
}

#[cfg(test)]
mod tests;
