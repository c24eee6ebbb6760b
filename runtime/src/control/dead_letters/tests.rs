//! Both sides in one process, on a clock of the test's own.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::super::{ControlTargets, TIMEOUT, server, socket_path};
use super::*;
use crate::app::fixtures::{Fake, SECRET, app};
use crate::dead_letter::{DeadLetter, Reason};
use crate::dead_letters::{Bounds, Destination, Outcome, RateLimit, RemoveOptions, Selection};
use crate::message::Envelope;
use crate::message_trace::TraceCollector;
use crate::redact::Redactor;
use crate::service_thread::StopSignal;
use crate::transport::{Completion, Outgoing};

/// An app that nobody runs, with letters, and its control socket.
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
        let reach = ControlTargets {
            view: app.view.clone(),
            letters: DeadLetters::of(app.transport.clone(), app.topology.clone())
                .redacting(redactor),
            tracer: TraceCollector::empty(),
            stop: Box::new(|| {}),
        };
        tokio::spawn(server::serve(listener, reach, stopping));
        Self {
            app,
            data,
            _stop: stop,
        }
    }

    fn data(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    async fn look(&self, task: Task) -> Report {
        perform(&self.data(), &task, pending()).await.unwrap()
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
    let why = DeadLetter {
        reason: Reason::Error,
        error: format!("order {number}: no stock"),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_390_323_123,
    };
    why.letter(&envelope.into())
}

/// Ten a second.
fn slowly(selection: Selection) -> Task {
    Task::Replay {
        service: "stock".into(),
        to: Destination::Original,
        removal: RemoveOptions {
            selection,
            limit: u64::MAX,
            dry_run: false,
            pace: RateLimit::per_second(10.0).unwrap(),
            bounds: Bounds::default(),
        },
    }
}

fn find(limit: usize) -> Task {
    Task::Find {
        service: "stock".into(),
        selection: Selection::All,
        limit,
        payload_bytes_max: usize::MAX,
        bounds: Bounds::default(),
    }
}

fn outcome(report: Report) -> Outcome {
    match report {
        Report::Removed(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_over_the_socket_is_what_the_app_itself_would_say() {
    let shop = Shop::with(300).await;
    let here = DeadLetters::of(shop.app.transport.clone(), shop.app.topology.clone());
    let (service, bounds) = (String::from("stock"), Bounds::default());
    let census = Task::DlqStats {
        service: service.clone(),
        bounds,
    };
    let Report::DlqStats(census) = shop.look(census).await else {
        panic!()
    };
    assert_eq!(census, here.census("stock", bounds).await.unwrap());
    let Report::Groups(groups) = shop.look(Task::Groups { service, bounds }).await else {
        panic!()
    };
    assert_eq!(groups, here.groups("stock", bounds).await.unwrap());
    let Report::Found(found) = shop.look(find(250)).await else {
        panic!()
    };
    assert_eq!((found.letters.len(), found.more), (250, true));
    let last = &found.letters[249];
    assert_eq!(last.id, "order-249");
    assert_eq!(last.payload.get(), r#"{"n":249,"key":"[redacted]"}"#);
    assert_eq!(shop.letters().await, 300);
}

#[tokio::test(start_paused = true)]
async fn a_task_may_take_longer_than_an_answer_may() {
    let shop = Shop::with(300).await;
    let began = Instant::now();
    let report = shop.look(slowly(Selection::All)).await;
    assert!(began.elapsed() > 5 * TIMEOUT);
    assert_eq!(outcome(report).removed, 300);
    assert_eq!((shop.letters().await, shop.replayed().await), (0, 300));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_is_told_what_was_done_until_then() {
    let shop = Shop::with(300).await;
    let stop = sleep(Duration::from_millis(8050));
    let report = perform(&shop.data(), &slowly(Selection::All), stop).await;
    let outcome = outcome(report.unwrap());
    assert!(outcome.stopped);
    assert!((75..=85).contains(&outcome.removed), "{}", outcome.removed);
    assert_eq!(shop.replayed().await, outcome.removed);
    assert_eq!(shop.letters().await, 300 - outcome.removed);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_stops_its_task_and_no_letter_is_lost() {
    let shop = Shop::with(300).await;
    let data = shop.data();
    let client = tokio::spawn(async move {
        let task = slowly(Selection::All);
        perform(&data, &task, pending()).await
    });
    while shop.replayed().await < 20 {
        sleep(Duration::from_millis(10)).await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    // Whatever it held is given back when it ends, and only then.
    while shop.letters().await + shop.replayed().await < 300 {
        sleep(Duration::from_millis(10)).await;
    }
    let replayed = shop.replayed().await;
    assert!((20..30).contains(&replayed), "{replayed}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(shop.replayed().await, replayed);
    let report = shop.look(slowly(Selection::All)).await;
    assert_eq!(outcome(report).removed, 300 - replayed);
}

#[tokio::test(start_paused = true)]
async fn a_few_work_at_a_time_and_the_others_are_told_so() {
    let shop = Shop::with(1000).await;
    // Enough for all: each fetches some ahead.
    let mut busy = Vec::new();
    let (tell, told) = watch::channel(false);
    for _ in 0..4 {
        let (data, mut told) = (shop.data(), told.clone());
        let (begun, beginning) = oneshot::channel();
        busy.push(tokio::spawn(async move {
            let begun = &mut Some(begun);
            let stop = async {
                // Polled first when the request is on its way.
                let _gone = begun.take().map(|begun| begun.send(()));
                let _gone = told.wait_for(|told| *told).await;
            };
            perform(&data, &slowly(Selection::All), stop).await
        }));
        beginning.await.unwrap();
    }
    // Each has been read when the app answers the next one.
    let refused = perform(&shop.data(), &find(1), pending()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("several others"), "{text}");
    assert!(is_running(&shop.data()).await.unwrap());
    tell.send(true).unwrap();
    let mut removed = 0;
    for task in busy {
        removed += outcome(task.await.unwrap().unwrap()).removed;
    }
    assert_eq!(shop.replayed().await, removed);
    assert_eq!(shop.letters().await, 1000 - removed);
    shop.look(find(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_said() {
    let shop = Shop::with(1).await;
    let census = Task::DlqStats {
        service: "wether".into(),
        bounds: Bounds::default(),
    };
    let error = perform(&shop.data(), &census, pending()).await.unwrap_err();
    assert!(matches!(error, ControlError::NoQueue(_)), "{error}");
    let elsewhere = Task::Replay {
        service: "stock".into(),
        to: Destination::Input(QueueId::new("stock", "request")),
        removal: match slowly(Selection::All) {
            Task::Replay { removal, .. } => removal,
            other => panic!("{other:?}"),
        },
    };
    let error = perform(&shop.data(), &elsewhere, pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ControlError::NoQueue(_)), "{error}");
    assert_eq!(shop.letters().await, 1);
    let id: crate::MessageId = "x".repeat(255).parse().unwrap();
    let many = slowly(Selection::Ids(vec![id; 300]));
    let error = perform(&shop.data(), &many, pending()).await.unwrap_err();
    assert!(matches!(error, ControlError::TooLong), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(!is_running(empty.path()).await.unwrap());
    let error = perform(empty.path(), &find(1), pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
}
