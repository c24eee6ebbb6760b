//! The registry of declared resources that `prune` reads.

use super::*;

#[test]
fn unknown_messages_in_the_registry_are_left_alone_and_do_no_harm() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("odd", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("odd", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    let hand = Hand::on(broker);
    let foreign = [
        "garbage",
        "brickwork ledger 2\nqueue new.format",
        // It names another app's resources and an invalid queue name.
        "brickwork ledger 1\nqueue old.in.more\nqueue ../x\nbind keep.in #\nqueue",
    ];
    for text in foreign {
        hand.publish("", "odd.ledger", text);
    }
    site.run("v2.toml", &[]);
    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(
        fates(&removed),
        [
            ("queue odd.old.dlq", "removed"),
            ("queue odd.old.in", "removed"),
            ("queue odd.old.suspect", "removed")
        ]
    );
    // The two invalid entries and the valid one.
    hand.until_ready("odd.ledger", 3);

    // The messages hide our own entry: the app runs and warns that it can't write.
    for _ in 0..100 {
        hand.publish("", "odd.ledger", "garbage");
    }
    let log = site.run("v1.toml", &[]);
    assert!(
        log.contains("declarations were not recorded in the ledger"),
        "{log}"
    );
    site.run("v1.toml", &[]);
    // The registry does not grow.
    hand.until_ready("odd.ledger", 103);
}

#[test]
fn a_deleted_registry_is_written_again_at_the_next_start() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("lost", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("lost", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    broker.ctl(&["delete_queue", "lost.ledger"]);
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v2.toml").len(), 3);
}

#[test]
fn processes_that_start_at_the_same_time_record_everything() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let processes = 6;
    let versions = (0..processes).map(|number| {
        let more = OLD.replace("old", &format!("old-{number}"));
        let file = format!("v{number}.toml");
        site.write(&file, &manifest("crowd", r#""numbers""#, &more));
        let data = format!("data-{number}.toml");
        site.write(&data, &format!("app.data = \"data-{number}\""));
        let own = site.path().join(number.to_string());
        std::fs::create_dir(&own).expect("a folder can be made");
        let more = ["--until-idle", "--with", &*data];
        Process::start(site.command("run", &file, &more), &own, "it was just built")
    });
    for mut process in versions.collect::<Vec<_>>() {
        assert_eq!(process.exit_code(PATIENCE), Some(0));
        let log = process.stderr();
        assert!(!log.contains("ledger"), "{log}");
    }
    site.write("now.toml", &manifest("crowd", r#""numbers""#, ""));
    let left = site.check("now.toml");
    assert_eq!(left.len(), 3 * processes, "{left:?}");
    // The next run compacts the registry into one message, however many there were.
    site.run("now.toml", &[]);
    Hand::on(broker).until_ready("crowd.ledger", 1);
    let again = site.check("now.toml");
    assert!(again.keys().eq(left.keys()), "{again:?}");
}

#[test]
fn a_killed_prune_can_be_repeated() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let services = 40;
    let more: String = (0..services)
        .map(|number| OLD.replace("old", &format!("old-{number:02}")))
        .collect();
    site.write("v1.toml", &manifest("cut", r#""numbers""#, &more));
    site.write("v2.toml", &manifest("cut", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v2.toml").len(), 3 * services);
    let own = site.path().join("killed");
    std::fs::create_dir(&own).expect("a folder can be made");
    let prune = site.command("prune", "v2.toml", &["--yes"]);
    let mut prune = Process::start(prune, &own, "it was just built");
    let hand = Hand::on(broker);
    while hand.ready("cut.old-10.in").is_some() {}
    let mut kill = Command::new("kill");
    kill.args(["-KILL", &prune.id().to_string()]);
    assert!(kill.status().expect("kill runs").success());
    assert_eq!(prune.exit_code(PATIENCE), None, "it was not done yet");
    // The broker requeues the registry entry when it notices the death.
    let left = until("the ledger is there again", PATIENCE, || {
        let left = site.check("v2.toml");
        (!left.is_empty()).then_some(left).ok_or_else(String::new)
    });
    assert!(left.len() < 3 * services, "some are gone: {}", left.len());
    println!("killed with {} of {} left", left.len(), 3 * services);
    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(removed.len(), left.len());
    assert!(
        removed.values().all(|(fate, _)| fate == "removed"),
        "{removed:?}"
    );
    assert_eq!(site.check("v2.toml"), Left::new());
    assert!(!has(broker, "cut", "cut.old"));
    hand.until_ready("cut.ledger", 1);
}

#[test]
fn looking_at_the_registry_keeps_it_whatever_delivery_limit_a_policy_sets() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("looked", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("looked", r#""numbers""#, ""));
    let hand = Hand::on(broker);
    site.run("v1.toml", &[]);
    hand.publish("", "looked.ledger", "brickwork ledger 2\nqueue new.format");
    let limit = r#"{"delivery-limit":0}"#;
    broker.ctl(&["set_policy", "looked", r"^looked\.ledger$", limit]);
    for _ in 0..3 {
        assert_eq!(site.check("v2.toml").len(), 3);
        assert_eq!(site.prune("v2.toml", &[]).len(), 3);
        site.run("v1.toml", &[]);
        hand.until_ready("looked.ledger", 2);
    }
}

#[test]
fn a_registry_that_can_t_be_written_at_the_start_is_written_later() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("later", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("later", r#""numbers""#, ""));
    site.run("v2.toml", &[]);
    let hand = Hand::on(broker);
    for _ in 0..100 {
        hand.publish("", "later.ledger", "garbage");
    }
    let command = site.command("run", "v1.toml", &[]);
    let app = Process::start(command, site.path(), "it was just built");
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let log = app.stderr();
    assert!(log.contains("declarations were not recorded"), "{log}");
    broker.ctl(&["purge_queue", "later.ledger"]);
    until("the app records its queues", PATIENCE, || {
        let left = site.check("v2.toml");
        (left.len() == 3).then_some(()).ok_or(format!("{left:?}"))
    });
    app.stop();
}
