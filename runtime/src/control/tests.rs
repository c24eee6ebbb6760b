//! The control socket, used as the command line uses it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::client::Connection;
use super::{
    Answer, Control, ControlError, ControlTargets, REQUEST_BYTES_MAX, TIMEOUT, Verb, server,
    socket_path, stop,
};
use crate::dead_letters::DeadLetters;
use crate::message_trace::TraceCollector;
use crate::service_thread::StopSignal;
use crate::status::fixtures::{Fake, app};

const LONG: Duration = Duration::from_secs(20);

/// The targets of an app that does not run.
pub(crate) fn targets_of(app: &Fake, stop: impl Fn() + Send + Sync + 'static) -> ControlTargets {
    let view = app.view.clone();
    ControlTargets {
        state: Box::new(move || serde_json::to_value(view.snapshot())),
        letters: DeadLetters::new(app.transport.clone(), app.topology.clone()),
        tracer: TraceCollector::empty(),
        evict: Box::new(|_| Box::pin(async { Ok(false) })),
        stop: Box::new(stop),
    }
}

async fn targets(stop: impl Fn() + Send + Sync + 'static) -> ControlTargets {
    targets_of(&app().await, stop)
}

/// Sends a request with a short answer.
async fn request(data: &Path, verb: Verb) -> Result<Value, ControlError> {
    let mut connection = Connection::ask(data, verb).await?;
    match connection.next().await? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(ControlError::Refused(text)),
    }
}

/// A control socket in `data`, and how often it was asked to stop.
async fn start(data: &Path) -> (Control, Arc<AtomicUsize>) {
    let stops: Arc<AtomicUsize> = Arc::default();
    let counted = stops.clone();
    let targets = targets(move || {
        counted.fetch_add(1, SeqCst);
    });
    let control = Control::start(data, targets.await);
    (control.unwrap(), stops)
}

/// Sends raw bytes and returns the line of the answer.
fn raw(data: &Path, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(socket_path(data)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn state_returns_the_same_as_the_admin_endpoint_and_stops_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (_control, stops) = start(data.path()).await;
    let state = request(data.path(), Verb::State).await.unwrap();
    assert_eq!(state["services"][1]["service"], "stock");
    assert_eq!(stops.load(SeqCst), 0);
}

#[tokio::test]
async fn stop_asks_the_app_to_stop_and_returns_when_it_has() {
    let data = tempfile::tempdir().unwrap();
    let (asks, mut asked) = mpsc::unbounded_channel();
    let targets = targets(move || asks.send(()).unwrap()).await;
    let control = Control::start(data.path(), targets).unwrap();
    let has_stopped = stop(data.path(), Duration::from_millis(1)).await;
    assert!(!has_stopped.unwrap(), "it still runs");
    asked.recv().await.unwrap();
    let path = data.path().to_owned();
    let client = tokio::spawn(async move { stop(&path, LONG).await });
    asked.recv().await.unwrap();
    drop(control);
    assert!(client.await.unwrap().unwrap());
    assert!(!socket_path(data.path()).exists());
}

#[tokio::test]
async fn only_the_owner_may_open_it() {
    let data = tempfile::tempdir().unwrap();
    let (_control, _) = start(data.path()).await;
    let mode = std::fs::metadata(socket_path(data.path())).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced_and_one_in_use_is_not() {
    let data = tempfile::tempdir().unwrap();
    // A killed process leaves its socket and its lock file behind, but no lock.
    drop(UnixListener::bind(socket_path(data.path())).unwrap());
    std::fs::write(data.path().join("control.lock"), "1234567\n").unwrap();
    let left = request(data.path(), Verb::State).await.unwrap_err();
    assert!(
        left.to_string().contains("left by a process that is gone"),
        "{left}"
    );

    let (control, _) = start(data.path()).await;
    let refused = Control::start(data.path(), targets(|| {}).await)
        .unwrap_err()
        .to_string();
    let owner = format!("already running as process {} ", std::process::id());
    assert!(refused.contains(&owner), "{refused}");
    request(data.path(), Verb::State)
        .await
        .expect("the first one still answers");

    drop(control);
    let (_second, _) = start(data.path()).await;
}

#[tokio::test]
async fn without_an_app_the_client_names_the_data_folder() {
    let data = tempfile::tempdir().unwrap();
    let error = request(data.path(), Verb::Stop).await.unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&data.path().display().to_string()), "{text}");
}

#[tokio::test]
async fn a_request_in_a_wrong_form_is_answered_with_the_right_one() {
    let data = tempfile::tempdir().unwrap();
    let (_control, stops) = start(data.path()).await;
    let long = vec![b' '; REQUEST_BYTES_MAX as usize + 1];
    for (bytes, says) in [
        (
            &b"{\"verb\":\"explode\"}\n"[..],
            "expected one of `stop`, `state`, `dlq`",
        ),
        (b"stop\n", "{\"verb\":\"stop\"}"),
        (b"{\"verb\":\"stop\",\"now\":true}\n", "unknown field `now`"),
        (&long, "at most 65536 bytes"),
    ] {
        let answer = raw(data.path(), bytes);
        let text = answer["error"].as_str().unwrap();
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(stops.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_disconnected() {
    use tokio::io::AsyncReadExt;

    let data = tempfile::tempdir().unwrap();
    let path = socket_path(data.path());
    let listener = server::listen(&path).unwrap();
    let (_stop, stopping) = StopSignal::by_hand();
    tokio::spawn(server::serve(listener, targets(|| {}).await, stopping));
    let started = tokio::time::Instant::now();
    let mut silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(started.elapsed() >= TIMEOUT);
    assert!(started.elapsed() < 2 * TIMEOUT);
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_explained() {
    let data = tempfile::tempdir().unwrap();
    let long = data.path().join("x".repeat(120));
    let error = Control::start(&long, targets(|| {}).await);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("app.data a shorter path"), "{error}");
}
