//! Tests of the status in each state of an app.

use super::*;
use crate::host::LastFailure;
use crate::message::Envelope;
use crate::metrics::Cause;
use crate::status::fixtures::{SECRET, app};
use crate::transport::{Completion, Outgoing};

fn failure(what: &'static str, text: &str) -> LastFailure {
    LastFailure {
        time_ms: 0,
        what: what.into(),
        text: text.to_owned(),
        message: None,
        attempt: None,
    }
}

#[tokio::test]
async fn an_app_is_ready_when_all_services_are_and_otherwise_gives_every_reason() {
    let fake = app().await;
    let reasons = |fake: &crate::status::fixtures::Fake| fake.view.readiness().1;
    assert_eq!(
        reasons(&fake),
        [
            "the app is starting",
            "service intake is starting",
            "service stock is starting"
        ]
    );
    fake.all_ready();
    assert_eq!(fake.view.readiness(), (true, vec![]));

    let stock = &fake.view.services[1].env();
    stock.liveness.consuming.send_replace(0);
    stock.meters.restarted(Cause::Bridge);
    stock.state.failed(failure("bridge", "the queue is gone"));
    assert_eq!(
        reasons(&fake),
        ["service stock consumes 0 of its 1 inputs; last failure (bridge): the queue is gone"]
    );
    stock.liveness.ready.store(0, Relaxed);
    assert!(reasons(&fake)[0].starts_with("service stock has none of its 2 instances ready"));

    fake.all_ready();
    fake.view.set_phase(Phase::Stopping);
    assert_eq!(reasons(&fake), ["the app is stopping"]);
}

#[tokio::test]
async fn a_source_that_has_ended_and_a_service_that_pauses_leave_the_app_ready() {
    let fake = app().await;
    fake.all_ready();
    let intake = &fake.view.services[0];
    intake.env().liveness.ready.store(0, Relaxed);
    assert!(!fake.view.readiness().0);
    intake.env().liveness.ended.send_replace(true);
    assert_eq!(intake.state(), State::Ended);
    let local = tokio::task::LocalSet::new();
    let stock = &fake.view.services[1];
    local
        .run_until(async { stock.env().pause(Duration::from_secs(60)) })
        .await;
    assert_eq!(stock.state(), State::Paused);
    assert_eq!(fake.view.readiness(), (true, vec![]));
}

#[test]
fn a_process_with_a_stuck_worker_thread_is_not_alive() {
    let lags = [Duration::from_secs(59), Duration::from_secs(61)];
    assert_eq!(
        stuck(lags.into_iter()),
        ["worker thread 1 is blocked for 61 s by a handler"]
    );
    assert_eq!(stuck(lags.into_iter().take(1)), [""; 0]);
}

#[tokio::test]
async fn depths_come_from_the_transport_and_full_queues_pause_running_sources() {
    let fake = app().await;
    fake.all_ready();
    let queue = QueueId::new("stock", "requests");
    assert_eq!(
        fake.view.depth(&queue),
        None,
        "no depth is known before the first poll"
    );
    let message = |delay| {
        let mut envelope = Envelope::new("order", "{}");
        envelope.topic = "orders".into();
        Outgoing {
            message: envelope.into(),
            queue: None,
            delay,
        }
    };
    let (done, published) = Completion::channel();
    let later = message(Duration::from_secs(60));
    let now = || message(Duration::ZERO);
    fake.transport
        .publish(vec![now(), now(), now(), later], done);
    published.await.unwrap();
    fake.view.poll_depths().await;
    let depth = fake.view.depth(&queue).unwrap();
    assert_eq!((depth.ready, depth.delayed), (3, 1));
    assert_eq!(
        fake.view.depth(&QueueId::dead_letters("stock")),
        Some(Depth::default())
    );
    assert!(fake.pressure.is_high());
    assert_eq!(fake.view.sources_paused(), 1);
    fake.view.services[0]
        .env()
        .liveness
        .ended
        .send_replace(true);
    assert_eq!(
        fake.view.sources_paused(),
        0,
        "a source that has ended does not wait"
    );

    fake.transport.close().await;
    fake.view.poll_depths().await;
    assert_eq!(
        fake.view.depth(&queue),
        None,
        "an outdated depth is not shown"
    );
}

#[tokio::test]
async fn the_snapshot_holds_the_whole_status() {
    let fake = app().await;
    fake.all_ready();
    fake.view.poll_depths().await;
    let stock = &fake.view.services[1].env();
    stock.meters.handled(0, crate::metrics::Outcome::Ok);
    stock.meters.emitted(0, 2);
    stock.state.failed(failure("retry", "disk full"));
    let json = serde_json::to_value(fake.view.snapshot()).unwrap();
    assert_eq!(json["app"], "shop <&>");
    assert_eq!(
        (&json["ready"], &json["phase"]),
        (&true.into(), &"running".into())
    );
    assert_eq!(json["transport"]["scheme"], "memory");
    assert_eq!(json["services"][0]["outputs"][0]["topics"][0], "orders");
    let stock = &json["services"][1];
    for (path, value) in [
        ("/service", serde_json::json!("stock")),
        ("/use", "test-type".into()),
        ("/state", "up".into()),
        (
            "/instances",
            serde_json::json!({ "wanted": 2, "min": 2, "max": 2, "ready": 1 }),
        ),
        (
            "/mailbox",
            serde_json::json!({ "messages": 0, "capacity": 64 }),
        ),
        ("/in_flight", 0.into()),
        ("/unconfirmed", 0.into()),
        ("/handled/ok", 1.into()),
        ("/handled/panic", 0.into()),
        ("/inputs/0/input", "requests".into()),
        ("/inputs/0/topics/0", "orders".into()),
        ("/inputs/0/handled/ok", 1.into()),
        ("/inputs/0/queue/ready", 0.into()),
        ("/outputs/0/emitted", 2.into()),
        ("/restarts/panic", 0.into()),
        ("/dead_letter_queue/ready", 0.into()),
        ("/last_failures/0/text", "disk full".into()),
    ] {
        assert_eq!(stock.pointer(path), Some(&value), "{path}");
    }
    assert!(!json.to_string().contains(SECRET));
}
