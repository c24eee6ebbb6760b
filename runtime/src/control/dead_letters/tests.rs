//! Client and app in one process, on a paused clock.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::super::tests::targets_of;
use super::super::{TIMEOUT, is_running, server, socket_path};
use super::*;
use crate::dead_letter::{DeadLetter, Reason};
use crate::dead_letters::{
    Bounds, Destination, DlqAction, Outcome, RateLimit, RemoveOptions, Selection,
};
use crate::message::Envelope;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::service_thread::StopSignal;
use crate::status::fixtures::{Fake, SECRET, app};
use crate::transport::{Completion, Outgoing};

/// An app that does not run, with letters, and its control socket.
struct Shop {
    app: Fake,
    data: TempDir,
    _stop: watch::Sender<bool>,
}

impl Shop {
    async fn with(letters: usize) -> Self {
        let app = app().await;
        let batch = (0..letters).map(|number| Outgoing {
            queue: Some(QueueId::dead_letters("stock")),
            ..letter(number).into()
        });
        let (done, outcome) = Completion::channel();
        app.transport.publish(batch.collect(), done);
        outcome.await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let listener = server::listen(&socket_path(data.path())).unwrap();
        let (stop, stopping) = StopSignal::by_hand();
        let redactor = Arc::new(Redactor::new([SECRET.to_owned()]));
        let mut targets = targets_of(&app, || {});
        targets.letters = targets.letters.redacting(redactor);
        tokio::spawn(server::serve(listener, targets, stopping));
        Self {
            app,
            data,
            _stop: stop,
        }
    }

    fn data(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    async fn perform(&self, request: DlqRequest) -> DlqReport {
        perform(&self.data(), &request, pending()).await.unwrap()
    }

    async fn ready(&self, queue: QueueId) -> u64 {
        self.app.transport.depth(&queue).await.unwrap().ready
    }

    async fn letters(&self) -> u64 {
        self.ready(QueueId::dead_letters("stock")).await
    }

    async fn replayed(&self) -> u64 {
        self.ready(QueueId::new("stock", "requests")).await
    }
}

fn letter(number: usize) -> crate::Message {
    let payload = format!(r#"{{"n":{number},"key":"{SECRET}"}}"#);
    let mut envelope = Envelope::new("order", payload);
    envelope.id = format!("order-{number}").parse().unwrap();
    envelope.topic = "orders".into();
    let record = DeadLetter {
        reason: Reason::Error,
        error: format!("order {number}: no stock"),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_390_323_123,
    };
    record.letter(&envelope.into())
}

/// Replays ten letters per second.
fn replay_slowly(selection: Selection, to: Destination) -> DlqRequest {
    let options = RemoveOptions {
        selection,
        limit: u64::MAX,
        dry_run: false,
        rate: RateLimit::per_second(10.0).unwrap(),
        bounds: Bounds::default(),
    };
    DlqRequest::new("stock", DlqAction::Replay { to, options })
}

fn replay_all() -> DlqRequest {
    replay_slowly(Selection::All, Destination::Original)
}

fn find(limit: usize) -> DlqRequest {
    let find = DlqAction::Find {
        selection: Selection::All,
        limit,
        payload_bytes_max: usize::MAX,
        bounds: Bounds::default(),
    };
    DlqRequest::new("stock", find)
}

fn outcome(report: DlqReport) -> Outcome {
    match report {
        DlqReport::Removed(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_socket_has_the_same_result_as_in_the_app() {
    let shop = Shop::with(300).await;
    let local = DeadLetters::new(shop.app.transport.clone(), shop.app.topology.clone());
    let bounds = Bounds::default();
    let stats = DlqRequest::new("stock", DlqAction::Stats(bounds));
    let DlqReport::Stats(stats) = shop.perform(stats).await else {
        panic!()
    };
    assert_eq!(stats, local.stats("stock", bounds).await.unwrap());
    let groups = DlqRequest::new("stock", DlqAction::Groups(bounds));
    let DlqReport::Groups(groups) = shop.perform(groups).await else {
        panic!()
    };
    assert_eq!(groups, local.groups("stock", bounds).await.unwrap());
    let DlqReport::Found(found) = shop.perform(find(250)).await else {
        panic!()
    };
    assert_eq!((found.letters.len(), found.more), (250, true));
    let last = &found.letters[249];
    assert_eq!(last.id, "order-249");
    assert_eq!(last.payload.get(), r#"{"n":249,"key":"[redacted]"}"#);
    assert_eq!(shop.letters().await, 300);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_take_longer_than_the_time_for_one_line() {
    let shop = Shop::with(300).await;
    let started = Instant::now();
    let report = shop.perform(replay_all()).await;
    assert!(started.elapsed() > 5 * TIMEOUT);
    assert_eq!(outcome(report).removed, 300);
    assert_eq!((shop.letters().await, shop.replayed().await), (0, 300));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_gets_the_result_so_far() {
    let shop = Shop::with(300).await;
    let stop = sleep(Duration::from_millis(8050));
    let report = perform(&shop.data(), &replay_all(), stop).await;
    let outcome = outcome(report.unwrap());
    assert!(outcome.stopped);
    assert!((75..=85).contains(&outcome.removed), "{}", outcome.removed);
    assert_eq!(shop.replayed().await, outcome.removed);
    assert_eq!(shop.letters().await, 300 - outcome.removed);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_stops_its_request_and_no_letter_is_lost() {
    let shop = Shop::with(300).await;
    let data = shop.data();
    let client = tokio::spawn(async move { perform(&data, &replay_all(), pending()).await });
    while shop.replayed().await < 20 {
        sleep(Duration::from_millis(10)).await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    // The letters that it held are requeued at its end.
    while shop.letters().await + shop.replayed().await < 300 {
        sleep(Duration::from_millis(10)).await;
    }
    let replayed = shop.replayed().await;
    assert!((20..30).contains(&replayed), "{replayed}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(shop.replayed().await, replayed);
    let report = shop.perform(replay_all()).await;
    assert_eq!(outcome(report).removed, 300 - replayed);
}

#[tokio::test(start_paused = true)]
async fn a_limited_number_of_clients_work_at_a_time_and_others_are_refused() {
    let shop = Shop::with(1000).await;
    // Enough letters for all clients: each fetches some ahead.
    let mut busy = Vec::new();
    let (end, ended) = watch::channel(false);
    for _ in 0..4 {
        let (data, mut ended) = (shop.data(), ended.clone());
        let (start, started) = oneshot::channel();
        busy.push(tokio::spawn(async move {
            let start = &mut Some(start);
            let stop = async {
                // First polled when the request has been sent.
                let _sent = start.take().map(|start| start.send(()));
                let _ended = ended.wait_for(|ended| *ended).await;
            };
            perform(&data, &replay_all(), stop).await
        }));
        started.await.unwrap();
    }
    // The app has read all of them when it answers the next one.
    let refused = perform(&shop.data(), &find(1), pending()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("several other clients"), "{text}");
    assert!(is_running(&shop.data()).await.unwrap());
    end.send(true).unwrap();
    let mut removed = 0;
    for client in busy {
        removed += outcome(client.await.unwrap().unwrap()).removed;
    }
    assert_eq!(shop.replayed().await, removed);
    assert_eq!(shop.letters().await, 1000 - removed);
    shop.perform(find(1)).await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_reported_by_kind() {
    let shop = Shop::with(1).await;
    let stats = DlqRequest::new("wether", DlqAction::Stats(Bounds::default()));
    let error = perform(&shop.data(), &stats, pending()).await.unwrap_err();
    assert!(matches!(error, ControlError::NoQueue(_)), "{error}");
    let unknown = Destination::Input(QueueId::new("stock", "request"));
    let elsewhere = replay_slowly(Selection::All, unknown);
    let error = perform(&shop.data(), &elsewhere, pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ControlError::NoQueue(_)), "{error}");
    assert_eq!(shop.letters().await, 1);
    let id: crate::MessageId = "x".repeat(255).parse().unwrap();
    let many = replay_slowly(Selection::Ids(vec![id; 300]), Destination::Original);
    let error = perform(&shop.data(), &many, pending()).await.unwrap_err();
    assert!(matches!(error, ControlError::TooLong), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(!is_running(empty.path()).await.unwrap());
    let error = perform(empty.path(), &find(1), pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
}
