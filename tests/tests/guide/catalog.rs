//! The descriptions of the service types: complete, right and tested.

use brickwork_tests::binary::workspace;

use super::assert_is_right;

#[test]
fn the_readme_names_every_service_type() {
    let text = std::fs::read_to_string(workspace().join("README.md")).expect("there is a README");
    for entry in brickwork_actors::catalog().iter() {
        let name = entry.describe().name;
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_service_type_is_described_with_summary_example_failures_and_documented_config() {
    for entry in brickwork_actors::catalog().iter() {
        let it = entry.describe();
        assert!(
            !it.summary.is_empty() && !it.example.is_empty() && !it.failures.is_empty(),
            "{}",
            it.name
        );
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
fn the_example_of_every_service_type_is_right() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for entry in brickwork_actors::catalog().iter() {
        let it = entry.describe();
        let file = folder.path().join("app.toml");
        assert_is_right(it.name, &file, it.example, true);
        assert!(
            it.example.contains(&format!("use = \"{}\"", it.name)),
            "{}",
            it.name
        );
    }
}

/// Returns the tests and the documents that tests run, each with its path.
fn tested_texts() -> Vec<(String, String)> {
    let mut folders: Vec<_> = ["tests", "examples", "actors", "runtime/guide"]
        .map(|folder| workspace().join(folder))
        .into();
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            if path.is_dir() {
                if !["target", "node_modules", "venv"].contains(&name) {
                    folders.push(path);
                }
                continue;
            }
            if ![".rs", ".toml", ".md"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("the file is UTF-8");
            // Of the code of a service type, its tests alone count.
            let text = match path.strip_prefix(workspace().join("actors/src")) {
                Ok(inner) if !inner.to_string_lossy().contains("tests") => text
                    .split_once("#[cfg(test)]")
                    .map_or_else(String::new, |(_, tests)| tests.to_owned()),
                _ => text,
            };
            texts.push((path.to_string_lossy().into_owned(), text));
        }
    }
    texts
}

#[test]
fn every_config_key_that_is_described_is_used_by_a_test() {
    let texts = tested_texts();
    let mut unused = Vec::new();
    for entry in brickwork_actors::catalog().iter() {
        let it = entry.describe();
        let config = it.config.as_value();
        for (key, _) in config["properties"].as_object().into_iter().flatten() {
            let key_used = regex::Regex::new(&format!(r#"(\b|\\n){key}\b(\.[a-z_]+)*"?\s*[=:]"#));
            let key_used = key_used.expect("keys are words");
            let folder = it.name.replace('-', "_");
            let used = |(path, text): &(String, String)| {
                (text.contains(it.name) || path.contains(&folder)) && key_used.is_match(text)
            };
            if !texts.iter().any(used) {
                unused.push(format!("{}.{key}", it.name));
            }
        }
    }
    assert!(unused.is_empty(), "no test uses {unused:?}");
}
