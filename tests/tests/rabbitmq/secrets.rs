//! No configured secret is shown anywhere.
//!
//! The program `leaky` does everything that a careless service can do with its secret: it logs
//! it, fails with it, panics with it, and fails to start with it.

use std::process::Command;
use std::time::Duration;

use brickwork::transport::{Transports, take};
use brickwork::{App, Catalog, Clock, QueueId, Workers};
use brickwork_tests::app::{plan, virtually};
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::leaky::{Leaky, SECRET};
use brickwork_tests::process::{Process, free_address, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_secret_is_shown_in_logs_errors_metrics_or_the_state() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_address();
    let broker = Broker::shared();
    // The password of a URL is a secret, too: this user is refused.
    let password = "url-p%40ssword-7f3a";
    for (transport, runs) in [
        ("memory:".to_owned(), true),
        (
            format!("amqp://visitor:{password}@127.0.0.1:{}", broker.port()),
            false,
        ),
    ] {
        let manifest = format!(
            r#"
            [app]
            name = "leaky"
            transport = "{transport}"
            log.level = "trace"
            [admin]
            listen = "{address}"
            [services.intake]
            use = "file-in"
            out = "acts"
            config.path = "acts.jsonl"
            [services.leaky]
            in = "acts"
            config.token = "${{LEAKY_TOKEN}}"
            retry = {{ attempts = 2, backoff = {{ min = "10ms", max = "10ms" }} }}
            [services.never]
            use = "leaky"
            in = "acts"
            config = {{ token = "${{LEAKY_TOKEN}}", fail_start = true }}
            "#
        );
        std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        let acts = ["log", "fail", "reject", "panic"].map(|act| format!("{{\"act\":\"{act}\"}}\n"));
        std::fs::write(folder.path().join("acts.jsonl"), acts.concat()).expect("it can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_leaky"));
        command
            .args(["run", "app.toml"])
            .current_dir(folder.path())
            .env("LEAKY_TOKEN", SECRET);
        let mut process = Process::start(command, folder.path(), "it was just built");
        let mut texts = Vec::new();
        if runs {
            until("all dead letters are there", PATIENCE, || {
                let metrics = http::get(address, "/metrics")
                    .map_err(|e| e.to_string())?
                    .body;
                let letters = |reason: &str| {
                    metrics.contains(&format!(
                        "brickwork_dead_letters_total{{service=\"leaky\",reason=\"{reason}\"}} 1"
                    ))
                };
                if letters("error") && letters("reject") && letters("panic") {
                    Ok(())
                } else {
                    Err(metrics)
                }
            });
            for path in ["/metrics", "/api/app", "/health/ready", "/"] {
                texts.push(http::get(address, path).expect("it answers").body);
            }
            assert!(
                texts[1].contains("[redacted]"),
                "the failures are there, without it"
            );
            let mut kill = Command::new("kill");
            assert!(
                kill.arg(process.id().to_string())
                    .status()
                    .expect("kill runs")
                    .success()
            );
        }
        let code = process.exit_code(PATIENCE);
        assert_eq!(code, Some(if runs { 0 } else { 1 }));
        texts.extend(process.rest());
        let log = process.stderr();
        assert!(
            log.contains(if runs { "panicked" } else { "can't connect" }),
            "{log}"
        );
        texts.push(log);
        for text in texts {
            assert!(!text.contains(SECRET), "{text}");
            assert!(!text.contains("ssword-7f3a"), "{text}");
        }
    }
}

#[test]
fn no_secret_is_stored_in_a_dead_letter() {
    virtually(async {
        let manifest = format!(
            r#"
            [app]
            name = "leaky"
            transport = "memory:"
            [admin]
            listen = "off"
            [topics.acts]
            external = "in"
            [services.leaky]
            in = "acts"
            config.token = '{SECRET}'
            retry.attempts = 1
            "#
        );
        let folder = tempfile::tempdir().expect("a folder can be made");
        let catalog = Catalog::new().with::<Leaky>();
        let plan = plan(&manifest, &catalog, folder.path());
        let app = App::start(plan, &Transports::new(), Workers::Here, Clock::SYSTEM).await;
        let app = app.expect("it starts");
        for act in ["fail", "reject", "panic"] {
            let payload = format!("{{\"act\":\"{act}\"}}");
            let mut envelope = brickwork::Envelope::new("act", payload);
            envelope.topic = "acts".into();
            let (done, confirmed) = brickwork::transport::Completion::channel();
            app.transport()
                .publish(vec![brickwork::Message::from(envelope).into()], done);
            confirmed.await.expect("it is taken over");
        }
        app.idle().await;
        let letters = QueueId::dead_letters("leaky");
        let mut consumer = app
            .transport()
            .consume(&letters, 10)
            .await
            .expect("it is there");
        let mut taken = Default::default();
        take(&mut *consumer, &mut taken, 10)
            .await
            .expect("letters are there");
        assert_eq!(taken.len(), 3);
        for letter in taken {
            let text = format!("{:?}", letter.message());
            assert!(
                !text.contains(SECRET) && text.contains("[redacted]"),
                "{text}"
            );
            letter.ack();
        }
    });
}
