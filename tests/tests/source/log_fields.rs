//! No log line has a field named `message`.
//!
//! In `tracing` that is the name of the text of a line: a field beside the text is mistaken for
//! it by subscribers, and its value is often foreign, such as the id of a message.

use crate::files::below;
use crate::lexer::{Kind, Token, tokens};

const MACROS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "event"];

/// Tests of the log itself, which must cope with such a field.
const EXCEPTIONS: [&str; 1] = ["runtime/src/log/tests.rs"];

/// The lines of log macros that have a field named `message` beside a text.
fn offenders(source: &str) -> Vec<usize> {
    let tokens = tokens(source);
    let tokens: Vec<Token<'_>> = tokens
        .into_iter()
        .filter(|token| token.kind != Kind::Comment)
        .collect();
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_macro = MACROS.contains(&token.text) && is(at + 1, "!") && is(at + 2, "(");
        if !is_macro {
            continue;
        }
        let mut depth = 0;
        for (inner, token) in tokens.iter().enumerate().skip(at + 2) {
            match token.text {
                "(" if token.kind == Kind::Sign => depth += 1,
                ")" if token.kind == Kind::Sign => depth -= 1,
                "message" if token.kind == Kind::Word && depth == 1 => {
                    let begins = ["(", ",", "%", "?"].iter().any(|sign| is(inner - 1, sign));
                    if begins && (is(inner + 1, "=") || is(inner + 1, ",")) {
                        found.push(token.line);
                    }
                }
                // The text: its arguments are not fields.
                _ if token.kind == Kind::Text && depth == 1 && !is(inner - 1, "=") => break,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn no_log_line_has_a_field_named_message() {
    let mut problems = Vec::new();
    for room in ["runtime", "bridges", "actors", "examples"] {
        for file in below(room) {
            if file.is_rust() && !EXCEPTIONS.contains(&file.path.as_str()) {
                let lines = offenders(&file.text);
                problems.extend(lines.iter().map(|line| format!("{}:{line}", file.path)));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "a field named message takes the place of the line's text, name it id: {problems:?}"
    );
}

#[test]
fn fields_named_message_are_told_from_other_uses_of_the_word() {
    for wrong in [
        r#"info!(%queue, message = %message.id, "moved");"#,
        r#"tracing::warn!(%message, "moved");"#,
        r#"debug!(error = "x", ?message, "moved");"#,
        r#"error!(message, "moved");"#,
        r#"error!(name = f(a, b), message = 1, "moved");"#,
    ] {
        assert_eq!(offenders(wrong), [1], "{wrong}");
    }
    for right in [
        r#"info!(id = %message.id, "moved");"#,
        r#"info!("{} {}", message, other);"#,
        r#"info!(id = f(message, 1), "message = {x}");"#,
        r#"info_span!("handle", message = %message.id);"#,
        "// info!(message = 1, \"x\")",
    ] {
        assert_eq!(offenders(right), [0; 0], "{right}");
    }
}
