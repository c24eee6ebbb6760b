//! Tests of a scrape.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};

use super::{ALL, register};
use crate::dead_letter::Reason;
use crate::message::{Envelope, Message};
use crate::metrics::{AskOutcome, Cause, Outcome};
use crate::status::fixtures::{Fake, app};
use crate::transport::{Completion, Outgoing};

/// Returns the text of a scrape.
fn scrape(fake: &Fake) -> String {
    let registry = Registry::new();
    register(&registry, fake.view.clone()).unwrap();
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap()
}

/// Returns the samples by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series, value.parse().unwrap())
    });
    parsed.collect()
}

#[tokio::test]
async fn every_metric_of_the_table_exists_from_the_start_with_its_type_and_help() {
    let fake = app().await;
    fake.view.poll_depths().await;
    let text = scrape(&fake);
    // Those of entities are there for services of entities.
    let specs = ALL.iter();
    for spec in specs.filter(|spec| !spec.name.starts_with("brickwork_entities_")) {
        let kind = format!("{:?}", spec.kind).to_lowercase();
        let (name, help) = (spec.name, spec.help);
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
    }
    let samples = samples(&text);
    for outcome in Outcome::NAMES {
        let series = format!(
            "brickwork_messages_handled_total{{service=\"stock\",input=\"requests\",outcome=\"{outcome}\"}}"
        );
        assert_eq!(samples.get(&*series), Some(&0.0), "{series}");
    }
    for series in [
        "brickwork_build_info{version=\"0.1.0\"}",
        "brickwork_transport_up{transport=\"memory\"}",
        "brickwork_confirm_duration_seconds_count{transport=\"memory\"}",
    ] {
        assert_eq!(samples.get(series), Some(&1.0), "{series}");
    }
    for series in [
        "brickwork_sources_paused",
        "brickwork_transport_reconnects_total{transport=\"memory\"}",
        "brickwork_worker_lag_seconds{worker=\"1\"}",
        "brickwork_queue_messages{service=\"stock\",input=\"requests\"}",
        "brickwork_queue_messages{service=\"stock\",input=\"dlq\"}",
        "brickwork_service_up{service=\"stock\"}",
        "brickwork_restarts_total{service=\"intake\",reason=\"source\"}",
        "brickwork_mailbox_messages{service=\"stock\"}",
        "brickwork_keys_held{service=\"stock\"}",
        "brickwork_messages_behind_keys{service=\"stock\"}",
        "brickwork_messages_anonymous_total{service=\"stock\"}",
        "brickwork_outbox_messages{service=\"stock\"}",
        "brickwork_messages_repeated_total{service=\"stock\"}",
    ] {
        assert_eq!(samples.get(series), Some(&0.0), "{series}");
    }
    let group = "brickwork_group_restarts_total{group=\"sales\"}";
    assert_eq!(samples.get(group), Some(&2.0));
    assert!(text.contains("process_resident_memory_bytes "));
}

#[tokio::test]
async fn a_scrape_shows_what_was_counted() {
    let fake = app().await;
    fake.all_ready();
    let [intake, stock] = &fake.view.services[..] else {
        unreachable!()
    };
    let meters = &stock.hosted.meters;
    meters.handled(0, Outcome::Ok);
    meters.handled(0, Outcome::Ok);
    meters.handled(0, Outcome::Panic);
    meters.emitted(0, 3);
    meters.restarted(Cause::Panic);
    meters.dead_lettered(Reason::Timeout);
    meters.asked(AskOutcome::Failed);
    intake.hosted.meters.restarted(Cause::Source);
    let text = scrape(&fake);
    let samples = samples(&text);
    for (series, value) in [
        (
            "messages_handled_total{service=\"stock\",input=\"requests\",outcome=\"ok\"}",
            2.0,
        ),
        (
            "messages_handled_total{service=\"stock\",input=\"requests\",outcome=\"panic\"}",
            1.0,
        ),
        (
            "messages_emitted_total{service=\"stock\",output=\"reserved\"}",
            3.0,
        ),
        (
            "messages_emitted_total{service=\"intake\",output=\"out\"}",
            0.0,
        ),
        ("restarts_total{service=\"stock\",reason=\"panic\"}", 1.0),
        ("restarts_total{service=\"intake\",reason=\"source\"}", 1.0),
        (
            "dead_letters_total{service=\"stock\",reason=\"timeout\"}",
            1.0,
        ),
        ("asks_total{service=\"stock\",outcome=\"failed\"}", 1.0),
        ("service_up{service=\"stock\"}", 1.0),
        ("instances{service=\"stock\"}", 1.0),
    ] {
        let series = format!("brickwork_{series}");
        assert_eq!(samples.get(&*series), Some(&value), "{series}");
    }
}

#[tokio::test]
async fn a_message_for_a_full_queue_is_counted_as_a_dead_letter() {
    let fake = app().await;
    let letters = |reason: &str| {
        let series =
            format!("brickwork_dead_letters_total{{service=\"stock\",reason=\"{reason}\"}}");
        samples(&scrape(&fake)).get(&*series).copied()
    };
    assert_eq!(letters("overflow"), Some(0.0));
    let mut envelope = Envelope::new("order", "1");
    envelope.topic = "orders".into();
    let message = Message::from(envelope);
    let orders = std::iter::repeat_n(message, 12).map(Outgoing::from);
    let (done, confirmed) = Completion::channel();
    fake.transport.publish(orders.collect(), done);
    confirmed.await.unwrap();
    // Its limit is ten.
    assert_eq!(letters("overflow"), Some(2.0));
    assert_eq!(letters("error"), Some(0.0));
}

#[tokio::test]
async fn buckets_are_cumulated_and_the_last_one_equals_the_count() {
    let fake = app().await;
    let wait = &fake.view.services[1].hosted.meters.inputs[0].wait;
    for ms in [0, 1, 3, 3, 90_000] {
        wait.record(Duration::from_millis(ms));
    }
    let text = scrape(&fake);
    let samples = samples(&text);
    let of = |suffix: &str, bound: &str| {
        let series = format!(
            "brickwork_wait_duration_seconds{suffix}{{service=\"stock\",input=\"requests\"{bound}}}"
        );
        *samples.get(&*series).unwrap_or_else(|| panic!("{series}"))
    };
    for (bound, count) in [
        ("0.00001", 1.0),
        ("0.001", 2.0),
        ("0.005", 4.0),
        ("60", 4.0),
        ("+Inf", 5.0),
    ] {
        let bound = format!(",le=\"{bound}\"");
        assert_eq!(of("_bucket", &bound), count, "{bound}");
    }
    assert_eq!(of("_count", ""), 5.0);
    assert!((of("_sum", "") - 90.007).abs() < 1e-9);
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let fake = app().await;
    fake.view.poll_depths().await;
    let text = scrape(&fake);
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("SKIPPED: promtool is not installed: apt-get install prometheus");
        return;
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
