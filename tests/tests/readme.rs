//! The README is right: its tables, links, commands and Rust code.

use std::process::Command;

use brickwork::manifest;
use brickwork_tests::binary::{brickwork, workspace};

fn readme() -> String {
    std::fs::read_to_string(workspace().join("README.md")).expect("there is a README")
}

/// Returns the rows of the table under a header.
fn table(header: &str) -> Vec<Vec<String>> {
    let text = readme();
    let after = text
        .split_once(header)
        .unwrap_or_else(|| panic!("a table {header}"))
        .1;
    let rows = after
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    })
    .collect()
}

#[test]
fn the_table_of_service_types_is_the_catalog() {
    let rows = table("| name | role | what it does |");
    let catalog = brickwork_actors::catalog();
    let expected: Vec<Vec<String>> = catalog
        .iter()
        .map(|entry| {
            let it = entry.describe();
            vec![
                format!("`{}`", it.name),
                it.role.to_owned(),
                it.summary.to_owned(),
            ]
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_table_of_codes_is_that_of_the_loader() {
    let rows = table("| code | meaning |");
    let expected: Vec<Vec<String>> = manifest::CODES
        .iter()
        .map(|(code, meaning)| vec![(*code).to_owned(), (*meaning).to_owned()])
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn every_service_type_is_described_with_all_that_a_user_needs() {
    for entry in brickwork_actors::catalog().iter() {
        let it = entry.describe();
        assert!(
            !it.summary.is_empty() && !it.example.is_empty(),
            "{}",
            it.name
        );
        assert!(!it.failures.is_empty(), "{}", it.name);
        let config = it.config.as_value();
        for (field, schema) in config["properties"].as_object().into_iter().flatten() {
            assert!(
                schema["description"].is_string(),
                "{}.{field} has no docs",
                it.name
            );
        }
    }
}

#[test]
fn every_link_leads_somewhere_and_every_test_that_is_named_is_there() {
    let text = readme();
    for part in text.split("](").skip(1) {
        let target = part.split(')').next().expect("split gives one");
        if target.starts_with("http") {
            continue;
        }
        let path = workspace().join(target);
        assert!(path.exists(), "{target}");
    }
    // `name`](tests/tests/file.rs)
    for part in text.split("](tests/tests/").collect::<Vec<_>>().windows(2) {
        let Some(name) = part[0]
            .strip_suffix('`')
            .and_then(|before| before.rsplit('`').next())
        else {
            continue;
        };
        let file = part[1].split(')').next().expect("split gives one");
        let source = std::fs::read_to_string(workspace().join("tests/tests").join(file));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            source.contains(&format!("fn {name}(")),
            "{name} is not in {file}"
        );
    }
}

#[test]
fn the_manifest_in_the_readme_has_nothing_wrong_but_its_service_type() {
    let text = readme();
    let manifest = text
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("app.toml");
    std::fs::write(&file, manifest.expect("there is one")).expect("it can be written");
    let output = Command::new(brickwork())
        .arg("check")
        .arg(&file)
        .arg("--json")
        .output();
    let output = output.expect("the binary runs");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    let problems = report["problems"].as_array().expect("a list");
    let codes: Vec<&str> = problems
        .iter()
        .map(|problem| problem["code"].as_str().expect("a code"))
        .collect();
    assert!(codes.contains(&"E030"), "{report}");
    for code in codes {
        // Without the type its ports are unknown, so the topics seem unused.
        assert!(["E030", "E044", "E045", "E047"].contains(&code), "{report}");
    }
}

#[test]
fn the_manifest_of_the_first_command_has_nothing_wrong() {
    let output = Command::new(brickwork())
        .args(["check", "examples/2-github-alerts/app.toml"])
        .current_dir(workspace())
        .output()
        .expect("the binary runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
}
