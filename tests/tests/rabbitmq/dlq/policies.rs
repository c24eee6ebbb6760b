//! Dead letters on a broker whose operator sets limits.

use brickwork::transport::{Completion, Outgoing};

use super::*;

/// Sets a policy on the queues of an app.
fn set_policy(broker: &Broker, app: &str, queues: &str, policy: &str) {
    let queues = format!(r"^{app}\.{queues}");
    broker.ctl(&["set_policy", app, &queues, policy]);
}

#[test]
fn looking_loses_no_letter_whatever_delivery_limit_a_policy_sets() {
    const LETTERS: usize = 300;
    for (name, limit) in [("dlq-limit-0", 0), ("dlq-limit-1", 1)] {
        let shop = Shop::new(name, LETTERS, "fail");
        shop.run(&[]);
        let policy = format!(r#"{{"delivery-limit":{limit}}}"#);
        set_policy(Broker::shared(), name, r".*\.dlq$", &policy);
        let all = || -> Vec<String> {
            let shown = shop.dlq(&["show", "--limit", "1000"]);
            let letters = shown["letters"].as_array().expect("a list").iter();
            letters.map(|it| it["id"].to_string()).collect()
        };
        let before = all();
        assert_eq!(before.len(), LETTERS);
        for _ in 0..3 {
            assert_eq!(shop.letters(), LETTERS as u64);
            let some = shop.dlq(&["show", "--limit", "3"]);
            assert_eq!(some["letters"].as_array().map(Vec::len), Some(3));
            let dry = ["replay", "--service", "weather", "--all", "--dry-run"];
            assert_eq!(shop.dlq(&dry)["removed"], LETTERS);
            let groups = shop.dlq(&["groups", "--service", "weather"]);
            assert_eq!(groups["services"][0]["letters"], LETTERS, "{groups}");
            // Each is still in its place.
            assert_eq!(all(), before);
        }
        let id = before[200].trim_matches('"');
        let one = ["discard", "--service", "weather", "--id", id];
        assert_eq!(shop.dlq(&one)["removed"], 1);
        let left: Vec<&String> = before.iter().filter(|it| **it != before[200]).collect();
        assert_eq!(all().iter().collect::<Vec<_>>(), left);
    }
}

#[tokio::test]
async fn a_letter_that_a_crash_has_doubled_is_one_letter() {
    let shop = Shop::new("dlq-doubled", 20, "fail");
    shop.run(&[]);
    let transport = shop.transport().await;
    let queue = QueueId::dead_letters("weather");
    let copies = peek(&*transport, &queue).await;
    let copies = copies[5..15].iter().map(|letter| Outgoing {
        queue: Some(queue.clone()),
        ..letter.clone().into()
    });
    let (done, outcome) = Completion::channel();
    transport.publish(copies.collect(), done);
    outcome.await.expect("they are published");
    assert_eq!(transport.depth(&queue).await.expect("there").ready, 30);
    assert_eq!(shop.letters(), 20);
    let all = ["replay", "--service", "weather", "--all"];
    assert_eq!(shop.dlq(&all)["removed"], 20);
    assert_eq!(transport.depth(&queue).await.expect("there").ready, 0);
    assert_eq!(peek(&*transport, &input()).await.len(), 20);
    transport.close().await;
}

#[tokio::test]
async fn a_replay_longer_than_the_brokers_consumer_timeout_replays_each_letter_once() {
    const LETTERS: usize = 24;
    let broker = Broker::start();
    let shop = Shop::on(&broker, "dlq-slow", LETTERS, "fail");
    shop.run(&[]);
    broker.ctl(&[
        "eval",
        "application:set_env(rabbit, channel_tick_interval, 500), \
         application:set_env(rabbit, consumer_timeout, 3000).",
    ]);
    let slow = ["replay", "--service", "weather", "--all", "--rate", "2"];
    assert_eq!(shop.dlq(&slow)["removed"], LETTERS);
    assert_eq!(shop.letters(), 0);
    let transport = shop.transport().await;
    assert_eq!(peek(&*transport, &input()).await.len(), LETTERS);
    transport.close().await;
}
