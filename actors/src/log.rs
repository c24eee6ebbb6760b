//! `log`: writes messages to the log.

use std::fmt::Write;

use brickwork::Message;
use brickwork::prelude::*;
use serde::Deserialize;

use crate::expression::{Expression, Scope};
use crate::ports::current_message;

/// Maximum bytes of the logged text of a message.
const TEXT_BYTES_MAX: usize = 1024;

/// Logs each message: type, id, and the payload or the value of an expression.
#[derive(Debug)]
pub struct Log {
    level: Level,
    message: Option<Expression>,
}

/// Config of `log`.
#[config]
pub struct LogConfig {
    /// Level of the log lines.
    pub level: Level,
    /// An expression over `msg` and `meta` for the text; by default the payload.
    pub message: Option<Expression>,
}

/// A log level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Errors.
    Error,
    /// Warnings.
    Warn,
    /// Regular events.
    #[default]
    Info,
    /// Details for debugging.
    Debug,
    /// Every detail.
    Trace,
}

#[service(
    summary = "writes messages to the log",
    example = r#"[services.watch]
use = "log"
in = "alerts"
config.message = "'alert in ' + msg.repo"
"#,
    failures = ["dead-letters a message for which the expression can't be evaluated"]
)]
impl Log {
    fn start(config: &LogConfig) -> Result<Self> {
        Ok(Self {
            level: config.level,
            message: config.message.clone(),
        })
    }

    #[input("in")]
    fn write(&mut self, _: Raw, cx: &Context) -> Result {
        let (message, attempt) = current_message(cx);
        let text = text(self.message.as_ref(), message, attempt)?;
        let (kind, id) = (&*message.kind, &message.id);
        match self.level {
            Level::Error => tracing::error!(%kind, %id, "{text}"),
            Level::Warn => tracing::warn!(%kind, %id, "{text}"),
            Level::Info => tracing::info!(%kind, %id, "{text}"),
            Level::Debug => tracing::debug!(%kind, %id, "{text}"),
            Level::Trace => tracing::trace!(%kind, %id, "{text}"),
        }
        Ok(())
    }
}

/// The logged text of a message.
fn text(
    expression: Option<&Expression>,
    message: &Message,
    attempt: u32,
) -> Result<String, Failure> {
    let Some(expression) = expression else {
        return Ok(shown(&message.payload, TEXT_BYTES_MAX));
    };
    let json = expression.json(&mut Scope::new(message, attempt))?;
    // A text is shown without quotes.
    let text = serde_json::from_str::<String>(&json).unwrap_or(json);
    Ok(shown(text.as_bytes(), TEXT_BYTES_MAX))
}

/// Bytes as one line of text, cut to `bytes_max`. Control characters are escaped, so that
/// data from outside can't forge log lines or control a terminal.
pub(crate) fn shown(bytes: &[u8], bytes_max: usize) -> String {
    let cut = &bytes[..bytes.len().min(bytes_max)];
    let mut text = String::with_capacity(cut.len());
    let mut left = cut;
    let mut put = |part: &str| {
        for c in part.chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
    };
    for chunk in cut.utf8_chunks() {
        put(chunk.valid());
        left = &left[chunk.valid().len() + chunk.invalid().len()..];
        // An incomplete character at the cut is not the sender's mistake.
        if !chunk.invalid().is_empty() && (!left.is_empty() || cut.len() == bytes.len()) {
            put("\u{fffd}");
        }
    }
    if cut.len() < bytes.len() {
        let _never_fails = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;

    use super::*;

    fn shown(bytes: &[u8]) -> String {
        super::shown(bytes, TEXT_BYTES_MAX)
    }

    #[test]
    fn a_payload_cannot_forge_lines_or_steer_a_terminal() {
        assert_eq!(shown(b"a\nERROR \x1b[31m b"), "a\\nERROR \\u{1b}[31m b");
        assert_eq!(shown("ä€".as_bytes()), "ä€");
        assert_eq!(shown(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn a_long_payload_is_cut_at_a_character() {
        let text = shown("ä".repeat(1000).as_bytes());
        assert_eq!(text, format!("{}… (2000 bytes)", "ä".repeat(512)));
        let text = shown(format!("x{}", "ä".repeat(1000)).as_bytes());
        assert_eq!(text, format!("x{}… (2001 bytes)", "ä".repeat(511)));
    }

    #[test]
    fn an_expression_replaces_the_payload_in_the_log() {
        let message = Envelope::new("alert", r#"{"repo":"a/b","n":[1]}"#).into();
        let logged = |source| {
            let expression = Expression::compile(source).unwrap();
            text(Some(&expression), &message, 1).unwrap()
        };
        assert_eq!(logged("'in ' + msg.repo"), "in a/b");
        assert_eq!(logged("msg.n"), "[1]");
        assert_eq!(
            text(None, &message, 1).unwrap(),
            r#"{"repo":"a/b","n":[1]}"#
        );
    }
}
