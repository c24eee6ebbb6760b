//! What happened so far, for a test whose expectation failed.

use std::fmt::Write;

use super::letters::Letter;
use super::ports::shown;
use super::recorder::Recorder;
use crate::app::App;
use crate::host::LastFailure;

/// All that may explain why something didn't happen; each line is there only if it says
/// something.
pub(super) fn render(app: &App, desk: &Recorder, letters: &[Letter]) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        writeln!(text, "  {line}").expect("writing to a string succeeds");
    };
    for topic in desk.topics() {
        let last = topic.last.as_ref().map(shown).unwrap_or_default();
        let messages = counted(topic.count, "message");
        line(format!("on `{}`: {messages}, the last {last}", topic.topic));
        if topic.questions > 0 {
            line(format!(
                "on `{}`: {} unanswered",
                topic.topic, topic.questions
            ));
        }
    }
    for row in app.summary().services {
        let counts = [
            (row.ok, "ok"),
            (row.retry, "to be tried again"),
            (row.panic, "panicked"),
            (row.timeout, "out of time"),
            (row.reject, "rejected"),
            (row.defer, "put off"),
            (row.expired, "expired"),
            (row.restarts, "restarts"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let attempts = counted(row.attempts, "attempt");
        let counts = match counts.is_empty() {
            true => String::new(),
            false => format!(" ({})", counts.join(", ")),
        };
        line(format!("{}: {attempts}{counts}", row.service));
        let failures = last_failures(app, &row.service).into_iter().map(|failure| {
            let attempt = failure.attempt.map(|n| format!(" at attempt {n}"));
            let attempt = attempt.unwrap_or_default();
            format!("{}{attempt}: {}", failure.what, failure.text)
        });
        for (failure, times) in in_a_row(failures) {
            let times = match times {
                1 => String::new(),
                times => format!(" ({times} times)"),
            };
            line(format!("  {failure}{times}"));
        }
    }
    for letter in letters {
        let why = &letter.why;
        let attempts = counted(why.attempts.into(), "attempt");
        line(format!(
            "{} gave up {} after {attempts} ({}: {})",
            why.service,
            shown(&letter.message),
            why.reason,
            why.error
        ));
    }
    for delivery in desk.unsettled() {
        line(format!("in hand: {delivery}"));
    }
    for reason in app.not_ready() {
        line(format!("not ready: {reason}"));
    }
    match text.is_empty() {
        true => String::new(),
        false => format!("; so far:\n{}", text.trim_end()),
    }
}

fn counted(count: u64, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The last failures of a service, the newest last.
fn last_failures(app: &App, service: &str) -> Vec<LastFailure> {
    let mut services = app.services.iter();
    let found = services.find(|it| *it.hosted().label == *service);
    found
        .map(|it| it.hosted().state.failures())
        .unwrap_or_default()
}

/// Lines, and how often each comes in a row.
fn in_a_row(lines: impl Iterator<Item = String>) -> Vec<(String, usize)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match counted.last_mut() {
            Some((last, times)) if *last == line => *times += 1,
            _ => counted.push((line, 1)),
        }
    }
    counted
}
