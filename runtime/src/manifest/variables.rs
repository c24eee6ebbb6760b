//! Fills in `${NAME}`, `${NAME:-default}` and `${file:PATH}` in strings; `$${` is a plain `${`.
//!
//! A default may contain variables, which are looked up only if it is needed. The value of a
//! variable is literal text.

use std::path::{Path, PathBuf};

use super::codes;
use super::report::Problems;
use super::source::{SourceFile, Span, read_text};
use super::spanned_toml::{Node, Value};
use super::suggest::quote;

/// Returns the value of a variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in every string of a tree. Reports a string that can't be filled in and marks it
/// as broken. Appends the paths of `${file:PATH}` to `named`.
pub(super) fn fill(
    node: &mut Node,
    env: Lookup<'_>,
    files: &[SourceFile],
    named: &mut Vec<PathBuf>,
    out: &mut Problems,
) {
    match &mut node.value {
        Value::String(text) if text.contains("${") => {
            node.is_variable = is_one_variable(text);
            match fill_text(text, env, &files[node.span.file], named) {
                Ok(filled) => *text = filled,
                Err(errors) => {
                    for error in errors {
                        let span = place_of(&error.source, node.span, files);
                        out.add(codes::VARIABLE, span, error.message, error.help);
                    }
                    node.value = Value::Broken;
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                fill(item, env, files, named, out);
            }
        }
        Value::Table(table) => {
            for entry in &mut table.entries {
                fill(&mut entry.node, env, files, named, out);
            }
        }
        _ => {}
    }
}

/// Fills in a text again, with the present content of the files that it names. They are relative
/// to `folder`.
///
/// # Errors
/// The problems, without the values of variables.
pub(super) fn fill_again(text: &str, env: Lookup<'_>, folder: &Path) -> Result<String, String> {
    let file = SourceFile {
        name: String::new(),
        folder: folder.to_owned(),
        text: String::new(),
    };
    fill_text(text, env, &file, &mut Vec::new()).map_err(|errors| {
        let texts: Vec<_> = errors.into_iter().map(|error| error.message).collect();
        texts.join("; ")
    })
}

struct Error {
    /// The variable as written in the manifest, to find its place.
    source: String,
    message: String,
    help: Option<String>,
}

/// Returns the place of a variable inside its string.
fn place_of(variable: &str, span: Span, files: &[SourceFile]) -> Span {
    match files[span.file].slice(span).find(variable) {
        Some(at) => Span {
            start: span.start + at,
            end: span.start + at + variable.len(),
            ..span
        },
        None => span,
    }
}

fn fill_text(
    text: &str,
    env: Lookup<'_>,
    file: &SourceFile,
    named: &mut Vec<PathBuf>,
) -> Result<String, Vec<Error>> {
    let mut filled = String::with_capacity(text.len());
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at - 1]);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let Some(end) = closing(&rest[at..]) else {
            errors.push(Error {
                source: "${".into(),
                message: "`${` has no closing `}`".into(),
                help: Some("write `$${` for a plain `${`".into()),
            });
            return Err(errors);
        };
        match value_of(&rest[at..=at + end], env, file, named) {
            Ok(value) => filled.push_str(&value),
            Err(mut inner) => errors.append(&mut inner),
        }
        rest = &rest[at + end + 1..];
    }
    filled.push_str(rest);
    if errors.is_empty() {
        Ok(filled)
    } else {
        Err(errors)
    }
}

/// Returns the index of the bracket that closes the variable at the start of a text.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    loop {
        at += text[at..].find(['$', '}'])?;
        if text[at..].starts_with("$${") {
            at += 3;
        } else if text[at..].starts_with("${") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with('}') {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
            at += 1;
        } else {
            at += 1;
        }
    }
}

/// Returns whether a text is a variable and nothing else.
fn is_one_variable(text: &str) -> bool {
    text.starts_with("${") && closing(text) == Some(text.len() - 1)
}

/// Returns the value of a variable, written `${…}`.
fn value_of(
    variable: &str,
    env: Lookup<'_>,
    file: &SourceFile,
    named: &mut Vec<PathBuf>,
) -> Result<String, Vec<Error>> {
    let inside = &variable[2..variable.len() - 1];
    let error = |message: String, help: &str| {
        vec![Error {
            source: variable.to_owned(),
            message,
            help: Some(help.to_owned()),
        }]
    };
    if let Some(path) = inside.strip_prefix("file:") {
        let joined = file.folder.join(path);
        named.push(joined.clone());
        let mut text = read_text(&joined).map_err(|why| {
            let help = "the path is relative to the folder of the manifest file that names it";
            error(format!("can't read the file {}: {why}", quote(path)), help)
        })?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        return Ok(text);
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let mut characters = name.chars();
    let starts = characters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts || !characters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let message = format!("{} is not a variable name", quote(name));
        let help =
            "write `${NAME}`, `${NAME:-default}` or `${file:PATH}`, and `$${` for a plain `${`";
        return Err(error(message, help));
    }
    match (env(name), default) {
        (Some(value), _) if !value.is_empty() || default.is_none() => Ok(value),
        (_, Some(default)) => fill_text(default, env, file, named),
        _ => Err(error(
            format!("the variable `{name}` is not set"),
            &format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn filled(text: &str) -> Result<String, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "from a file\n\n").unwrap();
        let file = SourceFile {
            name: "app.toml".into(),
            folder: PathBuf::from(folder.path()),
            text: String::new(),
        };
        let env = |name: &str| match name {
            "HOST" => Some("broker".to_owned()),
            "TRICKY" => Some("${HOST}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        fill_text(text, &env, &file, &mut Vec::new())
            .map_err(|errors| errors.into_iter().map(|error| error.message).collect())
    }

    #[test]
    fn variables_defaults_and_files_are_filled_in() {
        for (text, expected) in [
            ("amqp://${HOST}/v", "amqp://broker/v"),
            ("${HOST}${HOST}", "brokerbroker"),
            ("${PORT:-5672}", "5672"),
            ("${PORT:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${HOST:-x}", "broker"),
            ("${file:key}", "from a file\n"),
            ("$${HOST} costs $5", "${HOST} costs $5"),
            ("${TRICKY}", "${HOST}"),
            ("${A:-${HOST}}", "broker"),
            ("${A:-x${B:-${HOST}}y}z", "xbrokeryz"),
            ("${HOST:-${B}}", "broker"),
            ("${A:-${TRICKY}}", "${HOST}"),
            ("${A:-{}}", "{}"),
            ("${A:-$${B}}", "${B}"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_missing_or_malformed_variable_is_an_error() {
        assert_eq!(
            filled("${A} ${HOST} ${B}").unwrap_err(),
            ["the variable `A` is not set", "the variable `B` is not set"]
        );
        assert_eq!(
            filled("${A:-${B}}").unwrap_err(),
            ["the variable `B` is not set"]
        );
        for wrong in [
            "${",
            "${HOST",
            "${}",
            "${a b}",
            "${1}",
            "${file:none}",
            "${file:}",
            "${A:-${HOST}",
            "${A:-${}}",
        ] {
            assert!(filled(wrong).is_err(), "{wrong}");
        }
    }
}
