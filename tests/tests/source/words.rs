//! Comments and texts name their subject.
//!
//! A sentence that begins with a pronoun for things or persons, or that leans on one, makes
//! the reader guess the noun. So no comment line and no text begins with such a word, and at
//! most two in a hundred contain one.

use std::fmt::Write as _;

use crate::files::{ROOMS, SourceFile, below};
use crate::lexer::{Kind, tokens};

/// Words that no comment line and no text begins with.
const FORBIDDEN_STARTS: [&[&str]; 9] = [
    &["what"],
    &["who"],
    &["whoever"],
    &["one", "that"],
    &["of", "those"],
    &["that", "of"],
    &["so", "many"],
    &["so", "much"],
    &["nor"],
];

/// Words that few comment lines and texts contain.
const RARE: [&str; 5] = ["what", "who", "whoever", "somebody", "nobody"];

/// Maximum lines and texts with a rare word, for a hundred comment lines.
const RARE_PERCENT_MAX: usize = 2;

/// Offenders that a failure prints.
const PRINTED_MAX: usize = 20;

/// Comment lines and texts of a room, held against the rule.
#[derive(Default)]
struct Findings {
    comment_lines: usize,
    wrong_starts: Vec<String>,
    rare_words: Vec<String>,
}

impl Findings {
    fn of(room: &str) -> Self {
        let mut findings = Self::default();
        for file in below(room) {
            if file.is_rust() {
                findings.read_rust(&file);
            } else {
                findings.read_hash_comments(&file);
            }
        }
        findings
    }

    fn read_rust(&mut self, file: &SourceFile) {
        for token in tokens(&file.text) {
            match token.kind {
                Kind::Comment => {
                    self.comment_lines += 1;
                    self.judge(&file.path, token.line, token.text);
                }
                // A single word is a name or a key, not a sentence.
                Kind::Text if token.text.trim().contains(' ') => {
                    self.judge(&file.path, token.line, token.text);
                }
                _ => {}
            }
        }
    }

    /// Reads the comments of shell scripts and TOML.
    fn read_hash_comments(&mut self, file: &SourceFile) {
        for (nth, line) in file.text.lines().enumerate() {
            if let Some(text) = line.trim().strip_prefix('#') {
                self.comment_lines += 1;
                self.judge(&file.path, nth + 1, text);
            }
        }
    }

    fn judge(&mut self, path: &str, line: usize, text: &str) {
        let words = words(text);
        let shown = || format!("{path}:{line}: {}", text.trim());
        if FORBIDDEN_STARTS
            .iter()
            .any(|start| starts_with(&words, start))
        {
            self.wrong_starts.push(shown());
        }
        if RARE
            .iter()
            .any(|rare| words.iter().any(|word| word == rare))
        {
            self.rare_words.push(shown());
        }
    }

    fn rare_words_max(&self) -> usize {
        self.comment_lines * RARE_PERCENT_MAX / 100
    }

    /// Describes the first offenders, or returns `None` if the rule is kept.
    fn problems(&self, room: &str) -> Option<String> {
        let mut report = String::new();
        if !self.wrong_starts.is_empty() {
            let count = self.wrong_starts.len();
            let _ = writeln!(report, "{room}: {count} begin with a forbidden word:");
            list(&mut report, &self.wrong_starts);
        }
        if self.rare_words.len() > self.rare_words_max() {
            let (count, max) = (self.rare_words.len(), self.rare_words_max());
            let _ = writeln!(report, "{room}: {count} (at most {max}) contain {RARE:?}:");
            list(&mut report, &self.rare_words);
        }
        (!report.is_empty()).then_some(report)
    }
}

fn list(report: &mut String, offenders: &[String]) {
    for offender in offenders.iter().take(PRINTED_MAX) {
        let _ = writeln!(report, "  {offender}");
    }
}

/// Returns the words of a text in lower case.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn starts_with(words: &[String], start: &[&str]) -> bool {
    words.len() >= start.len() && words.iter().zip(start).all(|(word, wanted)| word == wanted)
}

#[test]
fn comments_and_texts_name_their_subject() {
    let mut report = String::new();
    for room in ROOMS {
        let findings = Findings::of(room);
        println!(
            "{room}: {} comment lines, {} begin with a forbidden word, {} (at most {}) contain a rare one",
            findings.comment_lines,
            findings.wrong_starts.len(),
            findings.rare_words.len(),
            findings.rare_words_max(),
        );
        report.extend(findings.problems(room));
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn forbidden_starts_and_rare_words_are_found() {
    let mut findings = Findings::default();
    let file = SourceFile {
        path: "a.rs".to_owned(),
        text: "\n/// Whoever asks.\n// So manyfold.\nconst A: &str = \"nor here\";\n".to_owned(),
    };
    findings.read_rust(&file);
    assert_eq!(findings.comment_lines, 2);
    assert_eq!(
        findings.wrong_starts,
        ["a.rs:2: Whoever asks.", "a.rs:4: nor here"]
    );
    assert_eq!(findings.rare_words, ["a.rs:2: Whoever asks."]);
    assert_eq!(findings.rare_words_max(), 0);
}
