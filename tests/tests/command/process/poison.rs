//! Messages that end, hang or confuse their child process.

use super::*;

/// Runs cases at the same time, since each one mostly waits.
fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let test = &test;
            scope.spawn(move || test(case));
        }
    });
}

/// Sends a poison message among others, and returns its dead letter: the only one.
async fn poison(app: &TestApp, done: &mut Probe, act: Value) -> Message {
    const BESIDE: u64 = 30;
    let mut letters = app.dead_letters("child").await;
    let mut culprit = None;
    for n in 0..BESIDE {
        if n == BESIDE / 2 {
            culprit = Some(app.send("acts", act.clone()).await);
        }
        app.send("acts", json!({"act": "wait", "ms": 20, "n": n}))
            .await;
    }
    all(done, BESIDE).await;
    let letter = next(&mut letters).await;
    assert_eq!(
        Some(letter.id.clone()),
        culprit.map(|message| message.id.clone())
    );
    // The message was requeued until its last attempt; no other message was dead-lettered
    // meanwhile.
    assert_eq!(&*letter.headers["brickwork-attempt"], "3");
    assert!(letters.rest().await.is_empty());
    letter
}

#[test]
fn a_message_that_ends_the_child_is_the_only_dead_letter() {
    let cases = [
        ("abort", "the child ended: signal: 6"),
        ("exit", "the child ended: exit status: 3"),
    ];
    at_once(cases, |(act, text)| {
        really(async {
            let (app, mut done) = start("", "").await;
            let letter = poison(&app, &mut done, json!({"act": act})).await;
            let error = &letter.headers["brickwork-error"];
            assert!(error.contains(text), "{error}");
            app.stop().await;
        });
    });
}

#[test]
fn a_message_that_breaks_the_protocol_is_the_only_dead_letter() {
    let cases = [
        ("hello", "logs belong on stderr): hello"),
        ("stranger", "it answered \"nobody\""),
        (
            "port",
            "\"elsewhere\", which is not one of its outputs (out, other)",
        ),
        ("both", "without exactly one of emit and error"),
        ("long", "a line longer than 65536 bytes"),
        ("flood", "a line longer than 65536 bytes"),
        ("close", "it closed its stdout"),
    ];
    at_once(cases, |(act, text)| {
        really(async {
            let (app, mut done) = start("", "line_max = '64KiB'").await;
            let letter = poison(&app, &mut done, json!({"act": act})).await;
            let error = &letter.headers["brickwork-error"];
            assert!(error.contains(text), "{act}: {error}");
            app.stop().await;
        });
    });
}

#[test]
fn a_message_on_which_the_child_hangs_is_the_only_dead_letter() {
    at_once(["hang", "never"], |act| {
        really(async {
            let (app, mut done) = start("handler_timeout = '1s'", "").await;
            let letter = poison(&app, &mut done, json!({"act": act})).await;
            assert_eq!(&*letter.headers["brickwork-reason"], "timeout");
            app.stop().await;
        });
    });
}

#[test]
fn a_stopped_child_is_killed_and_another_one_handles_its_messages() {
    really(async {
        let (app, mut done) = start("handler_timeout = '1s'", "").await;
        let mut letters = app.dead_letters("child").await;
        let stopped = pid_of(&app, &mut done).await;
        signal("STOP", stopped);
        for n in 0..20 {
            app.send("acts", json!({"act": "pid", "n": n})).await;
        }
        all(&mut done, 20).await;
        assert!(!lives(stopped));
        assert!(letters.rest().await.is_empty());
        app.stop().await;
    });
}

#[test]
fn a_duplicate_answer_ends_the_child_and_harms_no_message() {
    really(async {
        let (app, mut done) = start("", "").await;
        let mut letters = app.dead_letters("child").await;
        let first = pid_of(&app, &mut done).await;
        app.send("acts", json!({"act": "twice", "n": 0})).await;
        all(&mut done, 1).await;
        eventually("the child is gone", || !lives(first)).await;
        for n in 0..20 {
            app.send("acts", json!({"act": "pid", "n": n})).await;
        }
        all(&mut done, 20).await;
        assert!(letters.rest().await.is_empty());
        app.stop().await;
    });
}
