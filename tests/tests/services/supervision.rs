//! Starts, restarts and stops of services and their groups: the order, the time that they take,
//! and the services that don't notice.

use std::time::Duration;

use brickwork::Catalog;
use brickwork_tests::app::{TestApp, virtually};
use brickwork_tests::subject::{Ending, Script, Subject, script};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

/// Each failure goes to the supervisor above at once. A service outside of a group says so itself.
const ESCALATE: &str = "max_restarts = 0, on_give_up = 'escalate', \
                        backoff = { min = '20s', max = '20s', jitter = 0 }";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a manifest of subjects on one topic, whose failures escalate, with `app` in the table
/// of the app and `more` at the end.
fn manifest(name: &str, app: &str, labels: &[&str], more: &str) -> String {
    let mut text = format!(
        "[app]\nname = 'supervision'\ntransport = 'memory:'\n{app}\n[admin]\nlisten = 'off'\n\
         [topics.work]\nexternal = 'in'\n"
    );
    for label in labels {
        text += &format!(
            "[services.{label}]\nuse = 'subject'\nin = 'work'\nconfig.script = '{name}'\n\
             handler_timeout = '1h'\nrestart = {{ {ESCALATE} }}\n"
        );
    }
    text + more
}

async fn start(manifest: &str) -> TestApp {
    let catalog = Catalog::new().with::<Subject>().with_source::<Ending>();
    TestApp::start(manifest, &catalog).await
}

/// Lets services fail at their next tick, and returns the events of the time until then and
/// `after` that.
async fn events_after(name: &str, failing: &[&str], after: u64) -> String {
    script(name, |script| {
        script.log.clear();
        script.fail = failing.iter().map(|label| (*label).to_owned()).collect();
    });
    sleep(seconds(1 + after)).await;
    script(name, |script| script.log.join(", "))
}

fn slow_starts(name: &str, labels: &[&str], time: Duration) {
    script(name, |script| {
        *script = Script::default();
        for label in labels {
            script.slow_starts.insert((*label).to_owned(), time);
        }
    });
}

#[test]
fn a_slow_start_delays_the_sources_that_lead_to_it_and_nothing_else() {
    let name = "slow-start";
    let source = |label: &str, topic: &str| {
        format!(
            "[services.{label}]\nuse = 'ending'\nout = '{topic}'\n\
             config = {{ script = '{name}', label = '{label}' }}\n"
        )
    };
    let service = |label: &str, topic: &str| {
        format!(
            "[services.{label}]\nuse = 'subject'\nin = '{topic}'\nhandler_timeout = '1h'\n\
             config.script = '{name}'\n"
        )
    };
    let more = [
        source("to-slow", "slowly"),
        source("to-quick", "quickly"),
        service("slow", "slowly"),
        service("quick", "quickly"),
        service("other", "work"),
        "[groups.g]\nservices = ['slow', 'quick', 'to-slow']\n".to_owned(),
    ];
    virtually(async {
        slow_starts(name, &["slow"], seconds(600));
        let began = Instant::now();
        let app = start(&manifest(name, "", &[], &more.concat())).await;
        app.idle().await;
        let at = |event: &str| {
            let time = script(name, |script| script.times.get(event).copied());
            let time = time.unwrap_or_else(|| panic!("no {event}"));
            time.duration_since(began)
        };
        for event in ["start slow", "start quick", "run to-quick", "handle quick"] {
            assert!(at(event) < seconds(1), "{event}: {:?}", at(event));
        }
        for event in ["run to-slow", "handle slow"] {
            assert!(at(event) >= seconds(600), "{event}: {:?}", at(event));
        }
        app.stop().await;
    });
}

#[test]
fn a_service_that_fails_while_another_one_starts_is_restarted_at_once() {
    let name = "during-start";
    virtually(async {
        slow_starts(name, &["slow"], seconds(600));
        script(name, |script| script.fail.push("quick".to_owned()));
        let starting = async {
            start(&manifest(name, "", &["slow", "quick"], ""))
                .await
                .stop()
                .await;
        };
        let early = timeout(seconds(5), starting).await;
        assert!(
            early.is_err(),
            "the app has started when the slow service has"
        );
        let log = script(name, |script| script.log.join(", "));
        assert_eq!(log, "start slow, start quick, start quick");
    });
}

#[test]
fn a_root_that_gives_up_during_slow_starts_fails_the_app_at_once_and_the_stop_is_in_time() {
    let name = "root-gives-up";
    virtually(async {
        let slow = ["s1", "s2", "s3", "s4"];
        slow_starts(name, &slow, seconds(600));
        script(name, |script| script.fail.push("quick".to_owned()));
        let labels = [&["quick"], &slow[..]].concat();
        let source = format!(
            "[supervision]\nmax_restarts = 0\n[services.source]\nuse = 'ending'\nout = 'work'\n\
             config = {{ script = '{name}', label = 'source' }}\n"
        );
        let began = Instant::now();
        let app = "shutdown_timeout = '10s'";
        let app = start(&manifest(name, app, &labels, &source)).await;
        let why = app.app.failed().await;
        assert!(why.contains("at last quick"), "{why}");
        assert!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
        app.stop().await;
        assert!(began.elapsed() < seconds(13), "{:?}", began.elapsed());
        let log = script(name, |script| script.log.join(", "));
        assert_eq!(log, "start quick, start s1, start s2, start s3, start s4");
    });
}

#[test]
fn a_group_that_restarts_waits_for_its_members_own_shutdown_timeout() {
    let name = "own-time";
    virtually(async {
        script(name, |script| *script = Script::default());
        let text = manifest(
            name,
            "shutdown_timeout = '10m'",
            &["a", "b"],
            "[groups.g]\nservices = ['a', 'b']\n[services.c]\nuse = 'subject'\nin = 'work'\n\
             shutdown_timeout = '2s'\nhandler_timeout = '1h'\nconfig.script = 'own-time'\n",
        );
        // The member `b` has the default of five seconds.
        let text = text.replace("['a', 'b']", "['a', 'b', 'c']");
        let app = start(&text).await;
        script(name, |script| {
            for label in ["b", "c"] {
                script
                    .slow_handlers
                    .insert(label.to_owned(), seconds(1_000));
            }
        });
        app.send("work", json!(1)).await;
        let busy = events_after(name, &["a"], 6).await;
        assert!(
            !busy.contains("start"),
            "c takes 2 s, then b takes 5 s: {busy}"
        );
        sleep(seconds(2)).await;
        let mut log = script(name, |script| script.log.clone());
        log.retain(|event| event.starts_with("start"));
        assert_eq!(log, ["start a", "start b", "start c"]);
        app.stop().await;
    });
}

#[test]
fn an_app_that_stops_does_not_wait_for_a_stop_that_a_group_began_with_more_time() {
    let name = "cut-short";
    virtually(async {
        script(name, |script| *script = Script::default());
        let text = manifest(
            name,
            "shutdown_timeout = '10s'",
            &["a", "b"],
            "shutdown_timeout = '10m'\n[groups.g]\nservices = ['a', 'b']\n",
        );
        let app = start(&text).await;
        script(name, |script| {
            let slow = ("b".to_owned(), seconds(1_000));
            script.slow_handlers.extend([slow]);
        });
        app.send("work", json!(1)).await;
        let busy = events_after(name, &["a"], 6).await;
        assert!(!busy.contains("start"), "b takes ten minutes: {busy}");
        let began = Instant::now();
        app.stop().await;
        assert!(began.elapsed() < seconds(13), "{:?}", began.elapsed());
    });
}

#[test]
fn members_of_a_group_start_in_the_order_of_its_list_when_the_app_starts_and_when_they_restart() {
    for strategy in ["one_for_one", "one_for_all", "rest_for_one"] {
        let name = format!("order-{strategy}");
        virtually(async {
            script(&name, |script| *script = Script::default());
            let group =
                format!("[groups.g]\nservices = ['c', 'a', 'b']\nstrategy = '{strategy}'\n");
            let app = start(&manifest(&name, "", &["a", "b", "c"], &group)).await;
            let log = script(&name, |script| script.log.join(", "));
            assert_eq!(log, "start c, start a, start b");
            let expected = match strategy {
                "one_for_one" => "start a",
                "one_for_all" => "stop b, stop c, start c, start a, start b",
                _ => "stop b, start a, start b",
            };
            assert_eq!(events_after(&name, &["a"], 1).await, expected);
            app.stop().await;
        });
    }
}

#[test]
fn the_back_off_of_a_member_keeps_no_healthy_sibling_down() {
    let name = "back-off";
    virtually(async {
        script(name, |script| *script = Script::default());
        let group = "[groups.g]\nservices = ['a', 'b']\nmax_restarts = 9\nwithin = '1h'\n";
        let app = start(&manifest(name, "", &["a", "b"], group)).await;
        let first = events_after(name, &["a"], 1).await;
        assert_eq!(first, "stop b, start a, start b");
        // The second failure in a row waits for 20 s.
        assert_eq!(events_after(name, &["a"], 15).await, "");
        app.send("work", json!(1)).await;
        let second = events_after(name, &[], 6).await;
        assert_eq!(second, "handle b, stop b, start a, handle a, start b");
        app.stop().await;
    });
}

#[test]
fn members_that_fail_together_count_as_one_restart_of_their_group() {
    let name = "together";
    virtually(async {
        script(name, |script| *script = Script::default());
        // The third restart would exceed the limit, and end the app.
        let rules = "[supervision]\nmax_restarts = 0\n[groups.g]\nservices = ['a', 'b']\n\
                     strategy = 'one_for_all'\nmax_restarts = 2\nwithin = '1h'\n";
        let app = start(&manifest(name, "", &["a", "b"], rules)).await;
        assert_eq!(events_after(name, &["a", "b"], 1).await, "start a, start b");
        // These wait for the back-off of 20 s.
        assert_eq!(
            events_after(name, &["a", "b"], 22).await,
            "start a, start b"
        );
        let failed = timeout(Duration::ZERO, app.app.failed()).await;
        assert!(failed.is_err(), "{failed:?}");
        events_after(name, &["a", "b"], 1).await;
        app.app.failed().await;
        app.stop().await;
    });
}

#[test]
fn a_start_that_fails_while_its_group_restarts_restarts_the_group_again() {
    let name = "start-fails";
    virtually(async {
        script(name, |script| *script = Script::default());
        let group = "[groups.g]\nservices = ['a', 'b', 'c']\nstrategy = 'rest_for_one'\n";
        let app = start(&manifest(name, "", &["a", "b", "c"], group)).await;
        script(name, |script| script.fail_starts.insert("b".to_owned(), 1));
        assert_eq!(
            events_after(name, &["a"], 1).await,
            "stop c, stop b, start a, start b, start c, stop c, start b, start c"
        );
        app.stop().await;
    });
}

#[test]
fn a_source_that_has_ended_is_not_run_again_with_its_group() {
    let name = "ended";
    let sources = ["permanent", "transient", "temporary"].map(|policy| {
        format!(
            "[services.{policy}]\nuse = 'ending'\nout = 'work'\nrestart.policy = '{policy}'\n\
             config = {{ script = '{name}', label = '{policy}' }}\n"
        )
    });
    virtually(async {
        script(name, |script| *script = Script::default());
        let group = "[groups.g]\nservices = ['permanent', 'a', 'transient', 'temporary']\n\
                     strategy = 'one_for_all'\nmax_restarts = 1\nwithin = '1h'\n";
        let app = start(&manifest(name, "", &["a"], &(sources.concat() + group))).await;
        app.idle().await;
        let ran = script(name, |script| script.log.join(", "));
        assert_eq!(ran.matches("run ").count(), 3, "{ran}");
        assert_eq!(events_after(name, &["a"], 1).await, "start a");
        // The group gives up, and the root restarts it.
        assert_eq!(events_after(name, &["a"], 1).await, "start a");
        app.idle().await;
        app.stop().await;
    });
}

#[test]
fn a_stop_while_a_group_restarts_ends_in_time_and_starts_nothing_more() {
    let name = "stop-in-restart";
    virtually(async {
        script(name, |script| *script = Script::default());
        let group = "[groups.g]\nservices = ['a', 'b']\nmax_restarts = 9\n";
        let app = "shutdown_timeout = '10s'";
        let app = start(&manifest(name, app, &["a", "b"], group)).await;
        script(name, |script| {
            script.slow_handlers.insert("b".to_owned(), seconds(1_000))
        });
        app.send("work", json!(1)).await;
        // The stop of `b` takes five seconds.
        assert_eq!(events_after(name, &["a"], 1).await, "handle a, handle b");
        let began = Instant::now();
        let report = app.stop().await;
        assert!(began.elapsed() < seconds(11), "{:?}", began.elapsed());
        assert_eq!(report.abandoned.len(), 1, "{report:?}");
        let log = script(name, |script| script.log.join(", "));
        assert!(!log.contains("start"), "{log}");
    });
}
