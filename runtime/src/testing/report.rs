//! The events so far, for the panic of a failed expectation.

use std::fmt::Write;

use super::letters::Letter;
use super::ports::shown;
use super::recorder::Recorder;
use crate::app::App;
use crate::host::LastFailure;

/// Renders everything that may explain a missing event. Empty figures are left out.
pub(super) fn render(app: &App, recorder: &Recorder, letters: &[Letter]) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        writeln!(text, "  {line}").expect("writing to a string succeeds");
    };
    for topic in recorder.topics() {
        let last = topic.last.as_ref().map(shown).unwrap_or_default();
        let messages = counted(topic.count, "message");
        line(format!("on `{}`: {messages}, the last {last}", topic.topic));
        if topic.requests > 0 {
            line(format!(
                "on `{}`: {} requests without a reply",
                topic.topic, topic.requests
            ));
        }
    }
    for row in app.summary().services {
        let counts = [
            (row.ok, "ok"),
            (row.retry, "to be retried"),
            (row.panic, "panicked"),
            (row.timeout, "timed out"),
            (row.reject, "rejected"),
            (row.defer, "deferred"),
            (row.expired, "expired"),
            (row.restarts, "restarts"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, label)| format!("{count} {label}"))
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
        let dead_letter = &letter.dead_letter;
        let attempts = counted(dead_letter.attempts.into(), "attempt");
        line(format!(
            "{} dead-lettered {} after {attempts} ({}: {})",
            dead_letter.service,
            shown(&letter.message),
            dead_letter.reason,
            dead_letter.error
        ));
    }
    for delivery in recorder.unsettled() {
        line(format!("in flight: {delivery}"));
    }
    for reason in app.not_ready() {
        line(format!("not ready: {reason}"));
    }
    match text.is_empty() {
        true => String::new(),
        false => format!("; so far:\n{}", text.trim_end()),
    }
}

fn counted(count: u64, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// The last failures of a service, newest last.
fn last_failures(app: &App, service: &str) -> Vec<LastFailure> {
    let mut services = app.services.iter();
    let found = services.find(|it| *it.hosted.label == *service);
    found
        .map(|it| it.hosted.state.failures())
        .unwrap_or_default()
}

/// Collapses equal lines in a row, each with its count.
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
