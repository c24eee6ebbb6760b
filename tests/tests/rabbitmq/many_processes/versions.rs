//! Two versions of a manifest at once: a service added, one removed, one renamed, an input that
//! reads other topics.

use std::collections::BTreeSet;

use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;

use super::site::{PATIENCE, Site, check_ids, numbers};

/// Returns a further sink of the results.
fn keeper(label: &str, topics: &str) -> String {
    format!(
        r#"
        [services.{label}]
        use = "file-out"
        in = {topics}
        config.path = "{label}.jsonl"
        "#
    )
}

fn kept(site: &Site, label: &str) -> BTreeSet<u64> {
    let lines = site.lines(&format!("{label}.jsonl"));
    lines.iter().filter_map(|line| line["n"].as_u64()).collect()
}

#[test]
fn two_versions_of_a_manifest_run_side_by_side_and_nothing_is_lost() {
    let broker = Broker::shared();
    let count = 4_000;
    // Each version in its own folder, as on two machines.
    let [first, second] = [0; 2].map(|_| numbers("versions", &broker.url(), count, 400));
    let same = first.read("app.toml");
    let gone = keeper("gone", r#""worked""#) + &keeper("before", r#""worked""#);
    first.write("app.toml", &(same.clone() + &gone));
    // `gone` is removed, `before` is renamed to `after`, `added` is new, and `keep` reads one
    // more topic.
    let added = keeper("added", r#""worked""#) + &keeper("after", r#""worked""#);
    let external = "[topics.\"more\"]\nexternal = \"in\"\n";
    let reads = same.replace(r#"in = "worked""#, r#"in = ["worked", "more"]"#);
    assert_ne!(reads, same);
    second.write("app.toml", &(reads + &added + external));

    let old = first.start("data", "app.toml", "");
    first.until_lines("out.jsonl", count / 20);
    let new = second.start("data", "app.toml", "");
    // Both versions handle the common services; the old one also handles those that only it has.
    new.until_state("lines", "standing by", PATIENCE);
    second.until_lines("out.jsonl", 100);
    second.until_lines("added.jsonl", 100);
    second.until_lines("after.jsonl", 100);
    let before = first.lines("gone.jsonl").len();
    first.until_lines("gone.jsonl", before + 100);
    assert!(old.is_ready() && new.is_ready());
    for part in [&old, &new] {
        let log = part.process.stderr();
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    }
    let written = first.lines("out.jsonl").len() + second.lines("out.jsonl").len();
    assert!(written < count, "all was done before the old one left");
    old.stop();

    // The new version takes the source over and finishes it.
    new.until_state("lines", "ended", PATIENCE);
    let all: BTreeSet<u64> = (0..count as u64).collect();
    let is_all = |what: &str, kept: &dyn Fn() -> BTreeSet<u64>| {
        until(what, PATIENCE, || match kept().len() {
            kept if kept == count => Ok(()),
            kept => Err(format!("{kept} of {count}")),
        });
        assert_eq!(kept(), all, "{what}");
    };
    is_all("the output that both versions have", &|| {
        &kept(&first, "out") | &kept(&second, "out")
    });
    // Messages from before the new services existed do not reach them; they get all later ones.
    is_all("the added service", &|| kept(&second, "added"));
    is_all("the renamed service", &|| kept(&second, "after"));
    new.stop();
    let lines: Vec<_> = first
        .lines("out.jsonl")
        .into_iter()
        .chain(second.lines("out.jsonl"))
        .collect();
    let again = check_ids(&lines, count);

    // Messages for services of the old version are kept for it.
    first.finish("data", "app.toml", "gone,before");
    assert_eq!(kept(&first, "gone"), all);
    assert_eq!(kept(&first, "before"), all);
    println!("{count} lines through two versions: lost 0, {again} again");
}
