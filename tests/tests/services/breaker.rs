//! Circuit breakers: an outage outside costs no message, and a few bad messages stop no service.

use std::time::Duration;

use brickwork::{Catalog, Envelope, QueueId, Workers};
use brickwork_tests::app::{TestApp, really, virtually};
use brickwork_tests::outside::{Caller, Mode, calling, calls, outage_on, outside, switch, trip};
use serde_json::json;
use tokio::time::{Instant, sleep};

fn catalog() -> Catalog {
    brickwork_actors::catalog().with::<Caller>()
}

fn manifest(name: &str, caller: &str) -> String {
    calling(name, "memory:", caller)
}

#[test]
fn an_outage_of_a_minute_costs_no_message_and_ends_within_two_seconds() {
    for (mode, more) in [
        (Mode::Fails, ""),
        (Mode::Panics, ""),
        (Mode::Hangs, "handler_timeout = \"200ms\""),
    ] {
        virtually(async {
            let name = format!("outage-{mode:?}").to_lowercase();
            let caller = format!("instances = 4\n{more}");
            let app = TestApp::start(&manifest(&name, &caller), &catalog()).await;
            switch(&name, mode);
            for n in 0..1_000 {
                app.send("numbers", json!({ "n": n })).await;
                sleep(Duration::from_millis(60)).await;
            }
            let during = calls(&name);
            let reasons = app.app.not_ready();
            assert!(
                reasons[0].starts_with(
                    "service caller takes no messages, its circuit breaker is open since 20"
                ),
                "{reasons:?}"
            );
            switch(&name, Mode::Works);
            let back = Instant::now();
            app.idle().await;
            let row = app.summary("caller");
            assert_eq!((row.ok, row.dead_letters), (1_000, 0), "{mode:?} {row:?}");
            let first = calls(&name).into_iter().find(|call| call.ok).unwrap();
            let waited = first.at - back;
            println!("{mode:?}: {} calls, back after {waited:?}", during.len());
            assert!(waited <= Duration::from_secs(2), "{mode:?}: {waited:?}");
            // 20 messages open it, 3 more run beside the last of them; then one probe a second.
            let probes = during
                .iter()
                .filter(|call| call.at - during[0].at > Duration::from_secs(3));
            assert!(probes.count() <= 60, "{mode:?}: {}", during.len());
            assert!(during.len() <= 20 + 3 + 60, "{mode:?}: {}", during.len());
            assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
            assert!(app.app.gave_up().is_empty());
            assert!(app.stop().await.is_clean());
        });
    }
}

#[test]
fn it_opens_after_the_first_twenty_messages_of_which_most_fail() {
    virtually(async {
        let name = "twenty";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Fails);
        trip(&app, 100).await;
        assert_eq!(calls(name).len(), 20);
        // The messages wait in their queue, not in the mailbox.
        let depth = app.transport().depth(&QueueId::new("caller", "in")).await;
        let depth = depth.unwrap();
        assert_eq!((depth.ready, depth.in_flight, depth.delayed), (80, 0, 20));
        switch(name, Mode::Works);
        app.idle().await;
        let late = calls(name).into_iter().filter(|call| call.ok);
        let firsts = late.filter(|call| call.attempt == 1).count();
        assert_eq!(firsts, 80, "they have lost no attempt");
    });
}

#[test]
fn a_half_open_breaker_goes_on_after_probes_that_prove_nothing() {
    virtually(async {
        let name = "nothing";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Fails);
        trip(&app, 30).await;
        switch(name, Mode::Defers);
        sleep(Duration::from_secs(3)).await;
        let row = app.summary("caller");
        assert!(row.defer > 10, "each frees the place at once: {row:?}");
        // Requests whose time is over are dropped, and are no probes.
        let mut expired = Envelope::new("test", json!({ "n": 99 }).to_string());
        expired.topic = "numbers".into();
        expired.deadline_ms = Some(1);
        app.publish(expired.into()).await;
        switch(name, Mode::Works);
        app.idle().await;
        let row = app.summary("caller");
        assert_eq!((row.expired, row.ok), (1, 30), "{row:?}");
        assert!(app.app.not_ready().is_empty());
    });
}

#[test]
fn a_half_open_breaker_without_messages_counts_as_ready() {
    virtually(async {
        let name = "quiet";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Fails);
        trip(&app, 20).await;
        switch(name, Mode::Rejects);
        app.idle().await;
        sleep(Duration::from_secs(3)).await;
        assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
        switch(name, Mode::Works);
        app.send("numbers", json!({ "n": 50 })).await;
        app.idle().await;
        assert_eq!(app.summary("caller").ok, 1);
    });
}

#[test]
fn random_failures_of_one_ten_and_thirty_percent_stop_no_service_and_lose_nothing() {
    for fault in ["panic", "fail", "stall"] {
        for rate in [0.01, 0.1, 0.3] {
            virtually(async {
                let name = format!("random-{fault}-{}", (rate * 100.0) as u32);
                let chaos = format!(
                    "use = 'chaos'\ninstances = 4\nhandler_timeout = '1s'\nretry.attempts = 20\n\
                     config = {{ {fault} = {rate:?}, for = '2s', seed = 7 }}"
                );
                let manifest =
                    manifest(&name, &chaos).replace(&format!("config.outside = \"{name}\""), "");
                let app = TestApp::start(&manifest, &catalog()).await;
                let mut done = app.probe("done").await;
                for n in 0..2_000 {
                    let mut envelope = Envelope::new("test", json!({ "n": n }).to_string());
                    envelope.id = format!("{n}").parse().unwrap();
                    envelope.topic = "numbers".into();
                    app.publish(envelope.into()).await;
                }
                app.idle().await;
                let row = app.summary("caller");
                assert_eq!((row.ok, row.dead_letters), (2_000, 0), "{name}: {row:?}");
                assert_eq!(done.rest().await.len(), 2_000, "{name}");
                assert!(app.app.gave_up().is_empty(), "{name}");
                assert!(app.app.not_ready().is_empty(), "{name}");
            });
        }
    }
}

#[test]
fn a_few_bad_messages_are_given_up_although_nothing_else_is_handled() {
    virtually(async {
        let name = "few";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Panics);
        for n in 0..12 {
            app.send("numbers", json!({ "n": n })).await;
        }
        app.idle().await;
        let row = app.summary("caller");
        assert_eq!((row.panic, row.dead_letters), (60, 12), "{row:?}");
        assert!(app.app.not_ready().is_empty());
    });
}

#[test]
fn many_bad_messages_wait_until_others_succeed_or_an_hour_has_passed() {
    for healthy in [true, false] {
        virtually(async {
            let name = format!("many-{healthy}");
            let app = TestApp::start(&manifest(&name, ""), &catalog()).await;
            switch(&name, Mode::FailsBelow(100));
            trip(&app, 40).await;
            sleep(Duration::from_secs(59 * 60)).await;
            assert_eq!(app.summary("caller").dead_letters, 0);
            if healthy {
                // Each closes the breaker for a moment.
                for n in 100..200 {
                    app.send("numbers", json!({ "n": n })).await;
                    sleep(Duration::from_secs(30)).await;
                }
                sleep(Duration::from_secs(60 * 60)).await;
                assert_eq!(app.summary("caller").ok, 100);
            } else {
                sleep(Duration::from_secs(3 * 60 * 60)).await;
            }
            assert_eq!(app.summary("caller").dead_letters, 40);
        });
    }
}

#[test]
fn an_app_that_runs_until_idle_gives_an_open_breaker_up_and_keeps_the_messages() {
    virtually(async {
        let name = "hopeless";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Fails);
        trip(&app, 30).await;
        let opened = Instant::now();
        app.idle().await;
        let waited = opened.elapsed();
        assert!(waited > Duration::from_secs(299), "{waited:?}");
        assert!(waited < Duration::from_secs(330), "{waited:?}");
        assert!(!app.app.not_ready().is_empty());
        let report = app.stop().await;
        assert_eq!(report.left, [("caller.in".to_owned(), 30)]);
    });
}

#[test]
fn a_breaker_that_is_off_stops_nothing() {
    virtually(async {
        let name = "off";
        let caller = "breaker = \"off\"\nretry.attempts = 1";
        let app = TestApp::start(&manifest(name, caller), &catalog()).await;
        switch(name, Mode::Panics);
        for n in 0..200 {
            app.send("numbers", json!({ "n": n })).await;
        }
        app.idle().await;
        let row = app.summary("caller");
        assert_eq!((row.panic, row.dead_letters), (200, 200), "{row:?}");
        assert!(
            app.app.gave_up().is_empty(),
            "a panic counts for its message"
        );
    });
}

#[test]
fn a_handler_that_asks_for_a_restart_gets_a_new_instance_and_its_message_is_retried() {
    virtually(async {
        let name = "restart";
        let app = TestApp::start(&manifest(name, ""), &catalog()).await;
        switch(name, Mode::Disconnects);
        for n in 0..50 {
            app.send("numbers", json!({ "n": n })).await;
        }
        app.idle().await;
        let row = app.summary("caller");
        assert_eq!((row.ok, row.retry, row.dead_letters), (50, 1, 0), "{row:?}");
        assert_eq!(outside(name, |it| it.starts), 2);
        assert_eq!(row.restarts, 1);
    });
}

/// The restart strategy of a group applies to panics in handlers if a service says so.
#[test]
fn a_panic_counts_against_the_service_only_if_the_manifest_says_so() {
    for (on_panic, starts) in [("", 1), ("on_panic = 'service', ", 2)] {
        virtually(async {
            let name = format!("panic-{starts}");
            let restart = format!(
                "restart = {{ {on_panic}max_restarts = 0, on_give_up = 'escalate' }}\n\
                 [services.sibling]\nuse = 'caller'\nin = 'numbers-too'\nout = 'done'\n\
                 config.outside = '{name}-sibling'\n\
                 [topics.numbers-too]\nexternal = 'in'\n\
                 [groups.both]\nservices = ['caller', 'sibling']"
            );
            let app = TestApp::start(&manifest(&name, &restart), &catalog()).await;
            switch(&name, Mode::Panics);
            app.send("numbers", json!({ "n": 1 })).await;
            sleep(Duration::from_millis(500)).await;
            switch(&name, Mode::Works);
            app.idle().await;
            let row = app.summary("caller");
            assert_eq!((row.panic, row.ok), (1, 1), "{row:?}");
            let sibling = outside(&format!("{name}-sibling"), |it| it.starts);
            assert_eq!(sibling, starts, "{on_panic}");
        });
    }
}

#[test]
fn a_breaker_stays_open_over_a_restart_of_its_service() {
    virtually(async {
        let name = "over-restart";
        // Ticks of the trigger restart the group.
        let caller = "
            [services.trigger]
            use = 'puppet'
            in = 'numbers-too'
            out = 'done'
            config = { ledger = 'over-restart', tick_ms = 5000, panic_ticks = 3 }
            restart = { max_restarts = 0, on_give_up = 'escalate' }
            [topics.numbers-too]
            external = 'in'
            [groups.both]
            services = ['caller', 'trigger']";
        let catalog = catalog().with::<brickwork_tests::puppet::Puppet>();
        let app = TestApp::start(&manifest(name, caller), &catalog).await;
        switch(name, Mode::Fails);
        trip(&app, 100).await;
        sleep(Duration::from_secs(30)).await;
        assert!(outside(name, |it| it.starts) >= 4);
        let during = calls(name).len();
        assert!(during <= 20 + 30, "probes only: {during}");
        switch(name, Mode::Works);
        app.idle().await;
        assert_eq!(app.summary("caller").ok, 100);
    });
}

#[test]
fn a_probe_that_blocks_its_thread_is_a_failure_and_the_breaker_goes_on() {
    really(async {
        let name = "blocks";
        let caller = "handler_timeout = '1s'\nretry.backoff = { min = '10ms', max = '10ms' }\n\
                      breaker = { min_messages = 3, pause = { min = '100ms', max = '100ms' } }";
        let manifest = manifest(name, caller);
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        switch(name, Mode::Fails);
        trip(&app, 5).await;
        switch(name, Mode::Blocks);
        let given_up = Instant::now() + Duration::from_secs(60);
        while app.summary("caller").timeout == 0 {
            assert!(Instant::now() < given_up, "{:?}", app.summary("caller"));
            sleep(Duration::from_millis(5)).await;
        }
        switch(name, Mode::Works);
        while app.summary("caller").ok < 5 {
            assert!(Instant::now() < given_up, "{:?}", app.summary("caller"));
            sleep(Duration::from_millis(5)).await;
        }
        assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
        app.stop().await;
    });
}

#[test]
fn on_embedded_the_messages_wait_in_their_queue_and_lose_no_attempt() {
    really(async {
        let folder = tempfile::tempdir().unwrap();
        let transports = brickwork_bridges::all();
        outage_on(folder, &transports, "embedded:queues", "outage-embedded").await;
    });
}
