//! Runs the example and checks the output that its README promises.

use std::process::Command;

#[test]
fn three_people_are_greeted_and_the_empty_name_is_dead_lettered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/1-hello/");
    for file in ["app.toml", "names.jsonl"] {
        let copy = folder.path().join(file);
        std::fs::copy(format!("{example}{file}"), copy).expect("the file is copied");
    }
    let overlay = folder.path().join("test.toml");
    std::fs::write(&overlay, "[admin]\nlisten = \"off\"\n").expect("the overlay is written");
    let output = Command::new(env!("CARGO_BIN_EXE_hello"))
        .args(["run", "app.toml", "--with", "test.toml", "--until-idle"])
        .current_dir(folder.path())
        .output()
        .expect("the example runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let printed = String::from_utf8_lossy(&output.stdout);
    let greetings: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("Hello"))
        .collect();
    assert_eq!(
        greetings,
        [
            "Hello, Ada! You are number 1.",
            "Hello, Grace! You are number 2.",
            "Hello, Barbara! You are number 3.",
        ]
    );
    assert!(
        log.contains("the name is empty") && log.contains("dead-lettered"),
        "{log}"
    );
}
