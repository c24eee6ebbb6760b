//! One app in many processes: `run --only` in each, over RabbitMQ. A process that joins, leaves
//! or dies disturbs no other, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use brickwork_tests::binary::workspace;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::until;

mod hand_over;
mod hosts;
mod leases;
mod schedules;
mod site;
mod versions;

use site::{PATIENCE, Part, Site, check_ids, is_full, numbers, until_all_written};

const ALERTS: [&str; 3] = ["issues.jsonl", "checks.jsonl", "security.jsonl"];

/// Copies the example under another app name.
fn example(name: &str, broker: &Broker) -> Site {
    let site = Site::new(&broker.url());
    let example = workspace().join("examples/2-github-alerts");
    let text = std::fs::read_to_string(example.join("app.toml")).expect("it is there");
    let named = text.replacen("name = \"github-alerts\"", &format!("name = \"{name}\""), 1);
    assert_ne!(named, text);
    site.write("app.toml", &named);
    let deliveries = "github-webhooks.jsonl";
    std::fs::copy(example.join(deliveries), site.path().join(deliveries)).expect("it is copied");
    site
}

fn alerts(folder: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let sorted = |file: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    ALERTS
        .into_iter()
        .map(|file| (file, sorted(file)))
        .collect()
}

/// The parts: source and chaos; decisions; sinks.
const THIRDS: [(&str, &str); 3] = [
    ("first", "intake,weather"),
    ("second", "sort,issue-alert,check-alert,security-alert"),
    ("third", "keep-issues,keep-checks,keep-security"),
];

#[test]
fn the_example_gives_the_same_alerts_in_one_process_and_split_over_three() {
    let broker = Broker::shared();
    let whole = example("alerts-whole", broker);
    whole.finish("whole", "app.toml", "");
    let one = alerts(&whole.path().join("out"));
    let expected = workspace().join("examples/2-github-alerts/expected");
    assert_eq!(one, alerts(&expected));

    // All parts at once, the readers last.
    let split = example("alerts-split", broker);
    let parts = THIRDS.map(|(part, only)| split.start(part, "app.toml", only));
    let all: usize = one.values().map(Vec::len).sum();
    until("every alert is kept", PATIENCE, || {
        let kept: usize = alerts(&split.path().join("out"))
            .values()
            .map(Vec::len)
            .sum();
        (kept >= all)
            .then_some(())
            .ok_or_else(|| format!("{kept} of {all}"))
    });
    // In the order of the flow, so that each part has received all its messages.
    parts.into_iter().for_each(Part::stop);
    assert_eq!(alerts(&split.path().join("out")), one);
}

#[test]
fn every_process_declares_the_whole_app_so_that_later_ones_miss_nothing() {
    let broker = Broker::shared();
    let site = example("alerts-in-turn", broker);
    for (part, only) in THIRDS {
        // One part ends before the next one starts.
        site.finish(part, "app.toml", only);
        let queues = broker.ctl(&["list_queues", "name", "messages"]);
        let of_the_app = queues
            .lines()
            .filter(|line| line.starts_with("alerts-in-turn."));
        let queues: BTreeSet<&str> = of_the_app
            .filter_map(|line| line.split('\t').next())
            .collect();
        for queue in [
            "weather.in",
            "sort.in",
            "check-alert.in",
            "keep-security.in",
            "sort.dlq",
        ] {
            let name = format!("alerts-in-turn.{queue}");
            assert!(
                queues.contains(&*name),
                "{part} has not made {name}: {queues:?}"
            );
        }
    }
    let expected = workspace().join("examples/2-github-alerts/expected");
    assert_eq!(alerts(&site.path().join("out")), alerts(&expected));
}

/// Maximum unacked messages of a service with one instance: its mailbox and the one being
/// handled.
const UNSETTLED_MAX: usize = 64 + 1;

#[test]
fn a_process_that_joins_leaves_or_is_killed_under_load_disturbs_no_other() {
    let (count, rate) = if is_full() {
        (20_000, 1_500)
    } else {
        (6_000, 1_000)
    };
    let broker = Broker::shared();
    let site = numbers("competing", &broker.url(), count, rate);
    let ends = site.start("ends", "app.toml", "lines,keep,write");
    let steady = site.start("steady", "app.toml", "work");
    site.until_lines("out.jsonl", count / 20);

    let mut shares = Vec::new();
    let kills = 3;
    for turn in 0..kills {
        let joined = site.start(&format!("joined-{turn}"), "app.toml", "work");
        let until_handled = |wanted: u64| {
            until("it takes its share", PATIENCE, || {
                match joined.handled("work") {
                    handled if handled >= wanted => Ok(handled),
                    handled => Err(format!("{handled} of {wanted}")),
                }
            })
        };
        let (joined_at, steady_at) = (until_handled(50), steady.handled("work"));
        let share = until_handled(joined_at + 200) - joined_at;
        shares.push((share, steady.handled("work") - steady_at));
        // In the middle of the load.
        joined.kill();
    }
    // A process joins and leaves gracefully: that causes no duplicates.
    let guest = site.start("guest", "app.toml", "work");
    until("it takes its share", PATIENCE, || {
        match guest.handled("work") {
            handled if handled >= 100 => Ok(()),
            handled => Err(format!("{handled}")),
        }
    });
    guest.stop();
    assert!(
        site.read("out.jsonl").lines().count() < count,
        "the faults came after the load"
    );

    until_all_written(&site, count);
    until("the one that stayed has nothing left", PATIENCE, || {
        let queue = steady.service("work")["inputs"][0]["queue"].clone();
        let ready = queue["ready"].as_u64() == Some(0) && queue["in_flight"].as_u64() == Some(0);
        ready.then_some(()).ok_or_else(|| queue.to_string())
    });
    for part in [&ends, &steady] {
        let ready = http::get(part.admin, "/health/ready").expect("it lives");
        assert_eq!(ready.code, 200, "{}", ready.body);
        let log = part.process.stderr();
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    }
    ends.stop();
    steady.stop();
    let again = check_ids(&site.lines("out.jsonl"), count);
    assert!(again <= kills * UNSETTLED_MAX, "{again} copies");
    println!(
        "{count} lines, {kills} kills: lost 0, {again} handled again; shares of the joined and the first process: {shares:?}"
    );
    for (joined, stayed) in shares {
        let fair = 0.1..10.0;
        let ratio = joined as f64 / stayed.max(1) as f64;
        assert!(fair.contains(&ratio), "{joined} to {stayed}");
    }
}
