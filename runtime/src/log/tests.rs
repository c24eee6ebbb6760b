//! Tests of the log.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{Level, debug, error, info, info_span, warn};

use super::fields::VALUE_BYTES_MAX;
use super::subscriber;
use crate::log::LogSettings;
use crate::redact::{REDACTED, Redactor};

const SECRET: &str = "hunter2 \"and\" more";

/// Returns the lines written while `work` runs.
fn logged(json: bool, work: impl FnOnce()) -> Vec<String> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let written = lines.clone();
    let settings = LogSettings {
        level: Level::INFO,
        json,
    };
    let redactor = Arc::new(Redactor::new([SECRET.to_owned()]));
    let log = subscriber(settings, redactor, move |line: &str| {
        written.lock().push(line.to_owned());
    });
    tracing::subscriber::with_default(log, work);
    Arc::into_inner(lines)
        .expect("the subscriber is gone")
        .into_inner()
}

/// Returns the only line written, without its time.
fn line(work: impl FnOnce()) -> String {
    let lines = logged(false, work);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"));
    rest.to_owned()
}

fn object(work: impl FnOnce()) -> Value {
    let lines = logged(true, work);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].matches('\n').count(), 1);
    serde_json::from_str(&lines[0]).unwrap()
}

#[test]
fn a_line_has_the_message_then_fields_of_spans_then_fields_of_the_event() {
    let text = line(|| {
        let _outer = info_span!("handle", service = "keep", message = "m-1").entered();
        let _inner = info_span!("step", number = 2).entered();
        warn!(attempt = 5, error = "disk full", "dead-lettered");
    });
    assert_eq!(
        text,
        "WARN  dead-lettered service=keep message=m-1 number=2 attempt=5 error=\"disk full\"\n"
    );
}

#[test]
fn json_has_one_object_per_line_with_the_fields_of_spans_and_event() {
    let object = object(|| {
        let _span = info_span!("handle", service = "keep", message = "m-1").entered();
        error!(
            ratio = 0.5,
            bad = f64::NAN,
            many = 7,
            ok = true,
            "it's \"off\"\n"
        );
    });
    assert_eq!(object["level"], "ERROR");
    assert_eq!(object["target"], module_path!());
    assert_eq!(object["message"], "it's \"off\"\n");
    assert_eq!(
        object["fields"],
        json!({ "service": "keep", "message": "m-1", "ratio": 0.5, "bad": "NaN", "many": 7, "ok": true })
    );
}

#[test]
fn a_field_of_the_event_replaces_that_of_a_span_and_the_last_record_wins() {
    let work = || {
        let span = info_span!("handle", result = 100, service = "outer", message = "m-1");
        span.record("result", 2);
        let _entered = span.entered();
        info!(service = "own", "done");
    };
    assert_eq!(line(work), "INFO  done message=m-1 result=2 service=own\n");
    assert_eq!(
        object(work)["fields"],
        json!({ "message": "m-1", "result": 2, "service": "own" })
    );
}

#[test]
fn a_field_named_message_stands_beside_the_text_of_its_line() {
    let work = || info!(message = "the disk is full", attempt = 2, "message arrived");
    assert_eq!(
        line(work),
        "INFO  message arrived message=\"the disk is full\" attempt=2\n"
    );
    let logged = object(work);
    assert_eq!(logged["message"], "message arrived");
    assert_eq!(logged["fields"]["message"], "the disk is full");
    assert_eq!(line(|| info!(message = "alone")), "INFO  alone\n");
}

#[test]
fn a_value_can_t_forge_a_line_or_hide_text() {
    let forged = "x\n2026-11-22T23:32:03.123Z ERROR all is lost\r\u{1b}[2K\u{202e}\u{2028}";
    let text = line(|| info!(error = forged, "{forged}"));
    assert_eq!(text.matches('\n').count(), 1);
    assert!(
        !text.contains(['\r', '\u{1b}', '\u{202e}', '\u{2028}']),
        "{text:?}"
    );
    let object = object(|| info!(error = forged, "{forged}"));
    assert_eq!(object["message"], forged);
    assert_eq!(object["fields"]["error"], forged);
    let raw = logged(true, || info!(error = forged, "x")).concat();
    assert!(
        !raw.contains(['\r', '\u{1b}', '\u{202e}', '\u{2028}']),
        "{raw:?}"
    );
}

#[test]
fn no_secret_is_logged_in_any_form_by_events_or_spans() {
    let in_json = json!({ "token": SECRET }).to_string();
    for as_json in [false, true] {
        let lines = logged(as_json, || {
            let span = info_span!("handle", header = SECRET, body = in_json, later = "");
            span.record("later", SECRET);
            let _entered = span.entered();
            warn!(debug = ?Some(SECRET), nested = ?in_json, "sent {SECRET} as {in_json}");
        });
        let text = lines.concat();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(text.matches(REDACTED).count(), 7, "{text}");
    }
}

#[test]
fn an_event_below_the_level_is_not_written() {
    let lines = logged(false, || {
        debug!("quiet");
        info!("loud");
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with("INFO  loud\n"));
}

#[test]
fn a_value_above_the_maximum_is_cut() {
    let text = line(|| info!(value = "ä".repeat(VALUE_BYTES_MAX), "x"));
    assert!(text.len() < VALUE_BYTES_MAX + 100);
}

/// A value whose `Debug` implementation logs.
struct Talkative;

impl std::fmt::Debug for Talkative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        info!("from inside");
        f.write_str("talkative")
    }
}

#[test]
fn a_value_that_logs_while_it_is_printed_does_not_break_the_line() {
    let lines = logged(false, || info!(value = ?Talkative, "outside"));
    // tracing drops events inside events. The test is about whole lines.
    assert!(lines.last().unwrap().ends_with("outside value=talkative\n"));
    assert!(lines.iter().all(|line| line.matches('\n').count() == 1));
}

#[test]
fn json_for_a_terminal_has_no_raw_control_or_bidi_character_and_the_same_value() {
    let value = json!({"a\u{202e}b": "\u{9b}31m\u{7f}\u{2066}\n\u{1b}[0m ü"});
    let text = super::visible_json(&serde_json::to_string_pretty(&value).unwrap());
    assert!(
        !text
            .chars()
            .any(|it| super::line::is_hidden(it) && it != '\n'),
        "{text:?}"
    );
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    assert!(text.contains('ü'), "{text}");
}
