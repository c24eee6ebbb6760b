//! The service type `schedule`, through the shipped binary: firings over `kill -9`, and the cost of
//! idle schedules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use brickwork_tests::parts;
use brickwork_tests::process::{Process, until};

const PATIENCE: Duration = Duration::from_secs(60);

fn write(folder: &Path, config: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "clock"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [services.clock]
        use = "schedule"
        out = "ticks"
        [services.clock.config]
        {config}
        [services.marked]
        use = "map"
        in = "ticks"
        out = "marked"
        config.to = {{ id = "meta.id", missed = "msg.missed" }}
        [services.keep]
        use = "file-out"
        in = "marked"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn run(folder: &Path) -> Process {
    parts::run(folder, folder, &[])
}

/// Returns the firings by the time in their ids, with the numbers of missed ones.
fn fired(folder: &Path) -> BTreeMap<String, BTreeSet<u64>> {
    let mut fired: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for value in parts::whole_lines(&folder.join("out.jsonl")) {
        let id = value["id"].as_str().expect("an id").to_owned();
        let missed = value["missed"].as_u64().expect("a number");
        fired.entry(id).or_default().insert(missed);
    }
    fired
}

fn wait_for(folder: &Path, count: usize) -> BTreeMap<String, BTreeSet<u64>> {
    until("firings", PATIENCE, || match fired(folder) {
        fired if fired.len() >= count => Ok(fired),
        fired => Err(format!("{} of {count}", fired.len())),
    })
}

#[test]
fn every_scheduled_time_fires_as_one_message_over_kills_and_stops() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    write(folder, "every = \"200ms\"\noverlap = \"buffer_all\"");
    let mut count = 0;
    for _ in 0..5 {
        let app = run(folder);
        count = wait_for(folder, count + 4).len();
        app.stop();
    }
    let _app = run(folder);
    let fired = wait_for(folder, count + 4);
    let mut times: Vec<String> = fired.keys().map(|id| time_of(id)).collect();
    times.sort();
    let seconds = times.iter().map(|time| {
        let seconds = time.rsplit(':').next();
        seconds.and_then(|text| text.parse().ok()).expect("seconds")
    });
    let seconds: Vec<f64> = seconds.collect();
    for pair in seconds.windows(2) {
        let distance = (pair[1] - pair[0] + 60.0) % 60.0;
        assert!(
            (distance - 0.2).abs() < 0.001,
            "a time is missing: {times:?}"
        );
    }
    for (id, missed) in &fired {
        assert_eq!(missed, &BTreeSet::from([0]), "{id}");
    }
}

/// Returns the time in an id, with milliseconds.
fn time_of(id: &str) -> String {
    let time = id.strip_prefix("clock@").expect("the service's name");
    let time = time.trim_end_matches('Z');
    match time.contains('.') {
        true => time.to_owned(),
        false => format!("{time}.000"),
    }
}

/// CPU time of a process in ticks of 10 ms.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    let times = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"));
    times.sum()
}

#[test]
fn ten_thousand_idle_schedules_cost_no_measurable_time() {
    /// The process is watched for this long.
    const WATCHED: Duration = Duration::from_secs(5);
    let measure = |count: u32| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let schedules = (0..count).map(|number| {
            let (minute, hour) = (number % 60, number % 24);
            format!("schedules.s{number} = {{ cron = \"{minute} {hour} 1 1 *\" }}\n")
        });
        let config: String = schedules.collect();
        // A schedule that fires says when the service works.
        write(
            folder.path(),
            &format!("{config}schedules.now = {{ every = \"1s\" }}"),
        );
        let app = run(folder.path());
        wait_for(folder.path(), 3);
        let saved = folder.path().join("data/positions/clock.json");
        until("the times of all schedules are known", PATIENCE, || {
            saved.exists().then_some(()).ok_or("no position".to_owned())
        });
        let before = ticks(&app);
        std::thread::sleep(WATCHED);
        ticks(&app) - before
    };
    let (one, many) = (measure(1), measure(10_000));
    println!("{one} ticks with one idle schedule, {many} with 10,000");
    assert!(
        many <= one + 15,
        "{one} ticks with one schedule, {many} with 10,000"
    );
}
