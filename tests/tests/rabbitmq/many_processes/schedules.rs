//! A schedule fires once an app, also when another process takes over.

use std::collections::BTreeSet;

use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;

use super::site::{PATIENCE, Site};

const MANIFEST: &str = r#"
[app]
name = "schedules"
[services.clock]
use = "schedule"
out = "ticks"
config = { every = "250ms", overlap = "buffer_all" }
[services.marked]
use = "map"
in = "ticks"
out = "marked"
config.to = { id = "meta.id" }
[services.write]
use = "file-out"
in = "marked"
config.path = "out.jsonl"
"#;

/// Returns the times in the ids of all firings, in order, with milliseconds.
fn fired(site: &Site) -> BTreeSet<String> {
    let lines = site.lines("out.jsonl");
    let times = lines.iter().map(|line| {
        let id = line["id"].as_str().expect("an id");
        let time = id.strip_prefix("clock@").expect("the service's name");
        let time = time.trim_end_matches('Z');
        match time.contains('.') {
            true => time.to_owned(),
            false => format!("{time}.000"),
        }
    });
    times.collect()
}

/// Waits for this many more firings.
fn until_fired(site: &Site, more: usize) -> BTreeSet<String> {
    let goal = fired(site).len() + more;
    until("firings", PATIENCE, || match fired(site) {
        fired if fired.len() >= goal => Ok(fired),
        fired => Err(format!("{} of {goal}", fired.len())),
    })
}

#[test]
fn a_process_that_takes_over_fires_every_time_since_the_other_one_died() {
    let site = Site::new(&Broker::shared().url());
    site.write("app.toml", MANIFEST);
    let rest = site.start("rest", "app.toml", "marked,write");
    let first = site.start("first", "app.toml", "clock");
    until_fired(&site, 4);
    let second = site.start("second", "app.toml", "clock");
    second.until_state("clock", "standing by", PATIENCE);
    until_fired(&site, 4);
    assert_eq!(second.emitted("clock"), 0);
    first.kill();
    second.until_state("clock", "up", PATIENCE);
    until_fired(&site, 4);
    // The first process has an old position; the second one has fired since.
    let back = site.start("first", "app.toml", "clock");
    back.until_state("clock", "standing by", PATIENCE);
    second.stop();
    let fired = until_fired(&site, 4);
    let times: Vec<f64> = fired
        .iter()
        .map(|time| {
            let seconds = time.rsplit(':').next();
            seconds.and_then(|text| text.parse().ok()).expect("seconds")
        })
        .collect();
    for pair in times.windows(2) {
        let distance = (pair[1] - pair[0] + 60.0) % 60.0;
        assert!(
            (distance - 0.25).abs() < 0.001,
            "a time is missing: {fired:?}"
        );
    }
    back.stop();
    rest.stop();
}
