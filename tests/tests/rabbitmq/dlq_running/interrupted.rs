//! Commands that are interrupted, or whose app ends.

use super::*;

#[test]
fn killing_the_client_during_a_replay_loses_and_duplicates_nothing() {
    const LETTERS: usize = 2000;
    let shop = Shop::failing("killed-memory", "memory:", LETTERS, 0);
    let before = shop.exported("price");
    assert_eq!(ids(&before).len(), LETTERS);
    let elsewhere = ["replay", "--service", "price", "--all", "--to", "again.in"];
    let slow = shop.command(&[&elsewhere[..], &["--rate", "500"]].concat());
    let mut client = Process::start(slow, shop.path(), "it was just built");
    until("it is in the middle", PATIENCE, || {
        match shop.letters("again") {
            letters if letters > 200 => Ok(()),
            letters => Err(format!("{letters} are replayed")),
        }
    });
    send("-9", &client);
    assert_eq!(client.exit_code(PATIENCE), None);
    // The app ends the task and requeues the messages that it held.
    let left = until("the others are there", PATIENCE, || {
        let (left, replayed) = (shop.letters("price"), shop.letters("again"));
        match left + replayed == LETTERS {
            true => Ok(left),
            false => Err(format!("{left} are left, {replayed} replayed")),
        }
    });
    assert!((1..LETTERS - 200).contains(&left), "{left}");
    let (rest, replayed) = (shop.exported("price"), shop.exported("again"));
    assert!(ids(&rest).is_disjoint(&ids(&replayed)));
    assert_eq!(rest.len(), left, "nothing went on without its client");

    // Repeats the replay, for longer than the app's silence limit.
    let rate = format!("{}/s", left / 6);
    let began = Instant::now();
    let outcome = shop.json(&[&elsewhere[..], &["--rate", &rate]].concat());
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(outcome["removed"], left);
    shop.wait_for("again", LETTERS);
    assert_eq!(shop.letters("price"), 0);
    let after = shop.exported("again");
    assert_eq!(after.len(), LETTERS);
    assert_eq!(ids(&after), ids(&before), "under the same ids");
    assert!(after.iter().all(|(_, replays)| *replays == 1));
}

#[test]
fn ctrl_c_ends_a_replay_in_the_app_gracefully_with_its_summary() {
    let shop = Shop::failing("stopped-memory", "memory:", 200, 0);
    let mut client = shop.during_a_replay();
    send("-INT", &client);
    assert_eq!(client.exit_code(PATIENCE), Some(1));
    let said = client.rest().join("\n");
    let replayed = said
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse().ok());
    let replayed: usize = replayed.unwrap_or_else(|| panic!("{said}"));
    assert!((6..200).contains(&replayed), "{said}");
    shop.wait_for("again", replayed);
    assert_eq!(shop.letters("price"), 200 - replayed);
}

#[test]
fn a_command_reports_that_its_app_has_ended_or_does_not_run() {
    let mut shop = Shop::failing("gone-memory", "memory:", 100, 0);
    let mut client = shop.during_a_replay();
    send("-9", &shop.app);
    assert_eq!(shop.app.exit_code(PATIENCE), None);
    assert_eq!(client.exit_code(PATIENCE), Some(1));
    let said = client.stderr();
    assert!(said.contains("no app is running"), "{said}");
    assert!(said.contains("closed before it answered"), "{said}");
    for verb in ["list", "groups", "show", "export"] {
        shop.says(&[verb], 1, "no app is running with the data folder");
    }
    shop.says(&["list"], 1, "use a durable transport");
}

#[test]
fn the_test_case_in_the_guide_is_read() {
    let readme = std::fs::read_to_string(workspace().join("runtime/guide/dead-letters.md"))
        .expect("it is there");
    let blocks = readme.split("```toml\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let case = blocks.find(|block| block.starts_with("[[case]]"));
    let cases: TestCases = case.expect("there is one").parse().expect("it is read");
    let message = cases.cases[0].message.message().expect("it is one");
    assert_eq!(message.payload, r#"{"sku":"a","quantity":0.5}"#);
    assert_eq!(cases.cases[0].emits[0].output, "reserved");
    assert!(cases.cases[0].happened.is_some());
}
