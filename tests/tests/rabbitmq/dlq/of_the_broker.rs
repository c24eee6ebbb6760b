//! Letters that the broker made, and letters that its tools move.

use brickwork_tests::polyglot::Stranger;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use super::*;

fn id_of(letter: &Value) -> &str {
    letter["id"].as_str().expect("a text")
}

#[tokio::test]
async fn a_letter_that_the_broker_made_has_an_id_a_reason_and_its_topic() {
    let broker = Broker::shared();
    let shop = Shop::new("dlq-expired", 0, "fail");
    shop.run(&[]);
    let queue = r"^dlq-expired\.weather\.in$";
    broker.ctl(&["set_policy", "dlq-expired", queue, r#"{"message-ttl":100}"#]);
    let stranger = Stranger::connect_to(&broker.url()).await;
    for n in 0..3 {
        let payload = json!({ "n": n }).to_string();
        let properties = BasicProperties::default().with_delivery_mode(2);
        stranger
            .publish("dlq-expired", "lines", payload.as_bytes(), properties)
            .await;
    }
    until("they expire", PATIENCE, || {
        let letters = shop.letters();
        (letters == 3).then_some(()).ok_or(letters.to_string())
    });
    broker.ctl(&["clear_policy", "dlq-expired"]);

    let shown = shop.dlq(&["show"]);
    let letters = shown["letters"].as_array().expect("a list");
    let ids: BTreeSet<&str> = letters.iter().map(id_of).collect();
    assert_eq!(ids.len(), 3, "{shown}");
    for letter in letters {
        for (field, value) in [
            ("reason", "expired"),
            ("topic", "lines"),
            ("input", "in"),
            (
                "error",
                "the broker gave it up in queue dlq-expired.weather.in: expired",
            ),
        ] {
            assert_eq!(letter[field], value, "{field}: {letter}");
        }
        assert!(
            letter["failed_at"]
                .as_str()
                .is_some_and(|it| it.starts_with("20"))
        );
        // The same at every look, so that the letter can be named.
        let again = shop.dlq(&["show", "--id", id_of(letter)]);
        assert_eq!(again["letters"][0], *letter);
    }
    let expired = ["replay", "--service", "weather", "--reason", "expired"];
    let first = letters[0]["id"].as_str().expect("a text");
    let one = ["replay", "--service", "weather", "--id", first];
    assert_eq!(shop.dlq(&one)["removed"], 1);
    assert_eq!(shop.dlq(&expired)["removed"], 2);
    shop.run(&["--with", "healed.toml"]);
    assert_eq!(shop.through().len(), 3);
    assert_eq!(shop.letters(), 0);
}

/// Moves the messages of one queue to another as they are, as the broker's shovel does.
async fn shovel(broker: &Broker, from: &str, to: &str) -> usize {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&broker.url(), properties).await;
    let connection = connection.expect("it connects");
    let channel = connection.create_channel().await.expect("a channel");
    let mut moved = 0;
    while let Some(got) = channel
        .basic_get(from.into(), BasicGetOptions::default())
        .await
        .expect("the queue is there")
    {
        let options = BasicPublishOptions::default();
        let (data, properties) = (&got.delivery.data, got.delivery.properties.clone());
        let sent = channel.basic_publish("".into(), to.into(), options, data, properties);
        sent.await.expect("it is sent");
        let acked = channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default());
        acked.await.expect("it is acked");
        moved += 1;
    }
    connection.close(200, "done".into()).await.expect("closes");
    moved
}

#[tokio::test]
async fn a_letter_that_a_tool_moves_to_the_input_is_a_fresh_message() {
    let broker = Broker::shared();
    let shop = Shop::new("dlq-shovel", 5, "fail");
    // Two attempts: with fewer left, the letter would say so.
    let twice = "[services.weather]\nretry = { attempts = 2, backoff = { min = \"10ms\" } }\n";
    std::fs::write(shop.path().join("twice.toml"), twice).expect("it can be written");
    shop.run(&["--with", "twice.toml"]);
    assert_eq!(shop.letters(), 5);
    let (letters, input) = ("dlq-shovel.weather.dlq", "dlq-shovel.weather.in");
    assert_eq!(shovel(broker, letters, input).await, 5);
    // It fails again: after as many attempts as a new message has.
    shop.run(&["--with", "twice.toml"]);
    let shown = shop.dlq(&["show"]);
    for letter in shown["letters"].as_array().expect("a list") {
        let numbers = (&letter["attempts"], &letter["replays"]);
        assert_eq!(numbers, (&2.into(), &1.into()), "{letter}");
    }
    // The service sees nothing of the letter, so neither do readers of its outputs.
    assert_eq!(shovel(broker, letters, input).await, 5);
    let transport = shop.transport().await;
    let fresh = peek(&*transport, &super::input()).await;
    assert_eq!(fresh.len(), 5);
    for message in fresh {
        let of_letter = ["brickwork-reason", "brickwork-error", "brickwork-service"];
        assert!(
            of_letter
                .iter()
                .all(|it| !message.headers.contains_key(*it))
        );
        assert_eq!(&*message.topic, "lines");
    }
    transport.close().await;
    shop.run(&["--with", "healed.toml"]);
    assert_eq!(shop.through().len(), 5);
}
