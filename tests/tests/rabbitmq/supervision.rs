//! Restarts of groups over RabbitMQ, where a message in hand returns to the broker: it is handled
//! by the next run, and is not blamed for the restart.

use std::time::Duration;

use brickwork::{Catalog, QueueId};
use brickwork_bridges::all;
use brickwork_tests::app::{TestApp, really};
use brickwork_tests::broker::Broker;
use brickwork_tests::subject::{Script, Subject, script};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the test takes.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Starts an app with the services `a` and `b` in one group, which both get each message.
async fn start(name: &str, folder: TempDir) -> TestApp {
    let url = Broker::shared().url();
    let mut text = format!(
        "[app]\nname = '{name}'\ntransport = '{url}'\nshutdown_timeout = '5s'\n\
         [admin]\nlisten = 'off'\n[topics.work]\nexternal = 'in'\n\
         [groups.g]\nservices = ['a', 'b']\nstrategy = 'one_for_all'\nmax_restarts = 9\n"
    );
    for label in ["a", "b"] {
        text += &format!(
            "[services.{label}]\nuse = 'subject'\nin = 'work'\nconfig.script = '{name}'\n\
             handler_timeout = '2h'\nshutdown_timeout = '500ms'\n\
             restart = {{ max_restarts = 0, backoff = {{ min = '1ms', max = '1ms' }} }}\n"
        );
    }
    let catalog = Catalog::new().with::<Subject>();
    TestApp::start_in(folder, &text, &catalog, &all()).await
}

/// Lets the handlers of `b` hang, or end at once.
fn hang(name: &str, hangs: bool) {
    script(name, |script| {
        script.slow_handlers.clear();
        if hangs {
            script.slow_handlers.insert("b".to_owned(), FOREVER);
        }
    });
}

/// Waits until an event has happened so many times.
async fn until(name: &str, event: &str, times: usize) {
    let log = || script(name, |script| script.log.clone());
    let happened = async {
        while log().iter().filter(|other| *other == event).count() < times {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = timeout(PATIENCE, happened).await;
    assert!(in_time.is_ok(), "{times} times {event}: {:?}", log());
}

#[test]
fn a_message_in_hand_while_its_group_restarts_again_and_again_is_handled_and_not_blamed() {
    let name = "in-hand";
    really(async {
        script(name, |script| *script = Script::default());
        hang(name, true);
        let app = start(name, tempfile::tempdir().expect("a folder")).await;
        app.send("work", json!(1)).await;
        // One more than the crashes that make a message a suspect.
        for restart in 1..=3 {
            until(name, "handle b", restart).await;
            script(name, |script| script.fail.push("a".to_owned()));
            until(name, "start b", restart + 1).await;
        }
        until(name, "handle b", 4).await;
        hang(name, false);
        script(name, |script| script.fail.push("a".to_owned()));
        until(name, "handle b", 5).await;
        app.idle().await;
        let done = app.summary("b");
        assert_eq!((done.ok, done.dead_letters), (1, 0), "{done:?}");
        for queue in [QueueId::dead_letters("b"), QueueId::suspects("b")] {
            let depth = app.transport().depth(&queue).await.expect("it is there");
            assert_eq!(depth.total(), 0, "{queue}");
        }
        app.stop().await;
    });
}
