//! Replay of dead letters.

use super::*;

#[test]
fn a_replayed_message_keeps_its_id_and_counts_its_replays() {
    let shop = Shop::new("dlq-replay", 10, "fail");
    shop.run(&[]);
    let of = |shown: &Value| -> BTreeSet<(String, u64, u64)> {
        let letters = shown["letters"].as_array().expect("a list");
        let number = |value: &Value| value.as_u64().expect("a number");
        letters
            .iter()
            .map(|it| {
                let id = it["id"].as_str().expect("a text").to_owned();
                (id, number(&it["payload"]["n"]), number(&it["replays"]))
            })
            .collect()
    };
    let first = of(&shop.dlq(&["show"]));
    assert_eq!(first.len(), 10);
    let one = &first.first().expect("there are ten").0;

    // One letter by its id, two of a reason, none of another reason.
    let weather = ["--service", "weather"];
    let replay = |more: &[&str]| shop.dlq(&[&["replay"], &weather[..], more].concat());
    assert_eq!(replay(&["--id", one])["removed"], 1);
    assert_eq!(replay(&["--reason", "error", "--limit", "2"])["removed"], 2);
    assert_eq!(replay(&["--reason", "panic"])["removed"], 0);
    assert_eq!(shop.letters(), 7);
    // The message fails again: same id, and the replay is counted.
    shop.run(&[]);
    let second = of(&shop.dlq(&["show"]));
    assert_eq!(second.len(), 10);
    assert_eq!(second.iter().filter(|it| it.2 == 1).count(), 3);
    let without_count = |all: &BTreeSet<(String, u64, u64)>| -> BTreeSet<(String, u64)> {
        all.iter().map(|it| (it.0.clone(), it.1)).collect()
    };
    assert_eq!(without_count(&first), without_count(&second));
    assert_eq!(replay(&["--all"])["removed"], 10);
    assert_eq!(shop.letters(), 0);
    shop.run(&["--with", "healed.toml"]);
    let through = shop.through();
    assert_eq!(through.len(), 10);
    assert!(through.values().all(|count| *count == 1), "{through:?}");
    assert_eq!(shop.letters(), 0);
}

#[tokio::test]
async fn a_killed_and_repeated_replay_loses_nothing() {
    const LETTERS: usize = 2000;
    let shop = Shop::new("dlq-killed", LETTERS, "fail");
    shop.run(&[]);
    assert_eq!(shop.letters(), LETTERS as u64);
    let transport = shop.transport().await;
    let letters = QueueId::dead_letters("weather");
    let before = ids(&peek(&*transport, &letters).await);

    let all = ["--service", "weather", "--all"];
    let killed = [&["dlq", "replay", "app.toml", "--rate", "1500"], &all[..]].concat();
    let began = Instant::now();
    let mut process = Process::start(shop.command(&killed), shop.path(), "it was just built");
    // Waits for the middle of the replay.
    let queued = queued(&*transport, 300).await;
    assert!((300..1900).contains(&queued), "{queued}");
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-9", &id]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(process.exit_code(PATIENCE), None);
    // The messages that the killed process held come back once the broker notices; until then
    // they are invisible.
    let mut rest = 0;
    let replayed = loop {
        let outcome = shop.dlq(&[&["replay"], &all[..]].concat());
        rest += outcome["removed"].as_u64().expect("a number");
        let replayed = peek(&*transport, &input()).await;
        let complete = sorted(&ids(&replayed)).len() == LETTERS;
        if complete && shop.letters() == 0 {
            break replayed;
        }
        assert!(began.elapsed() < PATIENCE, "{rest} of {LETTERS}");
    };
    assert!((1..LETTERS as u64).contains(&rest), "{rest}");
    // At least once, under the same ids.
    let after = ids(&replayed);
    assert_eq!(sorted(&after), sorted(&before));
    for message in &replayed {
        assert_eq!(&*message.headers[REPLAYS], "1");
        assert!(!message.headers.contains_key("brickwork-reason"));
    }
    println!(
        "{} letters; killed with {queued} replayed, {rest} replayed afterwards, {} twice",
        LETTERS,
        after.len() - LETTERS
    );
    transport.close().await;
    shop.run(&["--with", "healed.toml"]);
    let through = shop.through();
    assert_eq!(through.len(), LETTERS);
    assert_eq!(
        through.values().sum::<u32>() as usize,
        after.len(),
        "each as often as it was replayed"
    );
    assert_eq!(shop.letters(), 0);
}

#[tokio::test]
async fn a_running_app_handles_replays_and_ctrl_c_stops_a_replay_gracefully() {
    let shop = Shop::new("dlq-running", 200, "fail");
    shop.run(&[]);
    assert_eq!(shop.letters(), 200, "one each");
    let slow = [
        "dlq",
        "replay",
        "app.toml",
        "--service",
        "weather",
        "--all",
        "--rate",
        "20",
    ];
    let mut replay = Process::start(shop.command(&slow), shop.path(), "it was just built");
    let transport = shop.transport().await;
    queued(&*transport, 5).await;
    let id = replay.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(replay.exit_code(PATIENCE), Some(1));
    let said = replay.rest().join("\n");
    let replayed: u64 = said
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert_eq!(shop.letters(), 200 - replayed);
    assert_eq!(queued(&*transport, 0).await, replayed);
    transport.close().await;

    // The app runs and handles the replayed messages.
    let run = ["run", "app.toml", "--with", "healed.toml"];
    let app = Process::start(shop.command(&run), shop.path(), "it was just built");
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let rest = shop.dlq(&["replay", "--service", "weather", "--all"]);
    assert_eq!(rest["removed"], 200 - replayed);
    until("all are handled", PATIENCE, || {
        let through = shop.through();
        let once = through.len() == 200 && through.values().all(|count| *count == 1);
        if once {
            Ok(())
        } else {
            Err(format!("{}", through.len()))
        }
    });
}

/// Waits until more than `more_than` messages are ready for the service, and returns their
/// number.
async fn queued(transport: &dyn Transport, more_than: u64) -> u64 {
    let waiting = async {
        loop {
            let depth = transport.depth(&input()).await.expect("there is a queue");
            if depth.ready > more_than {
                return depth.ready;
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("they come in time")
}

#[tokio::test]
async fn a_letter_without_its_input_stays_and_is_named() {
    let shop = Shop::new("dlq-gone", 1, "fail");
    shop.run(&[]);
    let transport = shop.transport().await;
    let mut envelope = Envelope::new("order", "{}");
    envelope.topic = "orders".into();
    let why = DeadLetter {
        reason: Reason::Reject,
        error: "no".into(),
        service: "weather".into(),
        input: "before".into(),
        attempts: 1,
        failed_at_ms: 0,
    };
    let letter = brickwork::transport::Outgoing {
        queue: Some(QueueId::dead_letters("weather")),
        ..why.letter(&envelope.into()).into()
    };
    let (done, outcome) = brickwork::transport::Completion::channel();
    transport.publish(vec![letter], done);
    let outcome = timeout(PATIENCE, outcome).await.expect("it comes");
    outcome.expect("it is published");
    transport.close().await;
    let (code, outcome) = shop.dlq_code(&["replay", "--service", "weather", "--all"]);
    assert_eq!(code, 1, "{outcome}");
    assert_eq!(
        (&outcome["removed"], &outcome["without_input"]),
        (&1.into(), &1.into())
    );
    assert_eq!(shop.letters(), 1);
    assert_eq!(
        shop.dlq(&["discard", "--service", "weather", "--all"])["removed"],
        1
    );
}
