//! The presets of the guide: each is run against a server that answers as the product does, and
//! its request is compared with that of the product's documentation.

mod products;
mod server;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::process::Process;
use serde_json::{Value, json};

use products::{PRODUCTS, Product};
use server::{Seen, Server};

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the manifests of the chapter, by their heading.
fn presets() -> BTreeMap<String, String> {
    let chapter = workspace().join("runtime/guide/presets.md");
    let chapter = std::fs::read_to_string(chapter).expect("the chapter is there");
    let mut presets = BTreeMap::new();
    let mut heading = String::new();
    let mut lines = chapter.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("### ") {
            name.clone_into(&mut heading);
        } else if line == "```toml" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            presets.insert(heading.clone(), block.join("\n"));
        }
    }
    presets
}

/// Leads a preset to the server of the test: its hosts, and the list of allowed ones.
fn redirected(preset: &str, server: &str) -> String {
    let lines = preset.lines().map(|line| match line {
        line if line.starts_with("config.allow") => format!("config.allow = [\"http://{server}\"]"),
        line => {
            let mut parts = line.split("https://");
            let mut redirected = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let path = part.find('/').expect("a URL has a path");
                redirected += &format!("http://{server}{}", &part[path..]);
            }
            redirected
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn check(product: &Product, seen: &Seen) {
    let name = product.name;
    assert_eq!(seen.method, product.method, "{name}");
    for (header, expected) in product.headers {
        let value = seen.headers.get(*header).map(String::as_str);
        assert_eq!(value, Some(*expected), "{name}: {header}");
    }
    match product.is_form {
        true => assert_eq!(seen.body, product.body, "{name}"),
        false => {
            let body: Value = serde_json::from_str(&seen.body).expect("the body is JSON");
            let expected: Value = serde_json::from_str(product.body).expect("JSON");
            assert_eq!(body, expected, "{name}");
        }
    }
}

#[test]
fn each_preset_sends_what_its_product_expects_and_emits_the_answer() {
    let server = Server::start();
    let presets = presets();
    let names: Vec<&str> = presets.keys().map(String::as_str).collect();
    let mut known: Vec<&str> = PRODUCTS.iter().map(|product| product.name).collect();
    known.sort_unstable();
    assert_eq!(names, known);
    let mut manifest = String::from(
        "[app]\nname = \"presets\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n\
         [services.news]\nuse = \"file-in\"\nout = \"news\"\nconfig.path = \"news.jsonl\"\n\
         [services.watch]\nuse = \"log\"\nin = [\"slack.answers\", \"teams.answers\"]\n\
         [services.keep]\nuse = \"file-out\"\nconfig.path = \"answers.jsonl\"\n",
    );
    let topics: Vec<&str> = PRODUCTS
        .iter()
        .filter_map(|product| product.topic)
        .collect();
    manifest += &format!("in = {topics:?}\n");
    for preset in presets.values() {
        manifest += &redirected(preset, &server.address.to_string());
        manifest.push('\n');
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let news = json!({
        "id": "n-7", "title": "Disk full", "text": "Disk /dev/sda1 is full",
        "email": "ada@example.com"
    });
    for (file, text) in [("app.toml", manifest), ("news.jsonl", format!("{news}\n"))] {
        std::fs::write(folder.path().join(file), text).expect("it can be written");
    }
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml", "--until-idle", "--fail-on-dlq"])
        .current_dir(folder.path());
    let mut app = Process::start(command, folder.path(), "it was just built");
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
    let seen = server.seen();
    for product in PRODUCTS {
        let found = seen.iter().find(|it| it.path == product.path);
        let all: Vec<&str> = seen.iter().map(|it| it.path.as_str()).collect();
        let found = found.unwrap_or_else(|| panic!("{}: not in {all:?}", product.name));
        check(product, found);
        // A repeated call to Stripe makes no second customer.
        let has_key = found.headers.contains_key("idempotency-key");
        assert_eq!(has_key, product.name == "Stripe", "{}", product.name);
    }
    let answers = std::fs::read_to_string(folder.path().join("answers.jsonl"));
    let mut answers: Vec<Value> = answers
        .expect("there are answers")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut expected: Vec<Value> = PRODUCTS
        .iter()
        .filter(|product| product.topic.is_some())
        .map(|product| serde_json::from_str(product.answer).expect("JSON"))
        .collect();
    answers.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(answers, expected);
    // Secrets are in no log line.
    let log = app.stderr();
    assert!(!log.contains("XXXX"), "{log}");
}
