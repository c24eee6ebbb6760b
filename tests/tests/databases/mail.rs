//! `mail-out` with a server that takes mails, refuses some, and misbehaves.

use std::path::Path;

use brickwork_tests::parts;
use brickwork_tests::process::{Process, until};
use brickwork_tests::smtp::{Mode, Smtp};

use crate::{APP, PATIENCE, letters, logged, run_until_idle};

fn prepare(folder: &Path, smtp: &Smtp, more: &str, lines: &[&str]) {
    let manifest = format!(
        r#"{APP}
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", id = "/id" }}
        [services.mail]
        use = "mail-out"
        in = "lines"
        retry.attempts = 2
        {more}
        [services.mail.config]
        server = "127.0.0.1"
        port = {}
        tls = "none"
        timeout = "1s"
        from = "'Shop <shop@example.com>'"
        to = "msg.to"
        cc = "has(msg.cc) ? msg.cc : []"
        reply_to = "'answers@example.com'"
        subject = "'Order ' + msg.id"
        text = "'Line one\\n.\\nLine three'"
        "#,
        smtp.port()
    );
    parts::write(
        folder,
        &manifest,
        lines.iter().map(|line| (*line).to_owned()),
    );
}

fn wait_for_mails(smtp: &Smtp, count: usize, app: &Process) {
    until("mails arrive", PATIENCE, || match smtp.mails().len() {
        found if found >= count => Ok(()),
        found => Err(format!("{found} mails; {}", app.stderr())),
    });
}

#[test]
fn mails_arrive_over_one_connection_and_refused_ones_are_dead_letters() {
    let smtp = Smtp::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let lines = [
        r#"{"id":"o-1","to":"a@example.com"}"#,
        r#"{"id":"o-2","to":"refused@example.com"}"#,
        r#"{"id":"o-3","to":["b@example.com"],"cc":"c@example.com"}"#,
        r#"{"id":"o-4","to":"no address"}"#,
        r#"{"id":"o-5","to":"a@example.com\r\nRCPT TO:<b@example.com>"}"#,
    ];
    prepare(folder.path(), &smtp, "", &lines);
    run_until_idle(folder.path());
    let mails = smtp.mails();
    let to: Vec<&[String]> = mails.iter().map(|mail| &mail.to[..]).collect();
    assert_eq!(
        to,
        [&["a@example.com"][..], &["b@example.com", "c@example.com"]]
    );
    assert!(
        mails[0].text.contains("Message-ID: <o-1@example.com>\n"),
        "{:?}",
        mails[0]
    );
    for header in ["Reply-To: answers@example.com\n", "Cc: c@example.com\n"] {
        assert!(mails[1].text.contains(header), "{:?}", mails[1]);
    }
    assert!(
        mails[0].text.contains("Subject: Order o-1\n"),
        "{:?}",
        mails[0]
    );
    assert!(
        mails[0].text.contains("Line one\n.\nLine three"),
        "{:?}",
        mails[0]
    );
    assert!(smtp.connections() <= 2, "{}", smtp.connections());
    let letters = letters(folder.path());
    let reasons = ["550", "is no address", "it has a line break"];
    assert_eq!(letters.len(), reasons.len(), "{letters:?}");
    for ((error, _), reason) in letters.iter().zip(reasons) {
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_refused_mail_goes_to_the_output_rejected_and_a_mail_for_later_comes_later() {
    let smtp = Smtp::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let lines = [
        r#"{"id":"o-1","to":"later@example.com"}"#,
        r#"{"id":"o-2","to":"refused@example.com"}"#,
    ];
    let more = r#"out = { rejected = "rejected" }
        [services.keep]
        use = "file-out"
        in = "rejected"
        config.path = "rejected.jsonl""#;
    prepare(folder.path(), &smtp, more, &lines);
    let app = parts::run(folder.path(), folder.path(), &[]);
    let log = logged(&app, "greylisted");
    assert!(
        log.contains("after=60s") || log.contains("after=1m"),
        "{log}"
    );
    let rejected = until("the message is written", PATIENCE, || {
        let text = std::fs::read_to_string(folder.path().join("rejected.jsonl"));
        let text = text.map_err(|error| error.to_string())?;
        if text.ends_with('\n') {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert!(rejected.contains("o-2"), "{rejected}");
    app.stop();
    assert_eq!(letters(folder.path()), []);
}

#[test]
fn a_server_that_misbehaves_costs_no_attempt_and_mails_arrive_when_it_is_well() {
    for mode in [Mode::Silent, Mode::Shutdown, Mode::Garbage, Mode::Forgetful] {
        let smtp = Smtp::start();
        smtp.set(mode);
        let folder = tempfile::tempdir().expect("a folder can be made");
        prepare(
            folder.path(),
            &smtp,
            "",
            &[r#"{"id":"o-1","to":"a@example.com"}"#],
        );
        let app = parts::run(folder.path(), folder.path(), &[]);
        // More tries than the message has attempts.
        until("several connections", PATIENCE, || {
            match smtp.connections() {
                4.. => Ok(()),
                found => Err(format!("{mode:?}: {found} connections; {}", app.stderr())),
            }
        });
        logged(&app, "outside system is away");
        let before = smtp.mails().len();
        smtp.set(Mode::Normal);
        wait_for_mails(&smtp, before + 1, &app);
        logged(&app, "outside system is back");
        app.stop();
        assert_eq!(letters(folder.path()), [], "{mode:?}");
        let ids: Vec<bool> = smtp
            .mails()
            .iter()
            .map(|mail| mail.text.contains("Message-ID: <o-1@example.com>"))
            .collect();
        assert!(ids.iter().all(|same| *same), "{mode:?}");
    }
}
