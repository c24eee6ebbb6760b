//! The report: everything that is wrong with a manifest, for people and for programs.

use std::fmt;

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::mask::Masks;
use super::source::{SourceFile, Span};

/// Everything that is wrong with a manifest, in the order of its files and lines.
///
/// It holds no secret: neither its texts nor the lines that it shows.
#[derive(Serialize)]
pub struct Report {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Its code, one of [`CODES`](super::CODES).
    pub code: &'static str,
    /// The file in which it is, as it was named.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The lines around it and the bytes to mark there; none if nothing could be read.
    #[serde(skip)]
    snippet: Option<Excerpt>,
}

#[derive(Debug, Clone)]
struct Excerpt {
    text: String,
    line_start: usize,
    mark: std::ops::Range<usize>,
}

/// What is found, before it is sorted and cleaned.
#[derive(Default)]
pub(super) struct Problems(Vec<Found>);

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
        self.0.push(Found {
            code,
            span,
            message: message.into(),
            help,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sorts them and cuts secrets out.
    pub(super) fn into_report(mut self, files: &[SourceFile], masks: &Masks) -> Report {
        self.0
            .sort_by(|a, b| (a.span, a.code, &a.message).cmp(&(b.span, b.code, &b.message)));
        let problems = self.0.into_iter().map(|found| {
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
        }
    }
}

/// The line of a problem, as it may be shown.
fn excerpt(file: &SourceFile, masks: &Masks, span: Span) -> Option<Excerpt> {
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
    // Of what goes over several lines the first is marked.
    let mut end = shown
        .range
        .end
        .clamp(start, line_start + line.len().max(start - line_start));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // The place may come after what is hidden over several lines: count as written.
    Some(Excerpt {
        text: line.to_owned(),
        line_start: file.position(span.start).0,
        mark: start - line_start..end.max(start) - line_start,
    })
}

impl Report {
    /// Every problem, sorted by file and place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The report as text for people; `color` is for terminals.
    pub fn render(&self, color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let renderer = renderer.term_width(DEFAULT_TERM_WIDTH);
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&problem.render(&renderer));
            text.push_str("\n\n");
        }
        text.push_str(&match self.problems.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        });
        text.push('\n');
        text
    }
}

impl Problem {
    fn render(&self, renderer: &Renderer) -> String {
        let mut group = Level::ERROR
            .primary_title(&*self.message)
            .id(self.code)
            .elements(std::iter::empty::<Origin<'_>>());
        group = match &self.snippet {
            Some(excerpt) => group.element(
                Snippet::source(&*excerpt.text)
                    .path(&*self.file)
                    .line_start(excerpt.line_start)
                    .annotation(AnnotationKind::Primary.span(excerpt.mark.clone())),
            ),
            None => group.element(Origin::path(&*self.file)),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(&**help));
        }
        renderer.render(&[group])
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
