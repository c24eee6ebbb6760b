//! External queues and exchanges that are missing, forbidden or removed.

use super::*;

#[test]
fn missing_and_forbidden_resources_are_named_before_the_app_runs() {
    let broker = Broker::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stranger = runtime.block_on(Stranger::connect_to(&broker.url()));
    let exchange = r#"{ exchange = "legacy.events", key = "order.*" }"#;
    let missing = |from: &str, what: &str| {
        let app = App::new(&broker, "seeker", from, "fail = 0.0");
        let output = app.output(&["run", "app.toml", "--until-idle"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&format!("can't use the {what}: it isn't there")),
            "{text}"
        );
        let checked = app.json(&["check", "app.toml", "--connect", "--json"]);
        let problems = checked["transport"]["problems"].as_array().cloned();
        let problems = problems.expect("a list");
        assert_eq!(problems.len(), 1, "{checked}");
        assert_eq!(problems[0]["what"], what);
        assert!(problems[0]["why"].to_string().contains("isn't there"));
    };
    missing(r#"{ queue = "legacy.orders" }"#, "queue legacy.orders");
    missing(exchange, "exchange legacy.events");

    runtime.block_on(stranger.queue("legacy.orders", "classic"));
    let declared = stranger.channel.exchange_declare(
        "legacy.events".into(),
        ExchangeKind::Topic,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    runtime.block_on(declared).expect("it declares");
    broker.ctl(&["add_user", "reader", "hunter2"]);
    let queue = r#"{ queue = "legacy.orders" }"#;
    let lacks = |from: &str, what: &str, right: &str, rights: [&str; 3]| {
        let [configure, write, read] = rights;
        broker.ctl(&["set_permissions", "reader", configure, write, read]);
        let mut app = App::new(&broker, "seeker", from, "fail = 0.0");
        app.url = app.url.replace("guest:guest", "reader:hunter2");
        let output = app.output(&["run", "app.toml", "--until-idle"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let name = what.split(' ').next_back().expect("a name");
        assert!(text.contains(name) && text.contains("right"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let checked = app.json(&["check", "app.toml", "--connect", "--json"]);
        let problems = checked["transport"]["problems"].as_array().cloned();
        let problems = problems.expect("a list");
        assert_eq!(problems.len(), 1, "{checked}");
        assert!(what.ends_with(problems[0]["what"].as_str().expect("a text")));
        assert!(problems[0]["why"].to_string().contains(right), "{checked}");
    };
    let all = ".*";
    lacks(
        queue,
        "queue legacy.orders",
        "right to read",
        [all, all, "^seeker.*"],
    );
    lacks(
        exchange,
        "exchange legacy.events",
        "right to read",
        [all, all, "^seeker.*"],
    );
    // The user may only read the queue, and write only to the app's own resources.
    let rights = [
        "^seeker.*",
        r"^(seeker.*|amq\.default)$",
        r"^(seeker.*|legacy.*)$",
    ];
    let [configure, write, read] = rights;
    broker.ctl(&["set_permissions", "reader", configure, write, read]);
    runtime.block_on(fill(&stranger, "", "legacy.orders", 20));
    let mut app = App::new(&broker, "seeker", queue, "fail = 0.3");
    app.url = app.url.replace("guest:guest", "reader:hunter2");
    let checked = app.json(&["check", "app.toml", "--connect", "--json"]);
    assert_eq!(checked["transport"]["problems"], json!([]), "{checked}");
    app.runs_until_idle();
    assert_eq!(app.kept().len(), 20);
}

#[tokio::test]
async fn an_external_queue_that_disappears_stops_only_its_reader_until_it_is_back() {
    let broker = Broker::start();
    let stranger = Stranger::connect_to(&broker.url()).await;
    stranger.queue("legacy.orders", "classic").await;
    let from = r#"{ queue = "legacy.orders" }"#;
    let app = App::new(&broker, "keeper", from, "fail = 0.0");
    let admin = free_address();
    let over = format!("admin.listen = \"{admin}\"\n[topics.through]\nexternal = \"in\"");
    std::fs::write(app.folder.path().join("admin.toml"), over).expect("it can be written");
    let _running = Process::start(
        app.command(&["run", "app.toml", "--with", "admin.toml"]),
        app.folder.path(),
        "it is built",
    );
    let ready = |code: u16, part: &str| {
        until("readiness tells the truth", PATIENCE, || {
            match http::get(admin, "/health/ready") {
                Ok(answer) if answer.code == code && answer.body.contains(part) => Ok(()),
                Ok(answer) => Err(format!("{}: {}", answer.code, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        });
    };
    ready(200, "");
    let options = lapin::options::QueueDeleteOptions::default();
    let deleted = stranger
        .channel
        .queue_delete("legacy.orders".into(), options);
    deleted.await.expect("it deletes");
    ready(503, "weather");
    // The other services continue, also after a reconnect.
    fill(&stranger, "keeper", "through", 3).await;
    until("they are kept", PATIENCE, || match app.kept().len() {
        3 => Ok(()),
        other => Err(other.to_string()),
    });
    broker.ctl(&["close_all_connections", "a test closes them"]);
    let stranger = Stranger::connect_to(&broker.url()).await;
    fill(&stranger, "keeper", "through", 5).await;
    until("they are kept", PATIENCE, || match app.kept().len() {
        5 => Ok(()),
        other => Err(other.to_string()),
    });
    ready(503, "weather");
    stranger.queue("legacy.orders", "quorum").await;
    fill(&stranger, "", "legacy.orders", 8).await;
    ready(200, "");
    until("they are kept", PATIENCE, || match app.kept().len() {
        8 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn on_memory_external_sources_are_ignored_and_the_app_runs() {
    for from in [
        r#"{ queue = "legacy.orders" }"#,
        r#"{ exchange = "legacy.events", key = "order.*" }"#,
    ] {
        let mut app = App::new(Broker::shared(), "alone", from, "fail = 0.0");
        app.url = "memory:".into();
        app.runs_until_idle();
        assert!(app.kept().is_empty());
        let checked = app.output(&["check", "app.toml", "--connect"]);
        assert!(checked.status.success(), "{}", said(&checked));
    }
}

#[tokio::test]
async fn the_app_only_adds_a_binding_to_an_external_exchange() {
    let broker = Broker::start();
    let stranger = Stranger::connect_to(&broker.url()).await;
    let declared = stranger.channel.exchange_declare(
        "legacy.events".into(),
        ExchangeKind::Topic,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.expect("it declares");
    stranger.queue("legacy.audit", "classic").await;
    let bound = stranger.channel.queue_bind(
        "legacy.audit".into(),
        "legacy.events".into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("it binds");
    let from = r#"{ exchange = "legacy.events", key = "order.*" }"#;
    let app = App::new(&broker, "binder", from, "fail = 0.0");
    app.runs_until_idle();
    let rows = broker.ctl(&[
        "list_bindings",
        "source_name",
        "destination_name",
        "routing_key",
    ]);
    let mut there: Vec<&str> = rows
        .lines()
        .filter(|row| row.starts_with("legacy.events"))
        .collect();
    there.sort_unstable();
    assert_eq!(
        there,
        [
            "legacy.events\tbinder.weather.in\torder.*",
            "legacy.events\tlegacy.audit\t#"
        ]
    );
    // The other services still get their messages.
    fill(&stranger, "legacy.events", "order.new", 5).await;
    app.runs_until_idle();
    assert_eq!(app.kept().len(), 5);
    assert_eq!(messages(&broker, "legacy.audit"), "5");
}
