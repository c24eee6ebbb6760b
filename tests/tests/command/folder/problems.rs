//! Problems of a folder: damage, a full disk, a read-only disk.

use super::*;

/// Overwrites a page of a file, counted from 1, with garbage.
fn damage(file: &Path, page: usize) {
    let mut bytes = std::fs::read(file).expect("a file");
    bytes[(page - 1) * PAGE..page * PAGE].fill(0xa5);
    std::fs::write(file, &bytes).expect("it can be written");
}

/// Returns the text of the one problem that `check --connect` reports.
fn problem(site: &Site, more: &[&str]) -> String {
    let (code, transport) = site.look("v1.toml", more);
    assert_eq!(code, Some(1), "{transport}");
    let problems = transport["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{transport}");
    assert_ne!(problems[0]["help"], "");
    problems[0].to_string()
}

#[test]
fn each_problem_is_named_with_its_remedy_and_nothing_is_changed() {
    let site = Site::new();
    // The folder of another app.
    site.write("theirs.toml", &manifest("theirs", ""));
    site.run("theirs.toml");
    // The owner of the queues alone: positions have an owner, too.
    std::fs::remove_dir_all(site.path().join("data")).expect("the positions go");
    let before = site.files();
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("the app theirs"), "{said_of_it}");
    assert!(said_of_it.contains("folder of its own"), "{said_of_it}");
    let prune = site.output("prune", "v1.toml", &["--yes", "--with-messages"]);
    assert_eq!(prune.status.code(), Some(1), "{}", said(&prune));
    assert!(said(&prune).contains("the app theirs"), "{}", said(&prune));
    assert!(site.files() == before, "the files are unchanged");

    // Recorded damage, a damaged page, a later version, a file that is no database.
    let app = "UPDATE app SET name = 'shop'";
    let noted = format!("{app}; INSERT INTO damaged VALUES ('message 17', 'it is short', 1)");
    Queues::vandalise(&site.queues(), &noted);
    let said_of_it = problem(&site, &[]);
    assert!(
        said_of_it.contains("message 17: it is short"),
        "{said_of_it}"
    );
    let later = "DELETE FROM damaged;
                 INSERT INTO brickwork_migration VALUES ('queues', 99, 'more', '', 0)";
    Queues::vandalise(&site.queues(), later);
    let said_of_it = problem(&site, &[]);
    assert!(
        said_of_it.contains("is it an older version?"),
        "{said_of_it}"
    );
    let now = "DELETE FROM brickwork_migration WHERE step = 99";
    Queues::vandalise(&site.queues(), now);
    let (code, transport) = site.look("v1.toml", &[]);
    assert_eq!(code, Some(0), "{transport}");
    let file = site.queues().join("queues.sqlite");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'suspect'";
    damage(&file, site.kept().count(root) as usize);
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("damaged"), "{said_of_it}");
    std::fs::write(&file, "no database\n".repeat(1_000)).expect("it can be written");
    let before = site.files();
    let said_of_it = problem(&site, &[]);
    assert!(said_of_it.contains("not a database"), "{said_of_it}");
    assert!(said_of_it.contains("put a copy back"), "{said_of_it}");
    assert!(site.files() == before, "the files are unchanged");

    // The path isn't a folder.
    let said_of_it = problem(&site, &["--transport", "embedded:numbers.jsonl"]);
    assert!(said_of_it.contains("is no folder"), "{said_of_it}");
    let said_of_it = problem(&site, &["--transport", "embedded:numbers.jsonl/queues"]);
    assert!(said_of_it.contains("is no folder"), "{said_of_it}");
}

#[test]
fn a_full_or_read_only_disk_is_named() {
    let Some(disk) = Disk::mount(64) else {
        return;
    };
    let site = Site::new();
    let url = format!("embedded:{}", disk.path().join("queues").display());
    let there = ["--transport", &*url];
    assert_eq!(site.look("v1.toml", &there).0, Some(0));
    let ballast = disk.fill();
    let said_of_it = problem(&site, &there);
    assert!(
        said_of_it.contains("its disk has 0 B left, and 12.0 MiB"),
        "{said_of_it}"
    );
    std::fs::remove_file(ballast).expect("it goes");
    let run = site.output("run", "v2.toml", &[&["--until-idle"], &there[..]].concat());
    assert!(run.status.success(), "{}", said(&run));
    disk.read_only(true);
    let (code, transport) = site.look("v1.toml", &there);
    assert_eq!(code, Some(1), "{transport}");
    let problems = transport["problems"].to_string();
    assert!(problems.contains("can't be written"), "{problems}");
    assert!(problems.contains("let the user of the app"), "{problems}");
    assert_eq!(
        transport["missing"].as_array().map(Vec::len),
        Some(2),
        "{transport}"
    );
    let prune = site.output("prune", "v1.toml", &[&["--yes"], &there[..]].concat());
    assert!(
        prune.status.success(),
        "there is nothing to remove: {}",
        said(&prune)
    );
    disk.read_only(false);
    // Prune needs disk space and takes it from the reserve file.
    let run = site.output("run", "v1.toml", &[&["--until-idle"], &there[..]].concat());
    assert!(run.status.success(), "{}", said(&run));
    disk.fill();
    let prune = ["--yes", "--with-messages", "--json"];
    let prune = site.output("prune", "v2.toml", &[&prune, &there[..]].concat());
    assert!(prune.status.success(), "{}", said(&prune));
    let removed = left(&json(&prune)["leftovers"]);
    assert!(
        removed.iter().all(|(_, _, fate)| fate == "removed"),
        "{removed:?}"
    );
}

#[test]
fn prune_keeps_the_queue_with_the_damaged_page_and_removes_the_others() {
    let site = Site::new();
    site.run("v1.toml");
    let file = site.queues().join("queues.sqlite");
    // Damages a page between the letters.
    damage(&file, site.bytes() as usize / PAGE / 2);
    let output = site.output("prune", "v2.toml", &["--yes", "--with-messages", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let failed = &json(&output)["leftovers"];
    let fates: Vec<_> = left(failed).into_iter().map(|(_, _, fate)| fate).collect();
    assert_eq!(fates, ["failed", "removed"], "{failed}");
    assert!(
        failed[0]["why"].to_string().contains("is damaged"),
        "{failed}"
    );
}
