//! The report: all problems of a manifest, for people and for programs.

use std::fmt;

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::redaction::Redactions;
use super::source::{SourceFile, Span};
use super::spanned_toml::{Node, Value};

/// All problems, or all warnings, of a manifest, in the order of its files and lines.
///
/// A report shows no secret, neither in its texts nor in the manifest lines it quotes.
#[derive(Serialize)]
pub struct Report {
    problems: Vec<Problem>,
    /// Number of further problems.
    #[serde(skip_serializing_if = "is_zero")]
    more: usize,
    #[serde(skip)]
    are_warnings: bool,
}

/// Maximum problems that a report describes. Each one costs a look through its file.
const DESCRIBED_MAX: usize = 200;

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// One problem.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// One of [`CODES`](super::CODES) or [`WARNINGS`](super::WARNINGS).
    pub code: &'static str,
    /// Path of the file, as given by the user.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Description of the problem.
    pub message: String,
    /// Advice on how to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The manifest line and the bytes to mark in it; `None` if the file is empty.
    #[serde(skip)]
    snippet: Option<Excerpt>,
}

#[derive(Debug, Clone)]
struct Excerpt {
    text: String,
    mark: std::ops::Range<usize>,
}

impl Excerpt {
    fn column(&self) -> usize {
        self.text[..self.mark.start].chars().count() + 1
    }
}

/// Collects problems; [`into_report`](Self::into_report) sorts them and hides secrets.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<Found>,
    hidden: Vec<Span>,
}

struct Found {
    code: &'static str,
    span: Span,
    message: String,
    help: Option<String>,
}

impl Problems {
    pub(super) fn add(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.found.push(Found {
            code,
            span,
            message: message.into(),
            help,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Hides the texts of a value: they may be secrets.
    pub(super) fn hide(&mut self, node: &Node) {
        match &node.value {
            Value::String(_) => self.hidden.push(node.span),
            Value::Array(items) => items.iter().for_each(|item| self.hide(item)),
            Value::Table(table) => {
                for entry in &table.entries {
                    self.hide(&entry.node);
                }
            }
            _ => {}
        }
    }

    /// Sorts the problems and hides secrets.
    pub(super) fn into_report(mut self, files: &[SourceFile], masks: &mut Redactions) -> Report {
        for span in self.hidden.drain(..) {
            masks.place(span);
        }
        self.found
            .sort_by(|a, b| (a.span, a.code, &a.message).cmp(&(b.span, b.code, &b.message)));
        let more = self.found.len().saturating_sub(DESCRIBED_MAX);
        self.found.truncate(DESCRIBED_MAX);
        let problems = self.found.into_iter().map(|found| {
            let file = &files[found.span.file];
            let (line, column) = file.position(found.span.start);
            Problem {
                code: found.code,
                file: file.name.clone(),
                line,
                column,
                message: masks.clean(&found.message),
                help: found.help.map(|help| masks.clean(&help)),
                snippet: excerpt(file, masks, found.span),
            }
        });
        Report {
            problems: problems.collect(),
            more,
            are_warnings: false,
        }
    }

    /// Sorts the warnings and hides secrets.
    pub(super) fn into_warnings(self, files: &[SourceFile], masks: &mut Redactions) -> Report {
        Report {
            are_warnings: true,
            ..self.into_report(files, masks)
        }
    }
}

/// Returns the line of a problem with its secrets hidden.
fn excerpt(file: &SourceFile, masks: &Redactions, span: Span) -> Option<Excerpt> {
    if file.text.trim().is_empty() {
        return None;
    }
    let shown = masks.apply(span.file, file, span);
    let text = shown.text;
    let mut start = shown.range.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[line_start..line_end].trim_end_matches('\r');
    // If the place spans several lines, only the first is marked.
    let mut end = shown
        .range
        .end
        .clamp(start, line_start + line.len().max(start - line_start));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Some(Excerpt {
        text: line.to_owned(),
        mark: start - line_start..end.max(start) - line_start,
    })
}

impl Report {
    /// Returns the problems, sorted by file and place; the first ones if there are very many.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Formats the report for people; `color` adds terminal colours.
    pub fn render(&self, color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let renderer = renderer.term_width(DEFAULT_TERM_WIDTH);
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&problem.render(&renderer, self.are_warnings));
            text.push_str("\n\n");
        }
        text.push_str(&self.count());
        let shown = self.problems.len();
        if self.more > 0 {
            text.push_str(&format!(", the first {shown} are shown"));
        }
        text.push('\n');
        text
    }

    /// Returns the number of problems, such as `2 problems`.
    pub(crate) fn count(&self) -> String {
        let count = self.problems.len() + self.more;
        let noun = if self.are_warnings {
            "warning"
        } else {
            "problem"
        };
        let s = if count == 1 { "" } else { "s" };
        format!("{count} {noun}{s}")
    }
}

impl Problem {
    fn render(&self, renderer: &Renderer, is_warning: bool) -> String {
        let level = match is_warning {
            true => Level::WARNING,
            false => Level::ERROR,
        };
        let mut group = level
            .primary_title(&*self.message)
            .id(self.code)
            .elements(std::iter::empty::<Origin<'_>>());
        group = match &self.snippet {
            Some(excerpt) => group.element(
                Snippet::source(&*excerpt.text)
                    .path(&*self.file)
                    .line_start(self.line)
                    .annotation(AnnotationKind::Primary.span(excerpt.mark.clone())),
            ),
            None => group.element(Origin::path(&*self.file)),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(&**help));
        }
        let text = renderer.render(&[group]);
        // Hidden secrets shift columns in the quoted line. The position is that of the file.
        let (file, line) = (&self.file, self.line);
        match &self.snippet {
            Some(excerpt) if excerpt.column() != self.column => text.replacen(
                &format!("{file}:{line}:{}", excerpt.column()),
                &format!("{file}:{line}:{}", self.column),
                1,
            ),
            _ => text,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_describes_the_first_of_very_many_problems_and_counts_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        std::fs::write(&path, "[app]\n").unwrap();
        for (found, last) in [
            (DESCRIBED_MAX, "200 problems"),
            (DESCRIBED_MAX + 7, "207 problems, the first 200 are shown"),
        ] {
            let mut problems = Problems::default();
            for number in 0..found {
                let message = format!("problem {number:03}");
                problems.add("E000", Span::top(0), message, None);
            }
            let report = problems.into_report(&[SourceFile::read(&path).0], &mut <_>::default());
            assert_eq!(report.problems().len(), DESCRIBED_MAX);
            assert_eq!(report.render(false).lines().last(), Some(last));
        }
    }
}
