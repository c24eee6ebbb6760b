//! Runs the guide and the README: every command, manifest, program and test case that stands in them. The descriptions of
//! service types are in `catalog`.
//!
//! Each chapter has a folder of its own. A comment before a block says what the test does with it:
//!
//! | comment | block |
//! | --- | --- |
//! | `<!-- file: NAME -->` | is written to the chapter's folder; a manifest is checked |
//! | `<!-- exit code: N -->` | commands that end with this code; the default is 0 |
//! | `<!-- test cases -->` | is read by `TestCases` |
//! | `<!-- Cargo.toml -->` | is read as TOML |
//!
//! Other TOML blocks are parts of manifests: `check` finds nothing wrong but the wiring that is missing. Rust blocks run
//! as documentation tests of this crate.

mod catalog;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use brickwork::dead_letters::TestCases;
use brickwork::manifest;
use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::broker::Broker;

/// Problems of a part of a manifest that follow from its being a part: missing feeders and readers.
const OF_PARTS: [&str; 3] = ["E044", "E045", "E047"];
/// The broker's address in the guide's commands.
const BROKER: &str = "amqp://guest:guest@127.0.0.1";

/// A fenced block with the comment before it.
struct Block {
    note: String,
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let note = before
                .strip_prefix("<!-- ")
                .and_then(|note| note.strip_suffix(" -->"));
            blocks.push(Block {
                note: note.unwrap_or_default().to_owned(),
                language: language.split(',').next().unwrap_or_default().to_owned(),
                text: body.join("\n") + "\n",
            });
        }
        before = line;
    }
    blocks
}

fn chapter(name: &str) -> String {
    let path = workspace().join("runtime/guide").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn chapters() -> Vec<(String, String)> {
    let folder =
        std::fs::read_dir(workspace().join("runtime/guide")).expect("the guide has a folder");
    let names = folder.map(|entry| entry.expect("the folder can be read").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (chapter(&name), name))
        .map(|(text, name)| (name, text))
        .collect()
}

/// Codes of the problems that `check` finds in a manifest.
fn problems(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("the manifest is there");
    let output = Command::new(brickwork())
        .arg("check")
        .arg(file)
        .arg("--json")
        .envs(text.split("${").skip(1).filter_map(variable))
        .output();
    let output = output.expect("the binary runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let problems = report["problems"].as_array().expect("a list of problems");
    let code = |problem: &serde_json::Value| problem["code"].as_str().expect("a code").to_owned();
    problems.iter().map(code).collect()
}

/// Returns the variable at the start of a text after `${`, with a value of its kind.
fn variable(text: &str) -> Option<(&str, &str)> {
    let (name, _) = text.split_once('}')?;
    let value = match name {
        _ if name.contains("DATABASE") => "postgres://app@127.0.0.1/app",
        _ if name.ends_with("URL") => "https://api.example.com",
        _ => "c2VjcmV0LW9mLXRoZS10ZXN0cw==",
    };
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_plain.then_some((name, value))
}

/// Writes the files of a chapter to its folder. Manifests get no admin endpoint: chapters run beside each other.
fn write_files(folder: &Path, blocks: &[Block]) {
    for block in blocks {
        let Some(name) = block.note.strip_prefix("file: ") else {
            continue;
        };
        let mut text = block.text.clone();
        if text.contains("[app]") && !text.contains("[admin]") {
            text.push_str("\n[admin]\nlisten = \"off\"\n");
        }
        std::fs::write(folder.join(name), text).expect("the file can be written");
    }
}

/// Runs a command of the guide as a reader would, with the shipped binary on the path.
fn run(folder: &Path, command: &str, broker: Option<&Broker>) -> Output {
    let command = match broker {
        Some(broker) => command.replace(BROKER, &broker.url()),
        None => command.to_owned(),
    };
    let binary = brickwork();
    let bin = binary.parent().expect("the binary is in a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("timeout")
        .args(["120", "sh", "-c", &command])
        .env("PATH", format!("{}:{path}", bin.display()))
        .current_dir(folder)
        .output()
        .expect("sh runs")
}

/// Commands that build or check Brickwork itself: the test looks whether what they name is there.
fn is_of_the_workspace(command: &str) -> bool {
    let root = workspace();
    let command = command.split(" #").next().unwrap_or_default().trim();
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["cargo", "build", "--release"] | ["cargo", "build", "--profile", "dist"] => true,
        ["cp", "target/dist/brickwork", _] => true,
        ["cargo", "bench", "-p", "brickwork-bench", "--bench", name] => {
            let folder = root.join("tests/bench/benches");
            assert!(
                folder.join(format!("{name}.rs")).exists() || folder.join(name).exists(),
                "{command}: there is no such benchmark"
            );
            true
        }
        [script @ ("tests/run" | ".ci/run"), options @ ..] => {
            let text = std::fs::read_to_string(root.join(script)).expect("the script is there");
            assert!(
                options.iter().all(|option| text.contains(option)),
                "{command}"
            );
            true
        }
        _ => false,
    }
}

/// Runs the commands of a block in order; lines between them are expected in the output of the command before.
fn run_commands(folder: &Path, block: &Block, broker: Option<&Broker>, name: &str) {
    let expected = block
        .note
        .strip_prefix("exit code: ")
        .map_or(0, |code| code.parse().expect("a number"));
    let mut output = String::new();
    let mut last = "";
    for line in block.text.lines() {
        let Some(command) = line.strip_prefix("$ ") else {
            assert!(
                output.lines().any(|shown| shown == line),
                "{name}: {last} does not print {line}, but\n{output}"
            );
            continue;
        };
        last = command;
        if is_of_the_workspace(command) {
            continue;
        }
        // Commands over the repository's own files run in it, all others in the chapter's folder.
        let place = if command.contains("examples/") {
            workspace()
        } else {
            folder
        };
        let ended = run(place, command, broker);
        output = String::from_utf8_lossy(&ended.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(
            ended.status.code(),
            Some(expected),
            "{name}: {command}\n{output}\n{errors}"
        );
    }
}

#[test]
fn every_command_of_the_guide_does_what_the_guide_says() {
    for (name, text) in chapters() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let blocks = blocks(&text);
        write_files(folder.path(), &blocks);
        let consoles: Vec<&Block> = blocks
            .iter()
            .filter(|block| block.language == "console")
            .collect();
        let broker = consoles
            .iter()
            .any(|block| block.text.contains(BROKER))
            .then(Broker::shared);
        for block in consoles {
            run_commands(folder.path(), block, broker, &name);
        }
    }
}

#[test]
fn every_manifest_of_the_guide_has_nothing_wrong_but_the_one_that_shows_a_mistake() {
    for (name, text) in chapters() {
        for block in blocks(&text)
            .iter()
            .filter(|block| block.language == "toml")
        {
            let folder = tempfile::tempdir().expect("a folder can be made");
            let file = folder.path().join("app.toml");
            match block.note.as_str() {
                "file: wrong.toml" | "file: b.toml" => {}
                "test cases" => {
                    let cases: TestCases = block
                        .text
                        .parse()
                        .unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!(!cases.cases.is_empty(), "{name}");
                }
                "Cargo.toml" => {
                    let table = block.text.parse::<toml::Table>();
                    assert!(table.is_ok(), "{name}: {table:?}");
                }
                note => {
                    let is_part = !note.starts_with("file: ");
                    assert_is_right(&name, &file, &block.text, is_part);
                }
            }
        }
    }
}

/// Checks a manifest, or a part of one: in a part, feeders and readers may be missing.
fn assert_is_right(name: &str, file: &Path, text: &str, is_part: bool) {
    let mut manifest = text.to_owned();
    if !manifest.contains("[app]") {
        manifest.insert_str(0, "[app]\nname = \"guide\"\n\n");
    }
    if !manifest.contains("[services.") {
        manifest.push_str("\n[services.watch]\nuse = \"log\"\nin = \"guide\"\n");
    }
    std::fs::write(file, manifest).expect("the file can be written");
    for code in problems(file) {
        assert!(
            is_part && OF_PARTS.contains(&code.as_str()),
            "{name}: {code} in\n{text}"
        );
    }
}

#[test]
fn the_first_command_of_the_readme_runs_a_manifest_without_mistakes() {
    let text = std::fs::read_to_string(workspace().join("README.md")).expect("there is a README");
    let blocks = blocks(&text);
    let first = blocks
        .iter()
        .find(|block| block.language == "console")
        .expect("the README has commands");
    let command = first
        .text
        .trim()
        .strip_prefix("$ cargo run --release -- run ");
    let manifest = command
        .and_then(|rest| rest.split(' ').next())
        .expect("the first command runs an app");
    assert_eq!(problems(&workspace().join(manifest)), Vec::<String>::new());
    for block in blocks
        .iter()
        .filter(|block| block.language == "console")
        .skip(1)
    {
        for line in block.text.lines() {
            let command = line.strip_prefix("$ ").expect("a command");
            assert!(is_of_the_workspace(command), "{command}");
        }
    }
}

#[test]
fn the_readme_is_short() {
    let text = std::fs::read_to_string(workspace().join("README.md")).expect("there is a README");
    assert!(
        text.len() <= 12 * 1024 && text.lines().count() <= 250,
        "{} bytes",
        text.len()
    );
}

#[test]
fn the_table_of_codes_is_the_table_of_the_loader() {
    let text = chapter("manifest.md");
    for codes in [manifest::CODES, manifest::WARNINGS] {
        let mut expected = String::new();
        for (code, meaning) in codes {
            writeln!(expected, "| {code} | {meaning} |").expect("a string takes text");
        }
        assert!(
            text.contains(&expected),
            "the table of runtime/guide/manifest.md must be\n{expected}"
        );
    }
}

#[test]
fn the_guide_lists_every_metric_with_its_labels() {
    let text = chapter("metrics.md");
    let source = workspace().join("runtime/src/status/collector.rs");
    let source = std::fs::read_to_string(source).expect("the metrics have a table");
    let rows: Vec<&str> = source
        .lines()
        .filter(|line| {
            [" COUNTER [", " GAUGE [", " HISTOGRAM ["]
                .iter()
                .any(|kind| line.contains(kind))
        })
        .collect();
    assert!(rows.len() > 10, "the table of metrics was not found");
    for row in rows {
        let name = row.split('"').nth(1).expect("a metric has a name");
        let labels = row.split(['[', ']']).nth(1).expect("a metric has labels");
        let labels = labels.replace('"', "`");
        let expected = format!("| `brickwork_{name}` | {labels} |").replace("|  |", "| |");
        assert!(
            text.replace("|  |", "| |").contains(&expected),
            "{expected}"
        );
    }
}

#[test]
fn every_link_leads_to_a_file_and_every_test_that_a_promise_names_exists() {
    let root = workspace();
    let mut documents = vec![(root.join("README.md"), root.to_owned())];
    documents.push((root.join("tests/PROMISES.md"), root.join("tests")));
    documents.push((root.join(".github/CONTRIBUTING.md"), root.join(".github")));
    documents.push((root.join(".github/SECURITY.md"), root.join(".github")));
    for (document, folder) in documents {
        let text = std::fs::read_to_string(&document).expect("the document is there");
        let parts: Vec<&str> = text.split("](").collect();
        for pair in parts.windows(2) {
            let target = pair[1].split(')').next().expect("split gives a part");
            if target.starts_with("http") {
                continue;
            }
            let path = folder.join(target);
            assert!(path.exists(), "{}: {target}", document.display());
            let test = pair[0]
                .strip_suffix('`')
                .and_then(|before| before.rsplit('`').next());
            if let Some(test) = test.filter(|_| target.ends_with(".rs")) {
                let source = std::fs::read_to_string(&path).expect("a source file");
                assert!(
                    source.contains(&format!("fn {test}(")),
                    "{test} is not in {target}"
                );
            }
        }
    }
    for (name, text) in chapters() {
        for line in text.lines() {
            // rustdoc resolves only definitions: see `guide.rs`.
            assert!(
                !line.contains(".md)") && !line.contains(".md#"),
                "{name}: {line}"
            );
            let Some((label, target)) = line
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("]: "))
            else {
                continue;
            };
            assert_eq!(format!("{label}.md"), target, "{name}");
            chapter(target);
        }
    }
}
