//! `examples/6-saas-sync` end to end, while its outside world fails by a script and the app is
//! killed: everything arrives, and nothing twice.

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brickwork_tests::process::until;
use brickwork_tests::seed::Seed;
use serde_json::Value;

use site::{PATIENCE, Row, Site, Tier};

/// Ids of events, by their fate.
struct Expected {
    /// Rows of the database.
    kept: BTreeSet<String>,
    /// Refused by the schema.
    refused: BTreeSet<String>,
    /// Their customer's profile is redirected to a private address.
    moved: BTreeSet<String>,
    /// Told in the chat.
    told: BTreeSet<String>,
    /// Payments, which are mailed.
    mailed: usize,
}

impl Expected {
    fn of(site: &Site) -> Self {
        let events = site.world("/expected");
        let events = events.as_array().expect("a list");
        let ids = |is_wanted: &dyn Fn(&Value) -> bool| {
            let wanted = events.iter().filter(|it| is_wanted(it));
            let id = |it: &Value| it["id"].as_str().expect("an id").to_owned();
            wanted.map(id).collect::<BTreeSet<_>>()
        };
        let is_valid = |it: &Value| it["valid"] == true;
        Self {
            kept: ids(&is_valid),
            refused: ids(&|it| !is_valid(it)),
            moved: ids(&|it| is_valid(it) && it["moved"] == true),
            told: ids(&|it| is_valid(it) && it["moved"] == false),
            mailed: ids(&|it| is_valid(it) && it["kind"] == "payment").len(),
        }
    }
}

/// Returns the ids of the events in the chat's posts, with the number of their posts.
fn told(site: &Site) -> BTreeMap<String, usize> {
    let posts = site.world("/chat");
    let events = posts.as_array().expect("a list").iter().flat_map(|post| {
        let events = post["events"].as_array().expect("events");
        events
            .iter()
            .map(|id| id.as_str().expect("an id").to_owned())
    });
    let mut told = BTreeMap::new();
    for id in events {
        *told.entry(id).or_default() += 1;
    }
    told
}

fn once(ids: &BTreeSet<String>) -> BTreeMap<String, usize> {
    ids.iter().map(|id| (id.clone(), 1)).collect()
}

fn count(rows: &[Row]) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for row in rows {
        *ids.entry(row.id.clone()).or_default() += 1;
    }
    ids
}

/// Returns the delay below which 99 of 100 rows are.
fn p99(delays: impl Iterator<Item = i64>) -> Duration {
    let mut delays: Vec<i64> = delays.collect();
    delays.sort_unstable();
    let at = delays.len().saturating_sub(1) * 99 / 100;
    Duration::from_millis(delays[at].try_into().unwrap_or(0))
}

/// Waits until all that is expected has arrived.
fn settle(site: &Site, expected: &Expected) {
    until("every event is in the database", PATIENCE, || {
        let rows = count(&site.rows()).len();
        let wanted = expected.kept.len();
        (rows >= wanted)
            .then_some(())
            .ok_or(format!("{rows} of {wanted}"))
    });
    until("every event is told", PATIENCE, || {
        let told = told(site).len();
        let wanted = expected.told.len();
        (told >= wanted)
            .then_some(())
            .ok_or(format!("{told} of {wanted}"))
    });
    until("every payment is mailed", PATIENCE, || {
        let mails = site.world("/mail").as_array().map_or(0, Vec::len);
        let wanted = expected.mailed;
        (mails >= wanted)
            .then_some(())
            .ok_or(format!("{mails} of {wanted}"))
    });
    until("every refused event is kept", PATIENCE, || {
        let refused = site.ids("out/refused.jsonl").len();
        let moved = site.ids("out/unreachable.jsonl").len();
        let wanted = (expected.refused.len(), expected.moved.len());
        ((refused, moved) == wanted)
            .then_some(())
            .ok_or(format!("{:?} of {wanted:?}", (refused, moved)))
    });
}

#[test]
fn everything_arrives_once_while_the_outside_fails_and_the_app_is_killed() {
    let tier = Tier::now();
    let seed = Seed::or(6);
    let mut random = seed.random();
    let site = Site::new(&tier);
    let mut app = site.app();
    let life = tier.seconds * 1000 / u64::from(tier.kills + 1);
    for _ in 0..tier.kills {
        // The kill comes at a random moment; the faults go on meanwhile.
        std::thread::sleep(Duration::from_millis(random.u64(life / 2..life)));
        // The drop kills it.
        drop(app);
        app = site.app();
    }
    site.all_sent(&tier);
    let expected = Expected::of(&site);
    settle(&site, &expected);
    let metrics = site.metrics();
    app.terminate();
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());

    let rows = site.rows();
    assert_eq!(count(&rows), once(&expected.kept), "the database");
    assert_eq!(told(&site), once(&expected.told), "the chat");
    let mails = site.world("/mail").as_array().map(Vec::len);
    assert_eq!(mails, Some(expected.mailed), "mails");
    assert_eq!(site.dead_letters(), [""; 0], "dead letters");
    let summary = site.world("/summary");
    println!("{summary}");
    // A token for each start, and one after all tokens were revoked.
    let tokens = summary["tokens"].as_u64().expect("a number");
    assert!(tokens <= u64::from(tier.kills) + 3, "{summary}");
    assert!(metrics.contains("brickwork_breaker_state"), "{metrics}");
    println!("database: p99 {:?}", p99(rows.iter().map(|row| row.delay)));
}
