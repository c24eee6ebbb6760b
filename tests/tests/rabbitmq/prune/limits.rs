//! Resources that `prune` may not remove, and bindings to external exchanges.

use super::*;

#[test]
fn missing_permissions_are_named_and_the_rest_is_removed() {
    let broker = Broker::start();
    let mut site = Site::new(&broker);
    site.write("v1.toml", &manifest("rights", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("rights", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    broker.ctl(&["add_user", "clerk", "hunter2"]);
    let allow = |configure: &str, write: &str, read: &str| {
        broker.ctl(&["set_permissions", "clerk", configure, write, read])
    };
    site.url = format!("amqp://clerk:hunter2@127.0.0.1:{}", broker.port());
    // The user may not delete one of the queues.
    allow(r"^(?!rights\.old\.in).*$", ".*", ".*");
    let (code, left) = site.leftovers("prune", "v2.toml", &["--yes"]);
    assert_eq!(code, Some(1));
    let expected = [
        ("queue rights.old.dlq", "kept"),
        ("queue rights.old.in", "failed"),
        ("queue rights.old.suspect", "kept"),
    ];
    assert_eq!(fates(&left), expected, "{left:?}");
    assert!(
        left["queue rights.old.in"].1.contains("rights.old.in"),
        "{left:?}"
    );
    // The user may not even read the registry: `prune` reports that, and the app runs.
    allow(".*", ".*", r"^(?!rights\.ledger).*$");
    let check = site
        .command("check", "v2.toml", &["--connect"])
        .output()
        .expect("it runs");
    assert!(check.status.success(), "{}", said(&check));
    assert!(
        said(&check).contains("may not read the ledger"),
        "{}",
        said(&check)
    );
    let prune = site
        .command("prune", "v2.toml", &["--yes"])
        .output()
        .expect("it runs");
    assert_eq!(prune.status.code(), Some(1), "{}", said(&prune));
    assert!(said(&prune).contains("rights.ledger"), "{}", said(&prune));
    assert!(!said(&prune).contains("hunter2"), "{}", said(&prune));
    let log = site.run("v2.toml", &[]);
    assert!(
        log.contains("declarations were not recorded in the ledger"),
        "{log}"
    );
    // With all permissions, prune removes everything.
    allow(".*", ".*", ".*");
    let removed = site.prune("v2.toml", &["--yes"]);
    assert!(
        removed.values().all(|(fate, _)| fate == "removed"),
        "{removed:?}"
    );
    assert_eq!(site.check("v2.toml"), Left::new());
}

#[test]
fn a_transport_without_storage_has_no_stale_resources() {
    let site = Site {
        url: "memory:".into(),
        folder: tempfile::tempdir().expect("a folder can be made"),
    };
    site.write("app.toml", &manifest("memory", r#""numbers""#, ""));
    assert_eq!(site.prune("app.toml", &["--yes"]), Left::new());
    let text = site
        .command("prune", "app.toml", &[])
        .output()
        .expect("it runs");
    assert!(
        said(&text).contains("leaves nothing over"),
        "{}",
        said(&text)
    );
}

#[test]
fn an_unused_binding_to_an_external_exchange_is_stale() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let fed = "[topics.\"extra\"]\nexternal = \"in\"\n\
               from = { exchange = \"amq.topic\", key = \"their.#\" }\n";
    let reads = manifest("feeds", r#"["numbers", "extra"]"#, "");
    let own = "[topics.\"extra\"]\nexternal = \"both\"";
    assert!(reads.contains(own));
    site.write("v1.toml", &reads.replace(own, fed));
    site.write("v2.toml", &reads);
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v1.toml"), Left::new());
    let what = "binding of their.# from exchange amq.topic to queue feeds.keep.in";
    assert_eq!(fates(&site.check("v2.toml")), [(what, "removable")]);
    assert!(has(broker, "feeds", "amq.topic\ttheir.#"));
    assert_eq!(
        fates(&site.prune("v2.toml", &["--yes"])),
        [(what, "removed")]
    );
    assert!(!has(broker, "feeds", "amq.topic"));
    assert_eq!(site.check("v2.toml"), Left::new());
}

#[test]
fn a_changed_routing_key_makes_the_old_binding_stale_and_a_missing_exchange_is_no_obstacle() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let hand = Hand::on(broker);
    let exchange = |name: &'static str, delete: bool| {
        hand.runtime.block_on(async {
            let channel = hand.connection.create_channel().await.expect("a channel");
            let done = match delete {
                false => {
                    let (kind, options) = (lapin::ExchangeKind::Topic, Default::default());
                    let none = FieldTable::default();
                    channel
                        .exchange_declare(name.into(), kind, options, none)
                        .await
                }
                true => {
                    channel
                        .exchange_delete(name.into(), Default::default())
                        .await
                }
            };
            done.expect("the broker does it");
            channel.close(200, "done".into()).await.expect("it closes");
        });
    };
    exchange("legacy.one", false);
    exchange("legacy.two", false);
    let reads = manifest("rekeyed", r#"["numbers", "extra"]"#, "");
    let own = "[topics.\"extra\"]\nexternal = \"both\"";
    let fed = |from: &str, key: &str| {
        let fed = format!(
            "[topics.\"extra\"]\nexternal = \"in\"\n\
             from = {{ exchange = \"{from}\", key = \"{key}\" }}\n"
        );
        reads.replace(own, &fed)
    };
    site.write("v1.toml", &fed("legacy.one", "order.*"));
    site.write("v2.toml", &fed("legacy.one", "order.new"));
    site.write("v3.toml", &fed("legacy.two", "#"));
    site.run("v1.toml", &[]);
    site.run("v2.toml", &[]);
    let first = "binding of order.* from exchange legacy.one to queue rekeyed.keep.in";
    assert_eq!(fates(&site.check("v2.toml")), [(first, "removable")]);
    assert_eq!(
        fates(&site.prune("v2.toml", &["--yes"])),
        [(first, "removed")]
    );
    assert!(!has(broker, "rekeyed", "legacy.one\torder.*"));
    assert!(has(broker, "rekeyed", "legacy.one\torder.new"));
    // The registry entry is the only remainder of the second version.
    site.run("v3.toml", &[]);
    exchange("legacy.one", true);
    let second = "binding of order.new from exchange legacy.one to queue rekeyed.keep.in";
    assert_eq!(
        fates(&site.prune("v3.toml", &["--yes"])),
        [(second, "removed")]
    );
    assert_eq!(site.check("v3.toml"), Left::new());
    assert!(has(broker, "rekeyed", "legacy.two\t#"));
    exchange("legacy.two", true);
}
