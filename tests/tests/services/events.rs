//! The topic `brickwork.events`: a service reads what happens to the others.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
use brickwork::{EVENTS_TOPIC, Event};

#[derive(Default)]
struct Fragile;

/// Fails as its messages say.
#[service]
impl Fragile {
    #[input]
    fn orders(&mut self, order: String, done: Out<String>) -> Result {
        match &*order {
            "reject" => Err(Failure::reject("no such order")),
            "retry" => Err(Failure::retry("the shop is closed")),
            "panic" => panic!("broken"),
            _ => done.emit(order),
        }
    }
}

/// Passes events on.
#[service]
fn watch(event: Event, seen: Out<Event>) -> Result {
    seen.emit(event)
}

/// Fails and panics on every event before it passes it on.
#[service]
fn grumpy(event: Event, seen: Out<Event>, meta: Meta) -> Result {
    match meta.attempt() {
        1 => Err(Failure::retry("grumpy")),
        2 => panic!("grumpy"),
        _ => seen.emit(event),
    }
}

const SEEN: Output<Event> = Output::new("seen");
const ORDERS: Input<String> = Input::new("orders");

/// Returns an app of a fragile service and a reader of events, with `more` in its manifest.
fn setup(reader: &str, more: &str) -> Setup {
    let manifest = format!(
        r#"
        [app]
        name = "shop"
        [services.fragile]
        in = "orders"
        out = "done"
        {more}
        [services.{reader}]
        in = "{EVENTS_TOPIC}"
        out = "seen"
        [topics]
        orders.external = "in"
        done.external = "out"
        seen.external = "out"
        "#
    );
    let catalog = Catalog::new()
        .with::<Fragile>()
        .with::<watch>()
        .with::<grumpy>();
    Setup::of_manifest(&manifest, catalog)
}

/// Takes the next event of the fragile service.
fn next(app: &TestApp) -> Event {
    loop {
        let event = app.expect(&SEEN);
        if event.service() == "fragile" {
            return event;
        }
    }
}

#[test]
fn a_reader_sees_starts_dead_letters_and_rebuilt_instances() {
    let app = setup("watch", "retry.attempts = 1").start();
    assert!(matches!(next(&app), Event::ServiceUp { .. }));
    app.send(&ORDERS, "reject".to_owned());
    match next(&app) {
        Event::DeadLetter {
            input,
            reason,
            error,
            time_ms,
            ..
        } => {
            assert_eq!(
                (&*input, &*reason, &*error),
                ("orders", "reject", "no such order")
            );
            assert!(time_ms > 0);
        }
        other => panic!("{other:?}"),
    }
    app.send(&ORDERS, "panic".to_owned());
    let events = [next(&app), next(&app)];
    let is_letter =
        |event: &Event| matches!(event, Event::DeadLetter { reason, .. } if reason == "panic");
    assert!(events.iter().any(is_letter), "{events:?}");
    let is_restart = |event: &Event| matches!(event, Event::InstanceRestarted { instance: 0, .. });
    assert!(events.iter().any(is_restart), "{events:?}");
    assert_eq!(app.dead_letters("fragile").len(), 2);
}

#[test]
fn a_reader_sees_the_circuit_breaker_once_for_each_outage() {
    let more = "breaker = { min_messages = 3 }";
    let app = setup("watch", more).start();
    for _ in 0..3 {
        app.send(&ORDERS, "retry".to_owned());
    }
    let is_breaker =
        |event: &Event| !matches!(event, Event::ServiceUp { .. } | Event::DeadLetter { .. });
    let breaker = || loop {
        let event = next(&app);
        if is_breaker(&event) {
            return event;
        }
    };
    match breaker() {
        Event::BreakerOpen { reason, .. } => assert_eq!(reason, "the shop is closed"),
        other => panic!("{other:?}"),
    }
    // The probes of this hour fail.
    app.advance(Duration::from_secs(3600));
    app.send(&ORDERS, "good".to_owned());
    assert!(matches!(breaker(), Event::BreakerHalfOpen { .. }));
    assert!(matches!(breaker(), Event::BreakerClosed { .. }));
}

#[test]
fn a_reader_sees_that_a_service_is_isolated_and_comes_back() {
    let more = "restart = { max_restarts = 1, backoff = { max = '10s' } }";
    let app = setup("watch", more)
        .inject(Fault::fail(FaultPoint::Start).of("fragile").times(2))
        .start();
    let mut events = Vec::new();
    while !matches!(events.last(), Some(Event::ServiceUp { .. })) {
        events.push(next(&app));
    }
    assert!(
        matches!(events[0], Event::InstanceRestarted { .. }),
        "{events:?}"
    );
    let is_isolated = |event: &Event| matches!(event, Event::ServiceIsolated { again_ms, time_ms, .. } if again_ms > time_ms);
    assert!(events.iter().any(is_isolated), "{events:?}");
}

#[test]
fn failures_on_an_event_and_on_what_follows_from_it_are_no_events() {
    let app = setup("grumpy", "").start();
    app.send(&ORDERS, "reject".to_owned());
    // Two starts and a dead letter. Each event was tried three times; these failures are none.
    let events: Vec<Event> = (0..3).map(|_| app.expect(&SEEN)).collect();
    let letters = events
        .iter()
        .filter(|it| matches!(it, Event::DeadLetter { .. }));
    assert_eq!(letters.count(), 1, "{events:?}");
    app.expect_nothing(&SEEN);
}

#[test]
fn dead_letters_of_readers_and_of_services_behind_them_make_no_endless_loop() {
    let manifest = format!(
        r#"
        [app]
        name = "shop"
        [services.watch]
        in = "{EVENTS_TOPIC}"
        out = "seen"
        [services.fragile]
        in = ["seen", "orders"]
        out = "done"
        [topics]
        orders.external = "in"
        done.external = "out"
        "#
    );
    let catalog = Catalog::new().with::<Fragile>().with::<watch>();
    let app = TestApp::of_manifest(&manifest, catalog);
    app.send(&ORDERS, "reject".to_owned());
    // An event is no text: the fragile service gives each of them up.
    app.idle();
    let letters = app.dead_letters("fragile");
    // Two services are up and an order was rejected.
    assert_eq!(letters.len(), 4);
}
