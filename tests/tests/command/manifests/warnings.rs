//! Warnings: settings that can't act, split groups, and rings of requests.

use std::process::Command;

use brickwork_tests::binary;

use super::*;

/// Returns the warnings of a manifest: code, line, and message.
fn warnings(only: &[&str], text: &str) -> Vec<(String, usize, String)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    fs::write(&file, text).unwrap();
    let options = Options {
        only: only.iter().map(|label| (*label).to_owned()).collect(),
        ..Options::default()
    };
    let transports = Transports::new().with(Checked);
    match manifest::load_with_warnings(&file, &options, &catalog(), &transports) {
        Err(report) => panic!("{report}"),
        Ok((_, warnings)) => {
            let row = |it: &manifest::Problem| (it.code.to_owned(), it.line, it.message.clone());
            warnings.problems().iter().map(row).collect()
        }
    }
}

fn assert_warned(found: &[(String, usize, String)], expected: &[(&str, &str)]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((code, _, message), (expected_code, part)) in found.iter().zip(expected) {
        assert!(
            code == expected_code && message.contains(part),
            "{part} is not in {message}"
        );
    }
}

const GROUP: &str = r#"
    [app]
    name = "warned"
    transport = "test://here"
    [services.count]
    out = "numbers"
    [services.first]
    use = "shout"
    in = "numbers"
    out = "shouted"
    [services.second]
    use = "shout"
    in = "numbers"
    out = "shouted"
    [topics.shouted]
    external = "out"
    [groups.both]
    services = ["first", "second"]
    strategy = "rest_for_one"
"#;

#[test]
fn a_manifest_whose_settings_all_act_has_no_warnings() {
    assert_warned(&warnings(&[], GROUP), &[]);
    assert_warned(&warnings(&["first", "second"], GROUP), &[]);
    assert_warned(&warnings(&["count"], GROUP), &[]);
}

#[test]
fn restart_settings_that_cannot_act_are_warned_of() {
    let more = r#"
        [services.count.restart]
        on_panic = "service"
        policy = "transient"
        [services.first.restart]
        policy = "temporary"
        max_restarts = 3
        within = "1m"
        on_give_up = "escalate"
        [services.second.restart]
        policy = "transient"
        max_restarts = 0
        within = "1m"
    "#;
    let expected = [
        ("W001", "`services.count.restart.on_panic` has no effect"),
        (
            "W001",
            "`services.first.restart.max_restarts` has no effect",
        ),
        ("W001", "`services.first.restart.within` has no effect"),
        ("W001", "`services.first.restart.on_give_up` has no effect"),
        ("W001", "`services.second.restart.policy` has no effect"),
        ("W001", "`services.second.restart.within` has no effect"),
    ];
    assert_warned(&warnings(&[], &(GROUP.to_owned() + more)), &expected);
}

#[test]
fn a_strategy_that_never_applies_is_warned_of() {
    let more = r#"
        [services.first.restart]
        policy = "temporary"
        [services.second.restart]
        on_give_up = "isolate"
    "#;
    let found = warnings(&[], &(GROUP.to_owned() + more));
    assert_warned(&found, &[("W001", "`groups.both.strategy` has no effect")]);
    let rootless = GROUP.replace("[groups.both]", "[supervision]");
    let rootless = rootless.replace("services = [\"first\", \"second\"]", "");
    let expected = [("W001", "`supervision.strategy` has no effect")];
    assert_warned(&warnings(&[], &rootless), &expected);
}

#[test]
fn a_group_that_is_split_over_processes_is_warned_of() {
    let found = warnings(&["count", "second"], GROUP);
    let part = "the group `both` is split over processes: `second` here, without `first`";
    assert_warned(&found, &[("W002", part)]);
}

#[test]
fn a_ring_of_requests_with_one_instance_each_is_warned_of() {
    let ring = |instances: u32| {
        format!(
            r#"
            [app]
            name = "ring"
            [services.count]
            out = "a"
            [services.first]
            use = "asker"
            in = "a"
            out = "b"
            instances = {instances}
            [services.second]
            use = "asker"
            in = "b"
            out = "a"
            instances = {instances}
            "#
        )
    };
    let found = warnings(&[], &ring(1));
    assert_warned(
        &found,
        &[("W003", "ask each other: `first` → `second` → `first`")],
    );
    assert_warned(&warnings(&[], &ring(2)), &[]);
    let chain = ring(1).replace(
        "out = \"a\"\n            instances",
        "out = \"c\"\n            instances",
    );
    let chain = chain
        + "[services.third]\nuse = \"asker\"\nin = \"c\"\nout = \"d\"\n[topics.d]\nexternal = \"out\"\n";
    assert_warned(&warnings(&[], &chain), &[]);
}

#[test]
fn check_prints_warnings_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[app]
name = "warned"
[services.log]
in = "lines"
restart = { policy = "temporary", max_restarts = 3 }
[topics.lines]
external = "in"
"#;
    fs::write(folder.path().join("app.toml"), text).unwrap();
    let check = |more: &[&str]| {
        let mut command = Command::new(binary::brickwork());
        let command = command.args(["check", "app.toml"]).args(more);
        let output = command.current_dir(folder.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, out, err) = check(&[]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "warned: 1 services, 1 warning\n")
    );
    assert!(
        err.starts_with("warning[W001]: `services.log.restart.max_restarts`"),
        "{err}"
    );
    let (code, out, err) = check(&["--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["problems"], serde_json::json!([]));
    let warning = &json["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["line"]),
        (&"W001".into(), &6.into())
    );
}

#[test]
fn run_logs_each_warning_once_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = r#"
        [app]
        name = "warned"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "out.jsonl"
        restart = { policy = "temporary", max_restarts = 3 }
    "#;
    fs::write(folder.path().join("app.toml"), manifest).unwrap();
    fs::write(folder.path().join("lines.jsonl"), "{}\n").unwrap();
    let mut run = Command::new(binary::brickwork());
    run.args(["run", "app.toml", "--until-idle"]);
    let output = run.current_dir(folder.path()).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let logged: Vec<_> = log.lines().filter(|line| line.contains("W001")).collect();
    let [line] = &logged[..] else {
        panic!("{log}");
    };
    assert!(line.contains("app.toml:14:"), "{line}");
    assert!(
        line.contains("`services.keep.restart.max_restarts` has no effect"),
        "{line}"
    );
}
