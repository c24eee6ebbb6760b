//! The rules and mappings of the example `2-github-alerts`, applied to its deliveries without
//! running it, give the alerts in `expected/`. Another program made those.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use brickwork::{Envelope, Message};
use brickwork_actors::{MapConfig, RouteConfig, Scope};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn file(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/2-github-alerts");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn config<C: DeserializeOwned>(manifest: &Value, service: &str) -> C {
    serde_json::from_value(manifest["services"][service]["config"].clone()).unwrap()
}

/// The deliveries as the service `intake` emits them.
fn deliveries() -> Vec<Message> {
    let lines = file("github-webhooks.jsonl");
    let message = |line| {
        let value: Value = serde_json::from_str(line).unwrap();
        let kind = value["event"].as_str().unwrap().to_owned();
        Envelope::new(kind, value["payload"].to_string()).into()
    };
    lines.lines().map(message).collect()
}

#[test]
fn the_rules_and_mappings_of_the_example_give_the_expected_alerts() {
    let manifest: Value = toml::from_str(&file("app.toml")).unwrap();
    let sort: RouteConfig = config(&manifest, "sort");
    let maps: BTreeMap<&str, MapConfig> = [
        ("issues", config(&manifest, "issue-alert")),
        ("checks", config(&manifest, "check-alert")),
        ("security", config(&manifest, "security-alert")),
    ]
    .into();
    let mut alerts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let deliveries = deliveries();
    assert_eq!(deliveries.len(), 329);
    for message in &deliveries {
        let mut scope = Scope::new(message, 1);
        let rule = sort
            .rules
            .iter()
            .find(|rule| rule.when.holds(&mut scope).unwrap());
        let Some(rule) = rule else { continue };
        let (name, map) = maps.get_key_value(rule.to.as_str()).unwrap();
        let alert: serde_json::Map<String, Value> = map
            .to
            .iter()
            .map(|(field, expression)| {
                let json = expression.json(&mut scope).unwrap();
                (field.clone(), serde_json::from_str(&json).unwrap())
            })
            .collect();
        let alert = Value::from(alert).to_string();
        alerts.entry(name).or_default().push(alert);
    }
    assert_eq!(alerts.len(), 3);
    for (name, mut alerts) in alerts {
        alerts.sort();
        let expected = file(&format!("expected/{name}.jsonl"));
        assert_eq!(alerts.join("\n"), expected.trim_end(), "{name}");
    }
}
